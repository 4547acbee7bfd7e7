"""A workload: a container, or a further process in one, from crun's start to the status of its end."""

from __future__ import annotations

import errno
import fcntl
import os

from zonal.agent import cgroups, crun
from zonal.agent.processes import SIGKILL
from zonal.agent.streams import InputStream, OutputStream
from zonal.agent.terminal import ConsoleSocket, resize

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zonal.agent.loop import Loop
    from zonal.agent.processes import Reaper
    from zonal.agent.protocol.cbor import Value

_PIPE_SIZE = 256 * 1024
"""Of a workload's pipes: as much as a stream has on its way, so that each side works on while the other sleeps."""
DIRECTORY = "/run/zonal/workloads"
"""``DIRECTORY/<id>`` holds what crun is given for a workload, and what it leaves."""


class StreamNumbers:
    """Which streams a workload wants; 0 is none. With a terminal there is no ``stderr``."""

    def __init__(self, stdin: int, stdout: int, stderr: int, *, terminal: bool, rows: int, columns: int) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.terminal = terminal
        self.rows = rows
        self.columns = columns


class Workload:
    """Known until the host says ``forget``. ``started`` gets None, or crun's refusal; ``ended`` is called once."""

    def __init__(
        self, loop: Loop, reaper: Reaper, name: str, container: str, root: str, cgroup: str, *, alone: bool = True
    ) -> None:
        """``alone``: whether the kernel ends all that is left of it when its first process ends."""
        self.name = name
        self.container = container
        """The container that it runs in: its own name, or another's."""
        self.root = root
        self.cgroup = cgroup
        self.state = "starting"
        self.pid = 0
        self.numbers: list[int] = []
        """Of the streams that it has or will have."""
        self.streams: list[OutputStream | InputStream] = []
        self.end: dict[str, Value] = {}
        """How it ended: ``status`` or ``signal``, and ``oom``."""
        self._loop = loop
        self._reaper = reaper
        self._directory = f"{DIRECTORY}/{name}"
        self._terminal: int | None = None
        self._console: ConsoleSocket | None = None
        self._oom_kills = 0
        self._alone = alone

    def describe(self) -> dict[str, Value]:
        """For HELLO and ``list``."""
        streams: list[Value] = [stream.describe() for stream in self.streams]
        return {"id": self.name, "container": self.container, "state": self.state, "streams": streams, **self.end}

    def start_container(
        self,
        config: str,
        wanted: StreamNumbers,
        started: Callable[[tuple[str, str] | None], None],
        ended: Callable[[], None],
    ) -> None:
        """Has crun make the container that ``config`` (an OCI config.json) describes. Raises ``OSError``."""
        self._start("config.json", config, ["run", f"--bundle={self._directory}"], wanted, started, ended)

    def start_process(
        self,
        process: str,
        wanted: StreamNumbers,
        started: Callable[[tuple[str, str] | None], None],
        ended: Callable[[], None],
    ) -> None:
        """Has crun start ``process`` (the OCI process object) in the container. Raises ``OSError``."""
        self._start(
            "process.json", process, ["exec", f"--process={self._directory}/process.json"], wanted, started, ended
        )

    def resize(self, rows: int, columns: int) -> None:
        """Sets the terminal's size; without a terminal, nothing."""
        if self._terminal is not None:
            resize(self._terminal, rows, columns)

    def forget(self, done: Callable[[], None]) -> None:
        """Removes what is left of it, and calls ``done``."""
        self._close()
        if self.name != self.container:
            self._remove_files()
            done()
            return

        def on_deleted(_status: int) -> None:
            self._remove_files()
            done()

        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            arguments = crun.command(f"{self._directory}/log", "delete", "--force", self.name)
            self._reaper.spawn(arguments, (null, null, null), on_deleted)
        finally:
            os.close(null)

    def _start(
        self,
        file_name: str,
        text: str,
        verb: list[str],
        wanted: StreamNumbers,
        started: Callable[[tuple[str, str] | None], None],
        ended: Callable[[], None],
    ) -> None:
        os.makedirs(self._directory)
        self.numbers = [wanted.stdin, wanted.stdout, wanted.stderr]
        theirs: list[int] = []
        try:
            with open(f"{self._directory}/{file_name}", "w", encoding="utf-8") as file:
                file.write(text)
            arguments = [*verb, "--detach", f"--pid-file={self._directory}/pid"]
            theirs.append(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
            standard = (theirs[0], theirs[0], theirs[0])
            if wanted.terminal:
                path = f"{self._directory}/console"
                self._console = ConsoleSocket(self._loop, path, lambda fd: self._on_terminal(fd, wanted))
                arguments.append(f"--console-socket={path}")
            else:
                standard = self._open_pipes(wanted, theirs)
            self._oom_kills = cgroups.oom_kills(self.cgroup)
            self._reaper.spawn(
                crun.command(f"{self._directory}/log", *arguments, self.container),
                standard,
                lambda status: self._on_crun(status, started, ended),
            )
        except BaseException:
            self._close()
            self._remove_files()
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        self._reaper.hold()

    def _open_pipes(self, wanted: StreamNumbers, theirs: list[int]) -> tuple[int, int, int]:
        ends = [theirs[0], theirs[0], theirs[0]]
        for place, number in enumerate((wanted.stdin, wanted.stdout, wanted.stderr)):
            if number:
                read_end, write_end = os.pipe2(os.O_CLOEXEC)
                _enlarge(write_end)
                ends[place] = read_end if place == 0 else write_end
                theirs.append(ends[place])
                if place == 0:
                    self.streams.append(InputStream(self._loop, number, write_end, terminal=False))
                else:
                    self.streams.append(OutputStream(self._loop, number, read_end))
        return ends[0], ends[1], ends[2]

    def _on_terminal(self, fd: int, wanted: StreamNumbers) -> None:
        self._terminal = fd
        if wanted.rows and wanted.columns:
            resize(fd, wanted.rows, wanted.columns)
        if wanted.stdin:
            self.streams.append(InputStream(self._loop, wanted.stdin, os.dup(fd), terminal=True))
        if wanted.stdout:
            self.streams.append(OutputStream(self._loop, wanted.stdout, os.dup(fd)))

    def _on_crun(
        self, status: int, started: Callable[[tuple[str, str] | None], None], ended: Callable[[], None]
    ) -> None:
        if self._console:
            self._console.take()
            self._console.close()
        if status:
            refusal = crun.refusal(f"{self._directory}/log")
            self._close()
            self._remove_files()
            self._reaper.release()
            started(refusal)
            return
        self.pid = crun.read_pid(f"{self._directory}/pid")
        self.state = "running"
        started(None)
        self._reaper.expect(self.pid, lambda end: self._on_end(end, ended))
        self._reaper.release()

    def _on_end(self, status: int, ended: Callable[[], None]) -> None:
        self.state = "exited"
        self.pid = 0
        code = os.waitstatus_to_exitcode(status)
        self.end = {"status": code} if code >= 0 else {"signal": -code}
        if not self._alone:
            try:
                cgroups.signal_cgroup(self.cgroup, SIGKILL)
            except OSError:
                pass  # nothing is left of it
        self.end["oom"] = cgroups.oom_kills(self.cgroup) > self._oom_kills
        for stream in self.streams:
            if isinstance(stream, InputStream):
                stream.close(errno.EPIPE)
        if self._terminal is not None:
            os.close(self._terminal)
            self._terminal = None
        ended()

    def _close(self) -> None:
        for stream in self.streams:
            stream.close()
        if self._terminal is not None:
            os.close(self._terminal)
            self._terminal = None
        if self._console:
            self._console.close()

    def _remove_files(self) -> None:
        for name in os.listdir(self._directory):
            os.unlink(f"{self._directory}/{name}")
        os.rmdir(self._directory)


def _enlarge(pipe: int) -> None:
    try:
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    except OSError:
        pass  # it stays as it is, which is slower only
