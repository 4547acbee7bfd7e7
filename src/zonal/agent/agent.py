"""What the agent knows: its workloads and their streams, and the session with the host while there is one."""

from __future__ import annotations

import os
import time

from zonal.agent.configuration import resident_bytes, set_sysctls
from zonal.agent.log import INFO, log
from zonal.agent.methods import Methods
from zonal.agent.params import CallError, Params
from zonal.agent.protocol.frames import CREDIT, DATA, END, VERSION, ProtocolError, decode_number
from zonal.agent.protocol.streams import LEAST_WINDOW, WINDOW
from zonal.agent.shutdown import Shutdown
from zonal.agent.streams import InputStream, OutputStream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zonal.agent.link import Call, Link
    from zonal.agent.loop import Loop
    from zonal.agent.memory import MemoryWatch
    from zonal.agent.processes import Reaper
    from zonal.agent.protocol.cbor import Value
    from zonal.agent.workloads import Workload


class Agent:
    """Lives as long as the zone; links come and go."""

    def __init__(self, loop: Loop, reaper: Reaper, started_ns: int, steps: dict[str, int] | None = None) -> None:
        """``steps``: what was done since, and when."""
        self.loop = loop
        self.reaper = reaper
        self.workloads: dict[str, Workload] = {}
        self._started_ns = started_ns
        self._steps: dict[str, Value] = {**(steps or {})}
        self._ready_ns = 0
        self._link: Link | None = None
        self._window = LEAST_WINDOW
        self._streams: dict[int, InputStream | OutputStream] = {}
        self._told: set[str] = set()
        self._methods = Methods(self)
        self._shutdown: Shutdown | None = None
        self._memory: MemoryWatch | None = None

    def hello(self) -> dict[str, Value]:
        """All that a host must know that knows nothing yet. Times are of CLOCK_BOOTTIME."""
        if not self._ready_ns:
            self._ready_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self._told = {name for name, workload in self.workloads.items() if workload.state == "exited"}
        workloads: list[Value] = [workload.describe() for workload in self.workloads.values()]
        return {
            "version": VERSION,
            "window": WINDOW,
            "kernel": os.uname().release,
            "resident": resident_bytes(),
            "started": self._started_ns,
            "ready": self._ready_ns,
            "steps": self._steps,
            "workloads": workloads,
        }

    def opened(self, link: Link, window: int, offsets: dict[int, int]) -> None:
        """The host has said HELLO: streams go on where it wants them to. Raises ``ProtocolError``."""
        self._window = window
        unknown = [number for number in offsets if not isinstance(self._streams.get(number), OutputStream)]
        if unknown:
            raise ProtocolError(f"HELLO with streams {unknown}, which are no output streams here")
        self._link = link
        for number, stream in self._streams.items():
            if isinstance(stream, OutputStream):
                stream.attach(link, window, offsets.get(number))
            else:
                stream.attach(link, window)
        # What ended between our HELLO and the host's was not in ours.
        for name, workload in self.workloads.items():
            if workload.state == "exited" and name not in self._told:
                self._tell_exit(workload)
        link.wake()

    def closed(self, link: Link, reason: str) -> None:
        """The session is over; workloads run on."""
        if self._link is link:
            self._link = None
            for stream in self._streams.values():
                stream.detach()
            if self._memory:
                self._memory.lost()
        log(INFO, f"session ended: {reason}")

    def called(self, call: Call, method: str, params: dict[str, Value]) -> None:
        """Answers a call, now or later."""
        handler = self._methods.table.get(method)
        try:
            if handler is None:
                raise CallError("unknown-method", f"no method {method!r}")
            handler(call, Params(params))
        except CallError as error:
            call.fail(*error.args)

    def frame(self, number: int, kind: int, payload: bytes) -> None:
        """A frame of a stream. Raises ``ProtocolError``."""
        stream = self._streams.get(number)
        if isinstance(stream, InputStream) and kind == DATA:
            stream.data(payload)
        elif isinstance(stream, InputStream) and kind == END:
            stream.end(decode_number(payload))
        elif isinstance(stream, OutputStream) and kind == CREDIT:
            stream.credit(decode_number(payload))
        elif isinstance(stream, OutputStream) and kind not in (DATA, END):
            stream.reset()
        elif isinstance(stream, InputStream) and kind != CREDIT:
            stream.close()
        else:
            raise ProtocolError(f"frame of type {kind} for stream {number}")

    def pump(self) -> bool:
        """Lets every stream send one frame; says whether any did."""
        sent = [stream.pump() for stream in self._streams.values() if isinstance(stream, OutputStream)]
        return True in sent

    def check_streams(self, numbers: list[int]) -> None:
        """Raises ``CallError`` if one of the wanted stream numbers is taken or there twice."""
        wanted = [number for number in numbers if number]
        used = {number for workload in self.workloads.values() for number in workload.numbers}
        if len(set(wanted)) < len(wanted) or used.intersection(wanted):
            raise CallError("exists", f"streams {wanted}: one is in use")

    def adopt_streams(self, workload: Workload) -> None:
        """The streams of a workload that has started belong to the session from now on."""
        for stream in workload.streams:
            self._streams[stream.number] = stream
            if self._link and isinstance(stream, OutputStream):
                stream.attach(self._link, self._window, 0)
            elif self._link and isinstance(stream, InputStream):
                stream.attach(self._link, self._window)
        if self._link:
            self._link.wake()

    def drop(self, workload: Workload) -> None:
        """The workload is no more, and neither are its streams."""
        self.workloads.pop(workload.name, None)
        for stream in workload.streams:
            self._streams.pop(stream.number, None)

    def ended(self, workload: Workload) -> None:
        """A workload has ended: the host is told, and a shutdown goes on."""
        self._tell_exit(workload)
        if self._shutdown:
            self._shutdown.check()

    def shut_down(self, grace_seconds: float) -> None:
        """Begins the zone's end; the loop stops when it is time to power off."""
        if not self._shutdown:
            self._shutdown = Shutdown(self.loop, lambda: list(self.workloads.values()), grace_seconds)

    def watch_memory(self, target: int, *, more: bool, elastic: bool) -> None:
        """The zone is to have ``target`` bytes; with ``elastic`` the host is told from now on how it stands."""
        from zonal.agent.memory import MemoryWatch  # not every zone has use for it, and start-up counts

        if not elastic:
            if self._memory:
                self._memory.stop()
                self._memory = None
                set_sysctls({"vm.overcommit_memory": "0"})
            return
        if not self._memory:
            # Else a program is refused what is more than there is as yet.
            set_sysctls({"vm.overcommit_memory": "1"})
            self._memory = MemoryWatch(self.loop, self._tell_memory)
        self._memory.set(target, more=more)

    def _tell_memory(self, available: int, stalled_ns: int, pressed: bool) -> bool:
        if not self._link or not self._link.has_room():
            return False
        self._link.event("memory", available=available, stalled=stalled_ns, pressed=pressed)
        return True

    def _tell_exit(self, workload: Workload) -> None:
        if self._link:
            self._told.add(workload.name)
            self._link.event("exited", id=workload.name, **workload.end)
