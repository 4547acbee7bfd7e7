"""A stand-in zone: the agent's own code for protocol, rings and streams, without a kernel below it.

What the host asks for that would change a kernel is answered as if it had been done. The workload writes a line, and
lives until it gets a signal.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from benchmarks.simulation.hypervisor import FRAMES_SHIFT, Domain, StandInXen
from benchmarks.simulation.xenstore import StandInStore
from zonal.agent.agent import Agent
from zonal.agent.link import Call, Link
from zonal.agent.loop import READ, Loop
from zonal.agent.params import CallError, Params
from zonal.agent.ring import SIZE, Rings
from zonal.agent.streams import OutputStream
from zonal.agent.workloads import Workload
from zonal.xen.abi.privcmd import PAGE_SIZE
from zonal.xen.console import COUNTERS_OFFSET, OUT_CONS, OUT_PROD, OUTPUT_OFFSET, OUTPUT_SIZE
from zonal.xen.ring import RingWriter

if TYPE_CHECKING:
    from zonal.agent.processes import Reaper
    from zonal.agent.protocol.cbor import Value

RING_PAGES = 2 * SIZE // PAGE_SIZE
FIRST_REFERENCE = 8
"""Those before are reserved (``GNTTAB_NR_RESERVED_ENTRIES`` of grant_table.h)."""
CONSOLE_PORT = 2
"""The builder makes it after the store's."""
SAID = b"[    0.000000] Linux version 6.12.0 (a stand-in)\r\n[    0.000000] no kernel was booted\r\n"
_DONE = ("configure", "network", "load_module", "attach", "detach", "forget", "remove_root", "resize", "cpus")


