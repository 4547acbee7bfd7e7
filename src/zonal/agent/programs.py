"""Short-lived programs of the agent's own for one container: files in and out as tar, and what was changed.

Each is a child process with streams like a workload's. What touches the container's files first enters its mount
namespace, or its root when it does not run (``enter``), so that no symbolic link leads anywhere else.
"""

from __future__ import annotations

import _signal  # pyright: ignore[reportMissingImports]  # as in processes.py
import os
import stat
import time

from zonal.agent.processes import SIGPIPE, fork_child
from zonal.agent.workloads import StreamNumbers, Workload

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from zonal.agent.user_namespace import IdMaps

_BUSYBOX = "/usr/bin/busybox"
_FREEZE_TURNS, _FREEZE_PAUSE = 500, 0.01


class Program(Workload):
    """See the module; ``name`` is its own, ``container`` that of the container which it works on."""

    def start(self, work: Callable[[], None], wanted: StreamNumbers, ended: Callable[[], None]) -> None:
        """Has a child do ``work``; an ``OSError`` of it ends the child with status 1, and is told on stderr."""
        os.makedirs(self._directory)
        self.numbers = [wanted.stdin, wanted.stdout, wanted.stderr]
        theirs = [os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)]
        try:
            ends = self._open_pipes(wanted, theirs)

            def with_streams() -> None:
                _signal.signal(SIGPIPE, _signal.SIG_DFL)  # pyright: ignore[reportUnknownMemberType]
                for number, fd in enumerate(ends):
                    os.dup2(fd, number)
                work()

            child = fork_child(with_streams, ends[2])
        except BaseException:
            self._close()
            self._remove_files()
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        self.pid = child
        self.state = "running"
        self._reaper.expect(child, lambda end: self._on_end(end, ended))


def read_tar(enter: Callable[[], None], path: str, *, follow: bool) -> None:
    """Writes a tar of ``path`` to stdout, its last part as the top; of ``path/.`` only what is in it.

    Does not return, but for an ``OSError``.
    """
    busybox = os.open(_BUSYBOX, os.O_RDONLY | os.O_CLOEXEC)
    enter()
    contents = path.endswith("/.") or os.path.normpath(path) == "/"
    clean = os.path.realpath(path) if follow else os.path.normpath(path)
    folder, name = (clean, ".") if contents else os.path.split(clean)
    os.chdir(folder)
    os.lstat(name)  # says which path is missing
    _execute(busybox, ["tar", "-c", "-f", "-", "--", name])


def write_tar(enter: Callable[[], None], path: str) -> None:
    """Unpacks a tar from stdin in the directory ``path``. Does not return, but for an ``OSError``."""
    busybox = os.open(_BUSYBOX, os.O_RDONLY | os.O_CLOEXEC)
    enter()
    os.chdir(path)
    _execute(busybox, ["tar", "-x", "-p", "-f", "-"])


def tell_path(enter: Callable[[], None], path: str) -> None:
    """Writes what is at ``path``: ``missing``, or the kind of what a symbolic link leads to, and then of itself."""
    enter()
    try:
        itself = os.lstat(path)
        target = os.stat(path)
    except FileNotFoundError:
        os.write(1, b"missing missing")
        return
    os.write(1, f"{_kind(target.st_mode)} {_kind(itself.st_mode)}".encode())


def tell_changes(upper: str, lower: str) -> None:
    """Writes what the writable layer changes, ``A``, ``C`` or ``D`` and a path each, ended by NUL.

    ``upper`` and ``lower`` are the overlay's; a whiteout is a character device 0/0, an opaque directory has an
    attribute (Linux, Documentation/filesystems/overlayfs.rst).
    """
    out = bytearray()

    def tell(kind: str, path: str) -> None:
        out.extend(f"{kind}{path}\0".encode(errors="surrogateescape"))
        if len(out) > 32768:
            _write_all(out)

    waiting = ["/"]
    while waiting:
        folder = waiting.pop()
        if os.path.lexists(lower + folder) and _is_opaque(upper + folder):
            kept = set(os.listdir(upper + folder))
            for name in sorted(os.listdir(lower + folder)):
                if name not in kept:
                    tell("D", os.path.join(folder, name))
        below: list[str] = []
        for entry in sorted(os.scandir(upper + folder), key=lambda entry: entry.name):
            path = os.path.join(folder, entry.name)
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                tell("D", path)
                continue
            tell("C" if os.path.lexists(lower + path) else "A", path)
            if stat.S_ISDIR(status.st_mode):
                below.append(path)
        waiting.extend(reversed(below))
    _write_all(out)


