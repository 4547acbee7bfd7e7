"""PID 1's duty: takes the status of every child that ends, its own and orphans alike."""

from __future__ import annotations

import _signal  # pyright: ignore[reportMissingImports]  # the signal module imports enum, 35 ms in an emulated host
import os

from zonal.agent.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zonal.agent.loop import Loop

SIGKILL, SIGPIPE, SIGTERM, SIGCHLD, SIGXFSZ = 9, 13, 15, 17, 25  # asm/signal.h
_ENVIRONMENT = {"PATH": "/usr/bin:/bin"}
_MAX_ERROR = 4096  # fits into a pipe: the child must not wait for a reader
_DEFAULTS = [SIGPIPE, SIGXFSZ]  # Python ignores them; children should not


def send_signal(pid: int, number: int) -> None:
    """kill(2) to one process, never to a group or to all; one that is gone needs none. Raises ``OSError``."""
    if pid <= 0:
        raise ValueError(f"not the number of one process: {pid}")
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def kill_all() -> None:
    """SIGKILL to every process but the caller: PID 1's way to end its zone, and refused to anybody else."""
    if os.getpid() != 1:
        raise RuntimeError("only PID 1 may kill everything: anywhere else that would be somebody's whole machine")
    try:
        os.kill(-1, SIGKILL)
    except ProcessLookupError:  # nobody is left
        pass


def fork_child(work: Callable[[], None], errors: int) -> int:
    """A child that does ``work`` and ends with 0, or with 1 once it has told on descriptor ``errors`` why it cannot."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    except Exception as error:
        reason = str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        os.write(errors, reason.encode(errors="replace")[:_MAX_ERROR])
    finally:
        os._exit(status)


class Reaper:
    """Tells each awaited process's end to its callback, with the status as waitpid(2) gives it.

    A container's first process ends up as a child of PID 1 without having been started by it, and may have ended before
    its number is known. So while ``holding``, statuses that nobody awaits are kept.
    """

    def __init__(self, loop: Loop) -> None:
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._unclaimed: dict[int, int] = {}
        self._holders = 0
        read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeup = read_end
        _signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)  # pyright: ignore[reportUnknownMemberType]
        _signal.signal(SIGCHLD, _wake_only)  # pyright: ignore[reportUnknownMemberType]
        loop.watch(read_end, READ, self._on_signal)

    def spawn(self, arguments: list[str], files: tuple[int, int, int], done: Callable[[int], None]) -> int:
        """Starts a program with ``files`` as its standard ones, and no others; ``done(status)`` comes later."""
        actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(files)]
        pid = os.posix_spawn(
            arguments[0],
            arguments,
            _ENVIRONMENT,
            file_actions=actions,
            setsigdef=_DEFAULTS,
            setsigmask=[],
        )
        self.expect(pid, done)
        return pid

    def expect(self, pid: int, done: Callable[[int], None]) -> None:
        """Calls ``done(status)`` when ``pid`` has ended, at once if it has already."""
        if pid in self._unclaimed:
            done(self._unclaimed.pop(pid))
        else:
            self._callbacks[pid] = done

    def hold(self) -> None:
        """From now on, keeps the statuses of processes that nobody awaits yet; ``release`` ends it."""
        self._holders += 1

    def release(self) -> None:
        """Undoes one ``hold``."""
        self._holders -= 1
        if not self._holders:
            self._unclaimed.clear()

    def _on_signal(self, _events: int) -> None:
        os.read(self._wakeup, 4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            callback = self._callbacks.pop(pid, None)
            if callback:
                callback(status)
            elif self._holders:
                self._unclaimed[pid] = status


def _wake_only(_number: int, _frame: object) -> None:
    """The byte in the wake-up pipe is what matters; a handler has to be there for it."""
