"""Runs ``zonal`` commands for ``zonal.cli.start``, each in a fork of a process that has everything imported.

A request is a length (4 bytes, little endian) and fields parted by NUL: the protocol's name, what the client's file
system is, its umask in octal, the number of arguments, the arguments, the environment. With it come the client's
standard files and working directory (``SCM_RIGHTS``, unix(7)). Then the client sends one byte for every signal that is
to reach the command, and gets two: how it ended, and with what. A client that goes away takes its command along.

One worker is always forked ahead of the next command. Mercurial's chg works in much the same way.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import selectors
import signal
import socket
import struct
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from zonal.cli import connect, timing
from zonal.cli.start import DECLINED, DESCRIPTORS, EXITED, FORWARDED, KILLED, PROTOCOL, SOCKET, root_identity
from zonal.service import log_to_stderr, notify

log = logging.getLogger(__name__)

MAX_REQUEST = 8 << 20
"""Bytes; the kernel lets arguments and environment be no longer than about 6 MB (execve(2))."""
MAX_WORKERS = 64
"""Commands at a time; clients beyond that are told to run theirs by themselves."""
SPARE_DELAY = 0.5
"""Seconds after a command's start until the next worker is forked, so that it does not slow that start down."""
REQUEST_TIMEOUT = 10.0

_PRELOADED = (
    "zonal.cli.main",
    "zonal.cli.run",
    "zonal.cli.zone",
    "zonal.cli.image",
    "zonal.cli.info",
    "zonal.cli.attach",
    "zonal.cli.supply",
    "zonal.cli.timing",
    "zonal.cli.client",
)
_PASSED_ON = (*FORWARDED, signal.SIGWINCH, signal.SIGSTOP, signal.SIGCONT)
_TAKEN = b"t"


@dataclass(eq=False)
class _Worker:
    """A forked process: spare while it has no client."""

    process: int
    link: socket.socket
    client: socket.socket | None = None
    taken: bool = False