def tell_layer(upper: str, skip: Collection[str], freeze: str, ids: IdMaps | None = None) -> None:
    """Writes the writable layer as a layer of an image, while the control group at ``freeze``, if any, stands still.

    ``ids`` are the container's, if it has any of its own.
    """
    from zonal.agent.layers import write_layer

    out = bytearray()

    def write(data: bytes) -> None:
        out.extend(data)
        if len(out) > 32768:
            _write_all(out)

    _set_frozen(freeze, frozen=True)
    try:
        write_layer(upper, skip, write, ids)
        _write_all(out)
    finally:
        _set_frozen(freeze, frozen=False)


def tell_processes(cgroup: str) -> None:
    """Writes the processes of a control group and those below it: eleven texts each, every one ended by NUL.

    Number, parent's, user's, terminal, state, start (ns of the wall clock), CPU time (ns), virtual and resident bytes,
    name, command line; numbers as in the container (proc_pid_status(5), NSpid).
    """
    tick, page = 1_000_000_000 // os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGESIZE")
    booted = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    inner: dict[str, str] = {}
    found: list[tuple[str, list[str], str, str, str]] = []
    for folder, _, _ in os.walk(cgroup):
        for pid in _read(f"{folder}/cgroup.procs").split():
            try:
                text = _read(f"/proc/{pid}/stat")
                name, fields = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
                status = dict(
                    line.split(":\t", 1) for line in _read(f"/proc/{pid}/status").splitlines() if ":\t" in line
                )
                command = _read(f"/proc/{pid}/cmdline").replace("\0", " ").strip()
            except (OSError, ValueError):
                continue  # it has just ended
            inner[pid] = status["NSpid"].split()[-1]
            found.append((pid, fields, name, command, status["Uid"].split()[0]))
    out = bytearray()
    for pid, fields, name, command, uid in found:
        major, minor = os.major(int(fields[4])), os.minor(int(fields[4]))
        texts = [
            inner[pid],
            inner.get(fields[1], "0"),
            uid,
            f"pts/{minor + ((major - 136) << 8)}" if 136 <= major <= 143 else "",  # devices.txt: Unix98 terminals
            fields[0],
            str(booted + int(fields[19]) * tick),
            str((int(fields[11]) + int(fields[12])) * tick),
            fields[20],
            str(int(fields[21]) * page),
            name,
            command or f"[{name}]",
        ]
        out += "".join(f"{text}\0" for text in texts).encode(errors="surrogateescape")
    _write_all(out)


def _read(path: str) -> str:
    with open(path, errors="surrogateescape") as file:
        return file.read()


def _set_frozen(cgroup: str, *, frozen: bool) -> None:
    """Linux, Documentation/admin-guide/cgroup-v2.rst: cgroup.freeze, and "frozen" in cgroup.events."""
    if not cgroup:
        return
    with open(f"{cgroup}/cgroup.freeze", "w") as file:
        file.write(str(int(frozen)))
    for _ in range(_FREEZE_TURNS if frozen else 0):
        with open(f"{cgroup}/cgroup.events") as file:
            if "frozen 1" in file.read():
                return
        time.sleep(_FREEZE_PAUSE)


def _execute(program: int, arguments: list[str]) -> None:
    os.execve(program, arguments, {})


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "directory"
    if stat.S_ISLNK(mode):
        return "link"
    return "file" if stat.S_ISREG(mode) else "other"


def _is_opaque(path: str) -> bool:
    try:
        return os.getxattr(path, "trusted.overlay.opaque", follow_symlinks=False) == b"y"
    except OSError:
        return False


def _write_all(data: bytearray) -> None:
    while data:
        del data[: os.write(1, data)]
