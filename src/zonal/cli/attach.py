"""A client of a run, a further process or a workload: output to stdout and stderr; input, size and signals to the zone.

Input and output go by a socket of their own where zonald is on this host, and by the call itself elsewhere. A thread
reads stdin; signals go by calls of their own, since on the run's stream they would queue behind input that the workload
does not read.
"""

from __future__ import annotations

import os
import queue
import select
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from types import FrameType

from zonal.api import control_pb2 as pb
from zonal.cli.client import CallCancelled, Control, Replies
from zonal.cli.errors import warn
from zonal.cli.start import FORWARDED
from zonal.cli.stream_socket import StreamSocket, open_stream_socket
from zonal.cli.terminal import DETACH_KEYS, DetachKeys, raw_mode, terminal_size
from zonal.errors import ZonalError

STDIN_CHUNK = 64 << 10
STDIN_AHEAD = 4
"""Chunks read from stdin that gRPC has not taken yet."""
BROKEN_PIPE = 128 + signal.SIGPIPE
LEAVE_AFTER = 3
"""Interrupts after which the client leaves the zone alone, as docker does."""


@dataclass
class Outcome:
    """How a run ended; times in ns of the client's monotonic clock, 0 where it did not come so far."""

    status: int = 0
    reason: str = ""
    zone_id: str = ""
    name: str = ""
    exec_id: str = ""
    requested_ns: int = 0
    started_ns: int = 0
    exited_ns: int = 0
    phases: list[pb.Phase] = field(default_factory=list[pb.Phase])


@dataclass(frozen=True)
class Manner:
    """How a client attends to a process."""

    terminal: bool = False
    stdin: bool = False
    detach: bool = False
    """Whether it leaves at the start."""
    keys: bytes = DETACH_KEYS
    signals: bool = True
    """Whether signals are passed on."""
    on_started: Callable[[str], None] | None = None
    """Told the zone's id."""


def run_attached(
    control: Control,
    spec: pb.RunSpec,
    keys: bytes = DETACH_KEYS,
    on_started: Callable[[str], None] | None = None,
) -> Outcome:
    """Runs to the workload's end, or with ``spec.detach`` to its start; ``on_started`` is told the zone's id.

    Raises ``ZonalError``.
    """
    stdin = spec.stdin and not spec.detach
    manner = Manner(terminal=spec.terminal, stdin=stdin, detach=spec.detach, keys=keys, on_started=on_started)
    if spec.terminal:
        spec.terminal_size.CopyFrom(_size_message())
    return _Client(control, "Run", pb.RunRequest(spec=spec), manner).go()


def exec_attached(control: Control, spec: pb.ExecSpec, keys: bytes) -> Outcome:
    """A further process in a zone, to its end, or with ``spec.detach`` to its start. Raises ``ZonalError``."""
    manner = Manner(terminal=spec.terminal, stdin=spec.stdin, detach=spec.detach, keys=keys)
    if spec.terminal:
        spec.terminal_size.CopyFrom(_size_message())
    return _Client(control, "Exec", pb.RunRequest(exec=spec), manner).go()


def attach(control: Control, spec: pb.AttachSpec, manner: Manner) -> Outcome:
    """The workload of a zone that runs, from now to its end. Raises ``ZonalError``."""
    if manner.terminal:
        spec.terminal_size.CopyFrom(_size_message())
    return _Client(control, "Attach", pb.RunRequest(attach=spec), manner).go()


