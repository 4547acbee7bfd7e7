"""The host's calls on the zone and what is mounted in it: parameters are checked here, the work is done elsewhere."""

from __future__ import annotations

import os

from zonal.agent import configuration, mounts, network
from zonal.agent.oci import id_maps
from zonal.agent.params import CallError
from zonal.agent.syscalls import enter_mounts_of, enter_root, load_module
from zonal.agent.workload_methods import WorkloadMethods

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zonal.agent.agent import Agent
    from zonal.agent.link import Call
    from zonal.agent.params import Params
    from zonal.agent.protocol.cbor import Value

_DEFAULT_GRACE_MS = 10_000


class Methods(WorkloadMethods):
    """All of them."""

    def __init__(self, agent: Agent) -> None:
        super().__init__(agent)
        self._attached: dict[str, str] = {}
        self.table |= {
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
        pairs = (str(neighbour).partition(" ") for neighbour in params.list("neighbours"))
        neighbours = [(address, hardware) for address, _, hardware in pairs]
        try:
            network.write_files(files)
            if params.has("interface"):
                name, mac = params.text("interface"), params.text("mac")
                mtu, exact = params.number("mtu", 1500, least=68, most=65535), params.flag("exact")
                network.configure(name, mac, mtu, addresses, routes, neighbours, exact=exact)
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
                owner = params.name("owner") if params.has("owner") else ""
                self._disks[name] = (f"{attachments.PLACES}/{name}", owner)
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

    def _place(self, name: str) -> str:
        if name not in self._attached:
            raise CallError("no-such", f"nothing is attached as {name}")
        return self._attached[name]


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
