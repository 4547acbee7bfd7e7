"""Where the ``zonal`` command begins: it has the command server run it, or does so itself.

Importing the command line takes longer than most commands: 2 to 3 s in an emulated host. The command server has it
all imported, and forks for each command. This end stays as light as can be, so it imports only what Python has built
in. It hands over its arguments, environment and open files, then passes signals on until the status comes back; on a
machine without the server, or where the command could behave differently there, it runs the command right here.
"""

from __future__ import annotations

import _socket  # the modules signal, socket, types and typing import so much that it would be felt
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from types import FrameType
else:
    import _signal as signal

SOCKET = "/run/zonal/command.sock"
PROTOCOL = b"zonal-command-1"
FORWARDED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Signals meant for the command: passed on to whatever runs it."""
DESCRIPTORS = 4
"""Passed with a request: standard input, output and error, and the working directory."""
EXITED, KILLED, DECLINED = b"x", b"k", b"n"
"""Kinds of answer: ended with a status, ended by a signal (each with one byte more), not to be run by the server."""
_STATUS_LOST = 125


def main() -> None:
    """The ``zonal`` command; always exits."""
    status = _run_by_server()
    if status is None:
        from zonal.cli.main import main as run_here

        run_here()
    os._exit(status or 0)


def root_identity() -> bytes:
    """What tells whether two processes see the same files: mount namespace and root directory."""
    root = os.stat("/")
    return f"{os.readlink('/proc/self/ns/mnt')} {root.st_dev} {root.st_ino}".encode()


def _run_by_server() -> int | None:
    try:
        _open_standard_files()
        # A command in the background must stop when it reads its terminal, which the kernel sees to only here.
        if os.isatty(0) and os.tcgetpgrp(0) != os.getpgrp():
            return None
        link = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        link.connect(SOCKET)
        request = _request()
        here = os.open(".", os.O_PATH | os.O_DIRECTORY)
    except OSError:
        return None
    _forward_signals(link)
    try:
        _send(link, request, here)
        answer = _receive(link)
    except OSError:
        answer = b""
    if answer[:1] == DECLINED:
        _restore_signals()
        link.close()
        return None
    if answer[:1] == EXITED:
        return answer[1]
    if answer[:1] == KILLED:
        signal.signal(answer[1], signal.SIG_DFL)
        os.kill(os.getpid(), answer[1])
    os.write(2, b"zonal: the command server was stopped, or has lost this command\n")
    return _STATUS_LOST


def _open_standard_files() -> None:
    # Whatever opens next would get the number of one that is closed, and be taken for it.
    while os.open(os.devnull, os.O_RDWR) < 3:
        pass


def _request() -> bytes:
    umask = os.umask(0o077)
    os.umask(umask)
    arguments = [os.fsencode(argument) for argument in sys.argv[1:]]
    environment = [name + b"=" + value for name, value in os.environb.items()]
    fields = [PROTOCOL, root_identity(), b"%o" % umask, b"%d" % len(arguments), *arguments, *environment]
    data = b"\0".join(fields)
    return len(data).to_bytes(4, "little") + data


def _send(link: _socket.socket, request: bytes, here: int) -> None:
    descriptors = b"".join(number.to_bytes(4, sys.byteorder) for number in (0, 1, 2, here))
    ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, descriptors)]
    sent = link.sendmsg([request], ancillary)
    link.sendall(memoryview(request)[sent:])


def _receive(link: _socket.socket) -> bytes:
    answer = b""
    while len(answer) < 2:
        data = link.recv(2 - len(answer))
        if not data:
            return b""
        answer += data
    return answer


def _forward_signals(link: _socket.socket) -> None:
    def forward(number: int, _frame: FrameType | None) -> None:
        try:
            link.send(bytes((number,)))
        except OSError:
            pass  # It has just ended.

    def stop(_number: int, _frame: FrameType | None) -> None:
        forward(signal.SIGSTOP, None)
        os.kill(os.getpid(), signal.SIGSTOP)

    def go_on(_number: int, _frame: FrameType | None) -> None:
        if not os.isatty(0) or os.tcgetpgrp(0) == os.getpgrp():
            forward(signal.SIGCONT, None)

    # What our starter had us ignore stays ignored, as with nohup(1).
    for number in (*FORWARDED, signal.SIGWINCH):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, forward)
    if signal.getsignal(signal.SIGTSTP) != signal.SIG_IGN:
        signal.signal(signal.SIGTSTP, stop)
    signal.signal(signal.SIGCONT, go_on)


def _restore_signals() -> None:
    for number in (*FORWARDED, signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT):
        if signal.getsignal(number) != signal.SIG_IGN:
            default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, default)


if __name__ == "__main__":
    main()
