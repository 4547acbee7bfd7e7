"""The host's calls, one method each: parameters are checked here, the work is done elsewhere."""

from __future__ import annotations

import os

from zonal.agent import configuration, crun, mounts, network
from zonal.agent.json_text import to_json
from zonal.agent.oci import add_devices, has_namespace, id_maps, map_in, set_user
from zonal.agent.params import CallError
from zonal.agent.processes import send_signal
from zonal.agent.syscalls import enter_mounts_of, enter_root, load_module
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
_DEFAULT_GRACE_MS = 10_000


class Methods:
    """``table`` gives the handler of each method; handlers raise ``CallError`` or answer the call, now or later."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._roots: dict[str, str] = {}
        self._attached: dict[str, str] = {}
        self._disks: dict[str, str] = {}
        """Those of the attached whose files' ids can be mapped."""
        self._ids: dict[str, IdMaps] = {}
        """Of the roots that are for a user namespace."""
        self.table: dict[str, Callable[[Call, Params], None]] = {
            "configure": self._configure,
            "network": self._network,
            "prepare_root": self._prepare_root,
            "remove_root": self._remove_root,
            "missing_modules": self._missing_modules,
            "load_module": self._load_module,
            "attach": self._attach,
            "detach": self._detach,
            "fill": self._fill,
            "program": self._program,
            "bind": self._bind,
            "unbind": self._unbind,
            "make_node": self._make_node,
            "remove_node": self._remove_node,
            "run": self._run,
            "exec": self._exec,
            "signal": self._signal,
            "resize": self._resize,
            "forget": self._forget,
            "list": self._list,
            "statistics": self._statistics,
            "kernel_log": self._kernel_log,
            "memory": self._memory,
            "cpus": self._cpus,
            "power_off": self._power_off,
        }

    def _configure(self, call: Call, params: Params) -> None:
        if params.has("hostname"):
            configuration.set_hostname(params.text("hostname"))
        configuration.set_sysctls(params.map("sysctls"))
        call.reply()

    def _network(self, call: Call, params: Params) -> None:
        files = {str(name): str(text) for name, text in params.map("files").items()}
        routes = [(to, gateway) for to, _, gateway in (str(route).partition(" ") for route in params.list("routes"))]
        addresses = [str(address) for address in params.list("addresses")]
        try:
            network.write_files(files)
            if params.has("interface"):
                name, mac = params.text("interface"), params.text("mac")
                network.configure(name, mac, params.number("mtu", 1500, least=68, most=65535), addresses, routes)
        except ValueError as error:
            raise CallError("invalid", str(error)) from error
        except OSError as error:
            raise CallError("runtime", f"cannot set up the network: {error}") from error
        call.reply()

    def _prepare_root(self, call: Call, params: Params) -> None:
        name, device = params.name("id"), params.text("device")
        if name in self._roots:
            raise CallError("exists", f"root {name} is prepared already")
        size = params.number("size", least=1) if params.has("size") else None
        fstype, scratch = params.text("fstype", "erofs"), params.text("scratch", "")
        try:
            ids = id_maps(params)
            path = mounts.prepare_root(name, device, fstype, size, scratch, ids)
        except OSError as error:
            raise CallError("runtime", f"cannot prepare root {name} from {device}: {error}") from error
        self._roots[name] = path
        if ids:
            self._ids[name] = ids
        call.reply({"path": path})

    def _remove_root(self, call: Call, params: Params) -> None:
        name = params.name("id")
        path = self._root(name)
        if any(workload.root == path for workload in self._agent.workloads.values()):
            raise CallError("in-use", f"root {name} belongs to a workload")
        mounts.remove_root(name)
        del self._roots[name]
        if ids := self._ids.pop(name, None):
            ids.close()
        call.reply()

    def _program(self, call: Call, params: Params) -> None:
        from zonal.agent import programs  # rare, and start-up counts

        name, container = self._new_name(params), params.name("container")
        root, cgroup, enter = self._entrance(container)
        verb, path, follow = params.text("verb"), _absolute(params, "path"), params.flag("follow")
        base = root.rpartition("/")[0]
        skip = {str(each) for each in params.list("skip")}
        freeze = f"/sys/fs/cgroup{cgroup}" if cgroup and params.flag("freeze") else ""
        works: dict[str, Callable[[], None]] = {
            "read": lambda: programs.read_tar(enter, path, follow=follow),
            "write": lambda: programs.write_tar(enter, path),
            "stat": lambda: programs.tell_path(enter, path),
            "changes": lambda: programs.tell_changes(f"{base}/scratch/upper", f"{base}/lower"),
            "processes": lambda: programs.tell_processes(f"/sys/fs/cgroup{cgroup}"),
            "layer": lambda: programs.tell_layer(f"{base}/scratch/upper", skip, freeze, self._ids_of(root)),
        }
        if verb not in works:
            raise CallError("invalid", f"verb {verb!r}")
        agent = self._agent
        program = programs.Program(*(agent.loop, agent.reaper, name, container, root, cgroup))
        wanted = self._wanted(params, {})
        try:
            program.start(works[verb], wanted, lambda: agent.ended(program))
        except OSError as error:
            raise CallError("runtime", f"cannot start {verb}: {error}") from error
        agent.workloads[name] = program
        agent.adopt_streams(program)
        call.reply({"pid": program.pid})

    def _entrance(self, container: str) -> tuple[str, str, Callable[[], None]]:
        """The root and the control group of a container that runs, and how a child gets in; or a root's alone."""
        workload = self._agent.workloads.get(container)
        if workload is None:
            root = self._root(container)
            return root, "", lambda: enter_root(root)
        if workload.state != "running":
            raise CallError("no-such", f"{container} is {workload.state}")
        pid = workload.pid
        return workload.root, workload.cgroup, lambda: enter_mounts_of(pid)

    def _missing_modules(self, call: Call, params: Params) -> None:
        loaded = {name.replace("-", "_") for name in os.listdir("/sys/module")}
        call.reply([name for name in params.list("names") if str(name).replace("-", "_") not in loaded])

    def _load_module(self, call: Call, params: Params) -> None:
        name = params.name("name")
        try:
            load_module(params.data("data"))
        except FileExistsError:
            pass  # it is loaded
        except OSError as error:
            raise CallError("runtime", f"the kernel does not take the module {name}: {error}") from error
        call.reply()

    def _attach(self, call: Call, params: Params) -> None:
        from zonal.agent import attachments  # rare, and start-up counts

        name, kind, read_only = params.name("id"), params.text("kind"), params.flag("read_only")
        if name in self._attached:
            raise CallError("exists", f"{name} is attached already")
        try:
            if kind == "disk":
                device, fstype = params.text("device"), params.text("fstype")
                path = attachments.mount_disk(
                    *(name, device, fstype),
                    read_only=read_only,
                    folder=params.text("folder", ""),
                    subpath=params.text("subpath", ""),
                )
                self._disks[name] = f"{attachments.PLACES}/{name}"
            elif kind == "memory":
                size, mode = params.number("size", 0), params.number("mode", 0o1777, most=0o7777)
                path = attachments.mount_memory(name, size, mode, read_only=read_only)
            elif kind == "share":
                path = attachments.mount_share(
                    *(name, params.name("tag"), params.number("message_size", least=4096)),
                    read_only=read_only,
                    cached=params.flag("cached"),
                    delegated=params.flag("delegated"),
                    subpath=params.text("subpath", ""),
                )
            else:
                raise CallError("invalid", f"kind {kind!r}")
        except OSError as error:
            raise CallError("runtime", f"cannot mount {name}: {error}") from error
        self._attached[name] = path
        call.reply({"path": path})

    def _detach(self, call: Call, params: Params) -> None:
        from zonal.agent import attachments

        name = params.name("id")
        self._place(name)
        try:
            attachments.release(name)
        except OSError as error:
            raise CallError("runtime", f"cannot unmount {name}: {error}") from error
        del self._attached[name]
        self._disks.pop(name, None)
        call.reply()

    def _fill(self, call: Call, params: Params) -> None:
        from zonal.agent import attachments

        place, root = self._place(params.name("id")), self._root(params.name("root"))
        if self._ids_of(root):
            root = root.rpartition("/")[0] + "/lower"  # with the ids that belong on the disk
        try:
            attachments.fill(self._agent.reaper, place, root, params.text("path"), _answer(call))
        except OSError as error:
            raise CallError("runtime", f"cannot fill {params.name('id')}: {error}") from error

    def _bind(self, call: Call, params: Params) -> None:
        from zonal.agent import attachments

        pid, place, target = self._pid(params), self._place(params.name("mount")), _absolute(params, "path")
        disk = params.name("mount") in self._disks
        ids = self._ids_of(self._workload(params.name("id")).root) if disk else None
        try:
            attachments.bind_into(self._agent.reaper, pid, place, target, _answer(call), ids)
        except OSError as error:
            raise CallError("runtime", f"cannot mount at {target}: {error}") from error

    def _unbind(self, call: Call, params: Params) -> None:
        from zonal.agent import attachments

        attachments.unbind_from(self._agent.reaper, self._pid(params), _absolute(params, "path"), _answer(call))

    def _make_node(self, call: Call, params: Params) -> None:
        from zonal.agent import attachments

        pid, target = self._pid(params), _absolute(params, "path")
        try:
            attachments.make_node(self._agent.reaper, pid, params.text("device"), target, _answer(call))
        except OSError as error:
            raise CallError("runtime", f"cannot make {target}: {error}") from error

    def _remove_node(self, call: Call, params: Params) -> None:
        from zonal.agent import attachments

        attachments.remove_node(self._agent.reaper, self._pid(params), _absolute(params, "path"), _answer(call))

    def _run(self, call: Call, params: Params) -> None:
        name, config = self._new_name(params), params.map("config")
        root = self._root(params.name("root"))
        process, linux = map_in(config, "process"), map_in(config, "linux")
        cgroup = linux.setdefault("cgroupsPath", f"/zonal/{name}")
        if not isinstance(cgroup, str) or not cgroup.startswith("/") or not cgroup.strip("/") or ".." in cgroup:
            raise CallError("invalid", f"cgroupsPath {cgroup!r}")
        map_in(config, "root")["path"] = root
        add_devices(config, params)
        if ids := self._ids_of(root):
            self._map_disks(ids, process)
        set_user(process, root, params)
        wanted = self._wanted(params, process)
        agent = self._agent
        workload = Workload(agent.loop, agent.reaper, name, name, root, cgroup, alone=has_namespace(linux, "pid"))
        self._start(call, workload, workload.start_container, config, wanted)

    def _map_disks(self, ids: IdMaps, process: dict[str, Value]) -> None:
        """Shows the files of all disks with a container's ids; it is the only one, as each zone has one."""
        from zonal.agent.user_namespace import allow_limits

        allow_limits(process)
        for name, path in self._disks.items():
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
                crun.signal_cgroup(workload.cgroup, number)
            elif workload.pid and params.flag("session"):
                crun.signal_session(workload.cgroup, workload.pid, number)
            elif workload.pid:
                send_signal(workload.pid, number)
        except OSError as error:
            raise CallError("runtime", f"cannot signal {workload.name}: {error}") from error
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
            said["processes"] = crun.process_count(self._workload(params.name("container")).cgroup)
        call.reply(said)

    def _kernel_log(self, call: Call, _params: Params) -> None:
        from zonal.agent import kernel_log  # rare, and start-up counts

        try:
            lines: list[Value] = [[time, text] for time, text in kernel_log.read_lines()]
        except OSError as error:
            raise CallError("runtime", f"cannot read the kernel's log: {error}") from error
        call.reply({"lines": lines})

    def _memory(self, call: Call, params: Params) -> None:
        target, more = params.number("target", least=1), params.flag("more")
        self._agent.watch_memory(target, more=more, elastic=params.flag("elastic"))
        call.reply()

    def _cpus(self, call: Call, params: Params) -> None:
        from zonal.agent import processors  # rare, and start-up counts

        def done(online: int) -> None:
            call.reply({"online": online})

        try:
            processors.set_online(self._agent.loop, params.number("count", least=1), done)
        except (OSError, ValueError) as error:
            raise CallError("runtime", f"cannot set the CPUs: {error}") from error

    def _power_off(self, call: Call, params: Params) -> None:
        grace = params.number("grace_ms", _DEFAULT_GRACE_MS)
        call.reply()
        self._agent.shut_down(grace / 1000)

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

    def _place(self, name: str) -> str:
        if name not in self._attached:
            raise CallError("no-such", f"nothing is attached as {name}")
        return self._attached[name]

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


def _answer(call: Call) -> Callable[[str], None]:
    """What answers a call that ends later: with the reason why it failed, or ""."""

    def done(reason: str) -> None:
        if reason:
            call.fail("runtime", reason)
        else:
            call.reply()

    return done


def _absolute(params: Params, key: str) -> str:
    path = params.text(key)
    if not path.startswith("/"):
        raise CallError("invalid", f"{key} {path!r} is not absolute")
    return path
