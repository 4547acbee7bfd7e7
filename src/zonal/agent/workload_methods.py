"""The host's calls on workloads: parameters are checked here, the work is done elsewhere."""

from __future__ import annotations

from zonal.agent import cgroups, configuration
from zonal.agent.json_text import to_json
from zonal.agent.oci import add_devices, has_own_namespace, list_in, map_in, set_user
from zonal.agent.params import CallError
from zonal.agent.processes import send_signal
from zonal.agent.workloads import StreamNumbers, Workload

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zonal.agent.agent import Agent
    from zonal.agent.link import Call
    from zonal.agent.params import Params
    from zonal.agent.protocol.cbor import Value
    from zonal.agent.user_namespace import IdMaps

MAX_WORKLOADS = 64
"""So many, each with three streams, fit into HELLO."""
_MAX_STREAM = 0xFFFFFFFF
_MAX_TERMINAL = 0xFFFF  # struct winsize has unsigned shorts
_MAX_SIGNAL = 64
_OF_WORKLOAD = "workload:"


class WorkloadMethods:
    """``table`` gives the handler of each method; handlers raise ``CallError`` or answer the call, now or later."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._roots: dict[str, str] = {}
        self._ids: dict[str, IdMaps] = {}
        """Of the roots that are for a user namespace."""
        self._disks: dict[str, tuple[str, str]] = {}
        """What is attached and can have its files' ids mapped: where it is mounted, and for which root."""
        self.table: dict[str, Callable[[Call, Params], None]] = {
            "run": self._run,
            "exec": self._exec,
            "signal": self._signal,
            "freeze": self._freeze,
            "limit": self._limit,
            "resize": self._resize,
            "forget": self._forget,
            "list": self._list,
            "statistics": self._statistics,
        }

    def _run(self, call: Call, params: Params) -> None:
        name, config = self._new_name(params), params.map("config")
        root = self._root(params.name("root"))
        process, linux = map_in(config, "process"), map_in(config, "linux")
        cgroup = linux.setdefault("cgroupsPath", f"/zonal/{name}")
        if not isinstance(cgroup, str) or not cgroup.startswith("/") or not cgroup.strip("/") or ".." in cgroup:
            raise CallError("invalid", f"cgroupsPath {cgroup!r}")
        map_in(config, "root")["path"] = root
        add_devices(config, params)
        self._join_namespaces(linux)
        if ids := self._ids_of(root):
            self._map_disks(params.name("root"), ids, process)
        set_user(process, root, params)
        wanted = self._wanted(params, process)
        agent = self._agent
        workload = Workload(agent.loop, agent.reaper, name, name, root, cgroup, alone=has_own_namespace(linux, "pid"))
        self._start(call, workload, workload.start_container, config, wanted)

    def _join_namespaces(self, linux: dict[str, Value]) -> None:
        """Where a namespace's path is ``workload:ID``, that of another workload that runs is meant."""
        for each in list_in(linux, "namespaces"):
            path = each.get("path") if isinstance(each, dict) else None
            if not isinstance(each, dict) or not isinstance(path, str) or not path.startswith(_OF_WORKLOAD):
                continue
            other = self._workload(path.removeprefix(_OF_WORKLOAD))
            if other.state != "running" or each.get("type") not in ("ipc", "pid", "uts"):
                raise CallError("no-such", f"{other.name} is {other.state}, and has no namespace to join")
            each["path"] = f"/proc/{other.pid}/ns/{each['type']}"

    def _map_disks(self, root: str, ids: IdMaps, process: dict[str, Value]) -> None:
        """Shows the files of all disks that were attached for ``root`` with its container's ids."""
        from zonal.agent.user_namespace import allow_limits

        allow_limits(process)
        for name, (path, owner) in self._disks.items():
            if owner != root:
                continue
            try:
                ids.map_mount(path)
            except OSError as error:
                raise CallError("runtime", f"{name} cannot have its ids mapped: {error}") from error

    def _ids_of(self, root: str) -> IdMaps | None:
        return next((self._ids[name] for name, path in self._roots.items() if path == root and name in self._ids), None)

    def _exec(self, call: Call, params: Params) -> None:
        name, process = self._new_name(params), params.map("process")
        container = self._workload(params.name("container"))
        if container.name != container.container or container.state != "running":
            raise CallError("no-such", f"{container.name} is not a running container")
        set_user(process, container.root, params)
        wanted = self._wanted(params, process)
        agent = self._agent
        workload = Workload(agent.loop, agent.reaper, name, container.name, container.root, container.cgroup)
        self._start(call, workload, workload.start_process, process, wanted)

    def _start(
        self,
        call: Call,
        workload: Workload,
        start: Callable[..., None],
        description: dict[str, Value],
        wanted: StreamNumbers,
    ) -> None:
        agent = self._agent

        def started(refusal: tuple[str, str] | None) -> None:
            if refusal:
                agent.drop(workload)
                call.fail(*refusal)
                return
            agent.adopt_streams(workload)
            call.reply({"pid": workload.pid})

        try:
            start(to_json(description), wanted, started, lambda: agent.ended(workload))
        except (OSError, ValueError) as error:
            raise CallError("runtime", f"cannot start {workload.name}: {error}") from error
        agent.workloads[workload.name] = workload

    def _signal(self, call: Call, params: Params) -> None:
        workload = self._workload(params.name("id"))
        number = params.number("signal", least=1, most=_MAX_SIGNAL)
        try:
            if params.flag("all"):
                cgroups.signal_cgroup(workload.cgroup, number)
            elif workload.pid and params.flag("session"):
                cgroups.signal_session(workload.cgroup, workload.pid, number)
            elif workload.pid:
                send_signal(workload.pid, number)
        except OSError as error:
            raise CallError("runtime", f"cannot signal {workload.name}: {error}") from error
        call.reply()

    def _freeze(self, call: Call, params: Params) -> None:
        workload = self._workload(params.name("id"))
        try:
            cgroups.freeze(workload.cgroup, frozen=params.flag("frozen"))
        except OSError as error:
            raise CallError("runtime", f"cannot hold {workload.name}: {error}") from error
        call.reply()

    def _limit(self, call: Call, params: Params) -> None:
        workload = self._workload(params.name("id"))
        memory = params.number("memory") if params.has("memory") else None
        cpu = (params.number("quota"), params.number("period", least=1)) if params.has("quota") else None
        try:
            cgroups.limit(workload.cgroup, memory, cpu, params.number("shares", 0))
        except OSError as error:
            raise CallError("runtime", f"cannot bound {workload.name}: {error}") from error
        call.reply()

    def _resize(self, call: Call, params: Params) -> None:
        workload = self._workload(params.name("id"))
        workload.resize(params.number("rows", most=_MAX_TERMINAL), params.number("columns", most=_MAX_TERMINAL))
        call.reply()

    def _forget(self, call: Call, params: Params) -> None:
        workload = self._workload(params.name("id"))
        if workload.state != "exited":
            raise CallError("in-use", f"{workload.name} is {workload.state}")
        others = [other.name for other in self._agent.workloads.values() if other.container == workload.name]
        if others != [workload.name] and workload.container == workload.name:
            raise CallError("in-use", f"{workload.name} has other processes: {', '.join(others)}")

        def done() -> None:
            self._agent.drop(workload)
            call.reply()

        workload.state = "forgotten"
        workload.forget(done)

    def _list(self, call: Call, params: Params) -> None:
        del params
        workloads: list[Value] = [workload.describe() for workload in self._agent.workloads.values()]
        call.reply({"workloads": workloads})

    def _statistics(self, call: Call, params: Params) -> None:
        total, available = configuration.memory()
        resident = configuration.resident_bytes()
        said: dict[str, Value] = {"resident": resident, "memory_total": total, "memory_available": available}
        if params.has("container"):
            workload = self._workload(params.name("container"))
            cgroup = workload.cgroup
            said["processes"] = cgroups.process_count(cgroup)
            said["cpu_ns"], said["memory"] = cgroups.usage(cgroup)
            if params.flag("figures"):
                from zonal.agent import figures  # rare, and start-up counts

                said["figures"] = figures.read_figures(cgroup, workload.root)
        call.reply(said)

    def _new_name(self, params: Params) -> str:
        name = params.name("id")
        if name in self._agent.workloads:
            raise CallError("exists", f"workload {name} is known already")
        if len(self._agent.workloads) >= MAX_WORKLOADS:
            raise CallError("limit", f"more than {MAX_WORKLOADS} workloads")
        return name

    def _workload(self, name: str) -> Workload:
        workload = self._agent.workloads.get(name)
        if workload is None or workload.state == "forgotten":
            raise CallError("no-such", f"no workload {name}")
        return workload

    def _root(self, name: str) -> str:
        if name not in self._roots:
            raise CallError("no-such", f"no root {name}")
        return self._roots[name]

    def _pid(self, params: Params) -> int:
        workload = self._workload(params.name("id"))
        if workload.state != "running":
            raise CallError("no-such", f"{workload.name} is {workload.state}")
        return workload.pid

    def _wanted(self, params: Params, process: dict[str, Value]) -> StreamNumbers:
        wanted = StreamNumbers(
            params.number("stdin", 0, most=_MAX_STREAM),
            params.number("stdout", 0, most=_MAX_STREAM),
            params.number("stderr", 0, most=_MAX_STREAM),
            terminal=params.flag("terminal"),
            rows=params.number("rows", 0, most=_MAX_TERMINAL),
            columns=params.number("columns", 0, most=_MAX_TERMINAL),
        )
        self._agent.check_streams([wanted.stdin, wanted.stdout, wanted.stderr])
        process["terminal"] = wanted.terminal
        if wanted.terminal and wanted.rows and wanted.columns:
            process["consoleSize"] = {"height": wanted.rows, "width": wanted.columns}
        return wanted
