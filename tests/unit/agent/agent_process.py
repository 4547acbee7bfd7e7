"""An agent in a process of its own, with sockets for its channel. Run by tests; not a test itself.

Arguments: the folder of the sources, the number of a control socket, over which channels come (a new one stands for a
new epoch), and a mode: "containers" makes it PID 1 of namespaces of its own, "streams OUT IN" gives it one workload
that has only streams, the descriptors OUT to read and IN to write.
"""

from __future__ import annotations

import _socket
import os
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zonal.agent.link import Link

sys.path.insert(0, sys.argv[1])

CONTROL, MODE, DESCRIPTORS = int(sys.argv[2]), sys.argv[3], [int(argument) for argument in sys.argv[4:]]
WORKLOAD, OUTPUT, INPUT = "streams", 1, 2


def main() -> None:
    """Until the control socket is closed, or a shutdown is asked for."""
    from zonal.agent import mounts, syscalls
    from zonal.agent.agent import Agent
    from zonal.agent.configuration import raise_loopback
    from zonal.agent.link import Link
    from zonal.agent.loop import READ, WRITE, Loop
    from zonal.agent.processes import Reaper
    from zonal.agent.ring import ChannelClosedError
    from zonal.agent.streams import InputStream, OutputStream
    from zonal.agent.workloads import Workload

    class SocketTransport:
        """The agent's ``Transport`` over a stream socket."""

        def __init__(self, fd: int) -> None:
            self._fd = fd
            os.set_blocking(fd, False)

        def fileno(self) -> int:
            return self._fd

        def events(self, *, blocked: bool) -> int:
            return READ | WRITE if blocked else READ

        def acknowledge(self) -> None:
            pass

        def receive(self, limit: int) -> bytes:
            try:
                data = os.read(self._fd, limit)
            except BlockingIOError:
                return b""
            except OSError as error:
                raise ChannelClosedError(str(error)) from error
            if not data:
                raise ChannelClosedError("end of file")
            return data

        def send(self, data: memoryview) -> int:
            try:
                return os.write(self._fd, data)
            except BlockingIOError:
                return 0
            except OSError as error:
                raise ChannelClosedError(str(error)) from error

        def flush(self) -> None:
            pass

        def close(self) -> None:
            os.close(self._fd)

    loop = Loop()
    control = _socket.socket(fileno=CONTROL)
    if MODE == "containers":
        syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
        mounts.mount_zone()
        raise_loopback()
    reaper = Reaper(loop)
    started = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    agent = Agent(loop, reaper, started, {"made": started + 1})
    if MODE == "streams":
        workload = Workload(loop, reaper, WORKLOAD, WORKLOAD, "/", "/zonal-test-has-no-cgroup")
        workload.state = "running"
        workload.streams = [
            OutputStream(loop, OUTPUT, DESCRIPTORS[0]),
            InputStream(loop, INPUT, DESCRIPTORS[1], terminal=False),
        ]
        agent.workloads[WORKLOAD] = workload
        agent.adopt_streams(workload)
    links: list[Link] = []

    def on_control(_events: int) -> None:
        _, ancillary, _, _ = control.recvmsg(1, _socket.CMSG_SPACE(4))
        if not ancillary:
            os._exit(0)  # the test is over
        for link in links:
            link.close("a new epoch")
        links.append(Link(loop, SocketTransport(int.from_bytes(ancillary[0][2][:4], "little")), agent))

    loop.watch(control.fileno(), READ, on_control)
    loop.run()
    if MODE == "containers":
        mounts.unmount_all()


main()