class _Client:
    def __init__(self, control: Control, method: str, first: pb.RunRequest, manner: Manner) -> None:
        self._control = control
        self._method = method
        self._first = first
        self._manner = manner
        self._outcome = Outcome(requested_ns=time.monotonic_ns())
        self._requests: queue.SimpleQueue[pb.RunRequest] = queue.SimpleQueue()
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._stdin_room = threading.Semaphore(STDIN_AHEAD)
        self._keys = DetachKeys(manner.keys)
        self._interrupts = 0
        self._last_signal = 0
        self._broken = False
        self._leaving = False
        self._replies: Replies[pb.RunReply] | None = None
        self._streams: StreamSocket | None = None
        self._writing: threading.Thread | None = None

    def go(self) -> Outcome:
        with ExitStack() as stack:
            if not self._manner.detach and (streams := open_stream_socket(self._control.socket)) is not None:
                self._streams = stack.enter_context(closing(streams))
                self._first.streams = streams.token
            self._requests.put(self._first)
            if self._manner.signals:
                stack.enter_context(_handling(FORWARDED, self._on_signal))
            self._replies = self._control.converse(self._method, self._take_requests(), pb.RunReply)
            stack.callback(self._replies.cancel)
            try:
                for reply in self._replies:
                    self._take(reply, stack)
                self._finish_writing()
            except ZonalError:
                self._finish_writing()
                raise
            except CallCancelled:
                self._on_cancelled()
        return self._outcome

    def _take(self, reply: pb.RunReply, stack: ExitStack) -> None:
        match reply.WhichOneof("reply"):
            case "started":
                self._on_started(reply.started, stack)
            case "stdout":
                self._write(1, reply.stdout)
            case "stderr":
                self._write(2, reply.stderr)
            case "exited":
                self._on_exited(reply.exited)
            case _:
                pass  # A newer zonald may say more than this client understands.

    def _on_started(self, started: pb.Started, stack: ExitStack) -> None:
        outcome = self._outcome
        outcome.started_ns = time.monotonic_ns()
        outcome.zone_id, outcome.name = started.zone_id, started.name
        outcome.exec_id = started.exec_id
        outcome.phases = list(started.phases)
        if self._manner.on_started:
            self._manner.on_started(started.zone_id)
        if self._manner.detach:
            return
        threading.Thread(target=self._send_signals, daemon=True).start()
        if self._manner.terminal:
            stack.enter_context(_handling((signal.SIGWINCH,), self._on_resize))
            # The size may have changed while the zone booted.
            self._on_resize(signal.SIGWINCH, None)
        if self._manner.stdin:
            if self._manner.terminal and os.isatty(0):
                stack.enter_context(raw_mode(0))
            threading.Thread(target=self._read_stdin, daemon=True).start()
        if self._streams is not None:
            # Not before the terminal is raw: whoever sees a prompt may type.
            self._writing = threading.Thread(target=self._write_from, args=(self._streams,), daemon=True)
            self._writing.start()

    def _on_exited(self, exited: pb.Exited) -> None:
        outcome = self._outcome
        outcome.exited_ns = time.monotonic_ns()
        outcome.status = BROKEN_PIPE if self._broken else exited.status
        outcome.reason = exited.reason
        outcome.phases = list(exited.phases)

    def _on_cancelled(self) -> None:
        if self._keys.detached:
            return
        if self._broken:
            self._outcome.status = BROKEN_PIPE
            return
        self._outcome.status = 128 + (self._last_signal or signal.SIGINT)
        if self._leaving:
            warn(f"left alone; the zone goes on: zonal zone kill {self._outcome.name}")

    def _take_requests(self) -> Iterator[pb.RunRequest]:
        while True:
            request = self._requests.get()
            yield request
            if request.WhichOneof("request") == "stdin":
                self._stdin_room.release()

    def _read_stdin(self) -> None:
        raw = self._manner.terminal and os.isatty(0)
        while True:
            if self._streams is None:
                self._stdin_room.acquire()
            try:
                data = os.read(0, STDIN_CHUNK)
            except OSError:
                # Closed from the start, or a terminal that went away: either is the end of input.
                data = b""
            if not data:
                if self._streams is not None:
                    self._streams.end()
                else:
                    self._requests.put(pb.RunRequest(stdin_end=True))
                return
            if raw:
                data = self._keys.filter(data)
            if self._streams is not None:
                self._streams.send(data)
            elif data:
                self._requests.put(pb.RunRequest(stdin=data))
            else:
                self._stdin_room.release()
            if self._keys.detached:
                self._cancel()
                return

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._last_signal = number
        if not self._outcome.started_ns:
            # Nothing runs yet: hanging up undoes what is being made.
            self._cancel()
            return
        if number in (signal.SIGINT, signal.SIGTERM):
            self._interrupts += 1
        if self._interrupts >= LEAVE_AFTER:
            self._leaving = True
            self._cancel()
            return
        self._signals.put(number)

    def _on_resize(self, _number: int, _frame: FrameType | None) -> None:
        size = _size_message()
        if size.rows and size.columns:
            self._requests.put(pb.RunRequest(resize=size))

    def _send_signals(self) -> None:
        while True:
            number = self._signals.get()
            try:
                outcome = self._outcome
                request = pb.KillZoneRequest(zone=outcome.zone_id, signal=number, exec_id=outcome.exec_id)
                self._control.call("KillZone", request, pb.KillZoneReply)
            except (ZonalError, CallCancelled, ValueError):
                # It has ended meanwhile, or the connection has; the run's own stream tells that.
                continue

    def _write(self, descriptor: int, data: bytes | memoryview) -> None:
        if self._broken:
            return
        try:
            write_all(descriptor, data)
        except OSError:
            # Nobody reads any more. A pipe's writer would be ended by SIGPIPE; so is the workload, whose first
            # process the kernel shields from every signal but SIGKILL.
            self._broken = True
            if self._method == "Attach":
                self._cancel()  # others may be listening to it
            else:
                self._signals.put(signal.SIGKILL)

    def _write_from(self, streams: StreamSocket) -> None:
        for descriptor, data in streams.output():
            self._write(descriptor, data)

    def _finish_writing(self) -> None:
        """All output is written before the end is told; zonald has closed the socket by then, or soon does."""
        if self._writing is not None:
            self._writing.join()

    def _cancel(self) -> None:
        if self._replies:
            self._replies.cancel()


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Writes all of it, also where another program made the descriptor non-blocking. Raises ``OSError``."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            select.select([], [descriptor], [])


def _size_message() -> pb.TerminalSize:
    rows, columns = terminal_size()
    return pb.TerminalSize(rows=rows, columns=columns)


@contextmanager
def _handling(numbers: tuple[signal.Signals, ...], handler: Callable[[int, FrameType | None], None]) -> Generator[None]:
    # What our starter had us ignore stays ignored: nohup(1) does that, and shells for what runs in the background.
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