class ZoneLoop(Loop):
    """The agent's loop for all zones of the machine, whose event channels have numbers below 0 for descriptors."""

    def __init__(self) -> None:
        super().__init__()
        self._ports: dict[int, Callable[[int], None]] = {}
        self._last_port = 0

    def new_port(self) -> int:
        """In place of a descriptor."""
        self._last_port -= 1
        return self._last_port

    def fire(self, fd: int) -> None:
        """An event has come."""
        self.soon(lambda: self._on_port(fd))

    def watch(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        """See ``Loop``."""
        if fd >= 0:
            super().watch(fd, events, handler)
        else:
            self._ports[fd] = handler

    def unwatch(self, fd: int) -> None:
        """See ``Loop``."""
        if fd >= 0:
            super().unwatch(fd)
        else:
            self._ports.pop(fd, None)

    def _on_port(self, fd: int) -> None:
        handler = self._ports.get(fd)
        if handler:
            handler(READ)


class ZoneChannel:
    """The zone's end of a channel: see ``zonal.agent.channel``, whose devices are the machine's here."""

    def __init__(self, xen: StandInXen, store: StandInStore, loop: ZoneLoop, domain: Domain, epoch: str) -> None:
        self._xen = xen
        self._domain = domain
        self._fd = loop.new_port()
        first = (domain.id << FRAMES_SHIFT) + domain.info.tot_pages - RING_PAGES - 1
        xen.punch(first, RING_PAGES + 1)
        self._pages = mmap.mmap(xen.memory, (RING_PAGES + 1) * PAGE_SIZE, offset=first * PAGE_SIZE)
        with memoryview(self._pages) as whole:
            references = [FIRST_REFERENCE + 1 + number for number in range(RING_PAGES)]
            self._rings = Rings(whole[:PAGE_SIZE], whole[PAGE_SIZE:], references)
        xen.grant(domain, FIRST_REFERENCE, [first + number for number in range(RING_PAGES + 1)])
        self._port = xen.alloc_unbound(domain.id)
        domain.ports[self._port].on_event = lambda: loop.fire(self._fd)
        path = f"/local/domain/{domain.id}/zonal/channel"
        for name, value in (("ring-ref", FIRST_REFERENCE), ("event-channel", self._port), ("epoch", epoch)):
            store.write(f"{path}/{name}", str(value).encode())

    def fileno(self) -> int:
        """See ``Transport``."""
        return self._fd

    def events(self, *, blocked: bool) -> int:
        """See ``Transport``."""
        del blocked
        return READ

    def acknowledge(self) -> None:
        """See ``Transport``; the machine masks no port of a zone."""

    def receive(self, limit: int) -> bytes:
        """See ``Transport``."""
        return self._rings.receive(limit)

    def send(self, data: memoryview) -> int:
        """See ``Transport``."""
        return self._rings.send(data)

    def flush(self) -> None:
        """See ``Transport``."""
        if self._rings.take_wishes():
            self._xen.notify_host(self._domain, self._port)

    def close(self) -> None:
        """See ``Transport``."""
        self._rings.close()
        self._xen.notify_host(self._domain, self._port)
        self._pages.close()
        del self._domain.ports[self._port]


class ZoneAgent(Agent):
    """The agent, but for what it does to the kernel."""

    def __init__(self, loop: Loop) -> None:
        super().__init__(loop, cast("Reaper", None), time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        self._writers: dict[str, list[int]] = {}

    def called(self, call: Call, method: str, params: dict[str, Value]) -> None:
        """See ``Agent``."""
        try:
            self._do(call, method, Params(params))
        except CallError as error:
            call.fail(*error.args)

    def power_off(self) -> None:
        """The domain is gone."""
        for name in list(self._writers):
            self._end(name, {"signal": 9})
        for workload in self.workloads.values():
            for stream in workload.streams:
                stream.close()

    def _do(self, call: Call, method: str, params: Params) -> None:
        match method:
            case "prepare_root":
                call.reply({"path": f"/run/zonal/roots/{params.name('id')}"})
            case "run":
                self._run(call, params)
            case "signal":
                name, number = params.name("id"), params.number("signal")
                if name not in self._writers:
                    raise CallError("no-such", f"{name} does not run")
                call.reply()
                self._end(name, {"signal": number})
            case "memory":
                call.reply()
            case "statistics":
                call.reply({"memory_total": 64 << 20, "memory_available": 32 << 20, "processes": 1})
            case _ if method in _DONE:
                call.reply()
            case _:
                raise CallError("unknown-method", f"a stand-in zone has no {method!r}")

    def _run(self, call: Call, params: Params) -> None:
        name = params.name("id")
        numbers = [number for number in (params.number("stdout"), params.number("stderr")) if number]
        self.check_streams(numbers)
        workload = Workload(self.loop, self.reaper, name, params.name("root"), "/", "")
        workload.state = "running"
        self._writers[name] = []
        for number in numbers:
            read_end, write_end = os.pipe2(os.O_CLOEXEC)
            self._writers[name].append(write_end)
            workload.streams.append(OutputStream(self.loop, number, read_end))
        workload.numbers = numbers
        os.write(self._writers[name][0], b"a stand-in works\n")
        self.workloads[name] = workload
        self.adopt_streams(workload)
        call.reply({"pid": 2})

    def _end(self, name: str, end: dict[str, Value]) -> None:
        for descriptor in self._writers.pop(name):
            os.close(descriptor)
        workload = self.workloads[name]
        workload.state, workload.end = "exited", {**end, "oom": False}
        self.ended(workload)


class Zone:
    """What runs in one domain; see ``zonal.agent.main.Meeting``."""

    def __init__(self, xen: StandInXen, store: StandInStore, loop: ZoneLoop, domain: Domain) -> None:
        self._xen, self._store, self._loop, self._domain = xen, store, loop, domain
        self._path = f"/local/domain/{domain.id}/zonal/host"
        self._write_console(SAID)
        self._agent = ZoneAgent(loop)
        self._epoch = self._wanted_epoch()
        self._link = self._meet()
        store.watch(self._path, self._on_store)

    def power_off(self) -> None:
        """The domain dies."""
        self._store.unwatch(self._path, self._on_store)
        self._link.close("the domain dies")
        self._agent.power_off()

    def _on_store(self, _path: str) -> None:
        self._loop.soon(self._check)

    def _check(self) -> None:
        epoch = self._wanted_epoch()
        if epoch and epoch != self._epoch:
            self._epoch = epoch
            self._link.close("the host wants a new one")
            self._link = self._meet()

    def _meet(self) -> Link:
        channel: Any = ZoneChannel(self._xen, self._store, self._loop, self._domain, self._epoch)
        return Link(self._loop, channel, self._agent)

    def _wanted_epoch(self) -> str:
        return (self._store.read(self._path) or b"").decode()

    def _write_console(self, text: bytes) -> None:
        (frame,) = self._xen.granted_frames(self._domain.id, (0,))
        with mmap.mmap(self._xen.memory, PAGE_SIZE, offset=frame * PAGE_SIZE) as page, memoryview(page) as view:
            counters, output = view[COUNTERS_OFFSET:].cast("I"), view[OUTPUT_OFFSET : OUTPUT_OFFSET + OUTPUT_SIZE]
            with counters, output:
                ring = RingWriter(output, counters, prod=OUT_PROD, cons=OUT_CONS, name="of a console")
                ring.write(memoryview(text))
        self._xen.notify_host(self._domain, CONSOLE_PORT)