class CommandServer:
    """Accepts clients and looks after the workers that run their commands. One thread, no locks."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._workers: set[_Worker] = set()
        self._spare: _Worker | None = None
        self._spare_due = 0.0
        self._selector.register(listener, selectors.EVENT_READ, self._accept)

    def serve(self) -> NoReturn:
        """Until a signal ends it; its workers end with their service."""
        while True:
            wait = None if self._spare else max(0.0, self._spare_due - time.monotonic())
            events = self._selector.select(wait)
            for key, _ in events:
                key.data()
            if not self._spare and time.monotonic() >= self._spare_due:
                self._spare = self._fork()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if not self._welcome(client):
            client.close()
            return
        worker, self._spare = self._spare or self._fork(), None
        self._spare_due = time.monotonic() + SPARE_DELAY
        worker.client = client
        try:
            socket.send_fds(worker.link, [b"c"], [client.fileno()])
        except OSError:
            self._ended(worker)

    def _welcome(self, client: socket.socket) -> bool:
        _, user = _peer(client)
        if user != os.geteuid():
            log.warning("a client of user %d is left to itself", user)
            _answer(client, DECLINED, 0)
            return False
        if len(self._workers) > MAX_WORKERS:
            _answer(client, DECLINED, 0)
            return False
        return True

    def _fork(self) -> _Worker:
        ours, theirs = socket.socketpair()
        process = os.fork()
        if process == 0:
            # Only what is the worker's own: an end of another's link would hide that its owner has gone.
            for worker in self._workers:
                worker.link.close()
                if worker.client:
                    worker.client.close()
            self._selector.close()
            self._listener.close()
            ours.close()
            _work(theirs)
        theirs.close()
        worker = _Worker(process, ours)
        self._workers.add(worker)
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._from_worker(worker))
        return worker

    def _from_worker(self, worker: _Worker) -> None:
        try:
            data = worker.link.recv(1)
        except OSError:
            data = b""
        if data != _TAKEN or not worker.client:
            self._ended(worker)
            return
        worker.taken = True
        self._selector.register(worker.client, selectors.EVENT_READ, lambda: self._from_client(worker))

    def _from_client(self, worker: _Worker) -> None:
        if not worker.client or not worker.taken:
            return  # Its end came in the same turn.
        try:
            numbers = worker.client.recv(64)
        except OSError:
            numbers = b""
        if not numbers:
            # The client was killed, or has its answer; no command goes on without it.
            self._selector.unregister(worker.client)
            worker.taken = False
            os.kill(worker.process, signal.SIGKILL)
            return
        for number in numbers:
            if number in _PASSED_ON:
                os.kill(worker.process, number)

    def _ended(self, worker: _Worker) -> None:
        _, status = os.waitpid(worker.process, 0)
        self._selector.unregister(worker.link)
        worker.link.close()
        if worker.client:
            if worker.taken:
                self._selector.unregister(worker.client)
                worker.taken = False
            if os.WIFSIGNALED(status):
                _answer(worker.client, KILLED, os.WTERMSIG(status))
            worker.client.close()
        self._workers.discard(worker)
        if self._spare is worker:
            self._spare = None
            self._spare_due = time.monotonic() + 1.0
            log.warning("a worker ended before it had a command, with status %d", os.waitstatus_to_exitcode(status))


def main(path: str = SOCKET) -> NoReturn:
    """The service ``zonal-command``, for commands of the user that it runs as: root."""
    log_to_stderr("info")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    for name in _PRELOADED:
        importlib.import_module(name)
    # Forks write into what the collector looks at; what is there now stays for good.
    gc.collect()
    gc.freeze()
    listener = _listen(Path(path))
    server = CommandServer(listener)
    notify("READY=1")
    server.serve()


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(MAX_WORKERS)
    return listener


def _answer(client: socket.socket, kind: bytes, value: int) -> None:
    with suppress(OSError):
        client.sendall(kind + bytes((value,)))


def _work(link: socket.socket) -> NoReturn:
    """A worker's life: waits for its client, runs the command, and answers."""
    kind, status = EXITED, 1
    client: socket.socket | None = None
    try:
        connect.open_ahead()
        _, descriptors, _, _ = socket.recv_fds(link, 1, 1, socket.MSG_CMSG_CLOEXEC)
        if not descriptors:
            os._exit(0)  # The server has gone.
        client = socket.socket(fileno=descriptors[0])
        try:
            arguments = _adopt(client)
        except (OSError, ValueError) as error:
            log.warning("refused a request: %s", error)
            os._exit(0)
        link.send(_TAKEN)
        if arguments is None:
            kind = DECLINED
        else:
            status = _run(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        if client:
            _answer(client, kind, status)
        os._exit(status)


def _run(arguments: list[str]) -> int:
    from zonal.cli.main import main as run_command

    try:
        run_command(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def _adopt(client: socket.socket) -> list[str] | None:
    """Takes the place of the client; its arguments, or ``None`` where the command could do otherwise here than there.

    Raises ``ValueError`` for what is no request, and ``OSError``.
    """
    client.settimeout(REQUEST_TIMEOUT)
    data, descriptors, _, _ = socket.recv_fds(client, 65536, DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
    length = int.from_bytes(data[:4], "little")
    if len(data) < 4 or length > MAX_REQUEST or len(descriptors) != DESCRIPTORS:
        raise ValueError("what a client sent is no request")
    request = bytearray(data[4:])
    while len(request) < length:
        more = client.recv(min(length - len(request), 1 << 16))
        if not more:
            raise ValueError("a client's request ends before its end")
        request += more
    client.settimeout(None)
    protocol, _, rest = bytes(request).partition(b"\0")
    if protocol != PROTOCOL:
        return None
    root, umask, count, *texts = rest.split(b"\0")
    if root != root_identity():
        return None
    *files, here = descriptors
    os.fchdir(here)
    os.close(here)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.umask(int(umask, 8))
    os.environb.clear()
    for text in texts[int(count) :]:
        name, _, value = text.partition(b"=")
        os.environb[name] = value
    time.tzset()
    _open_streams()
    arguments = [os.fsdecode(text) for text in texts[: int(count)]]
    sys.argv = ["zonal", *arguments]
    timing.command_process, _ = _peer(client)
    return arguments


def _open_streams() -> None:
    """Python's own streams on the files of now, as it makes them when it starts."""
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)
    lines = 1 if os.isatty(1) else -1
    sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False, buffering=lines)
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1)


def _peer(link: socket.socket) -> tuple[int, int]:
    """Process and user at the other end (``struct ucred``, unix(7))."""
    size = struct.calcsize("3i")
    process, user, _ = struct.unpack("3i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return process, user


if __name__ == "__main__":
    main()
