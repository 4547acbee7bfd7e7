from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import subprocess
import termios
from collections.abc import Iterator

import pytest

from tests.unit.cli.conftest import TIMEOUT, Zonal


class Terminal:
    """A pseudo-terminal with the command line at its other end."""

    def __init__(self, zonal: Zonal, *arguments: str) -> None:
        self.master, slave = os.openpty()
        self.resize(30, 100)
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *zonal.start_command(*arguments)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=zonal.environment,
        )
        self.seen = b""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def type(self, text: bytes) -> None:
        os.write(self.master, text)

    def read_until(self, pattern: bytes) -> re.Match[bytes]:
        while not (match := re.search(pattern, self.seen)):
            assert select.select([self.master], [], [], TIMEOUT)[0], self.seen
            self.seen += os.read(self.master, 4096)
        self.seen = self.seen[match.end() :]
        return match

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.slave)
        os.close(self.master)


@pytest.fixture
def shell(zonal: Zonal) -> Iterator[Terminal]:
    terminal = Terminal(zonal, "run", "--rm", "-it", "-e", "PS1=$ ", "local:1", "sh")
    yield terminal
    terminal.close()


def test_a_shell_echoes_knows_its_size_and_ends(shell: Terminal) -> None:
    shell.read_until(rb"\$ ")
    shell.type(b"stty size; tty; echo $TERM\n")
    shell.read_until(rb"30 100\r\n/dev/pts/\d+\r\nxterm\r\n")
    shell.type(b"exit 5\n")
    assert shell.process.wait(TIMEOUT) == 5
    assert termios.tcgetattr(shell.slave) == shell.before


def test_a_change_of_size_is_passed_on(zonal: Zonal) -> None:
    script = "trap 'stty size; exit 3' WINCH; echo set; while :; do sleep 0.05; done"
    terminal = Terminal(zonal, "run", "--rm", "-it", "local:1", "sh", "-c", script)
    try:
        terminal.read_until(rb"set\r\n")
        terminal.resize(41, 121)
        terminal.read_until(rb"41 121\r\n")
        assert terminal.process.wait(TIMEOUT) == 3
    finally:
        terminal.close()


def test_control_c_interrupts_inside_and_not_the_client(shell: Terminal) -> None:
    shell.read_until(rb"\$ ")
    # Said by who has the terminal: a shell that is interrupted before it hands that over waits for the child's end.
    shell.type(b"sh -c 'echo sleeping; exec sleep 1000'; echo woken $?\n")
    shell.read_until(rb"\r\nsleeping\r\n")
    shell.type(b"\x03")
    shell.read_until(rb"\$ ")
    shell.type(b"echo still here\n")
    shell.read_until(rb"\r\nstill here\r\n")


def test_the_detach_keys_leave_the_zone_running(zonal: Zonal) -> None:
    terminal = Terminal(zonal, "run", "-it", "--name", "kept", "-e", "PS1=$ ", "local:1", "sh")
    try:
        terminal.read_until(rb"\$ ")
        terminal.type(b"\x10")
        terminal.type(b"\x11")
        assert terminal.process.wait(TIMEOUT) == 0
        assert termios.tcgetattr(terminal.slave) == terminal.before
        assert "kept" in zonal.names()
    finally:
        terminal.close()
        zonal("rm", "-f", "kept")


def test_the_terminal_is_put_right_when_zonald_goes_away(zonal: Zonal, shell: Terminal) -> None:
    shell.read_until(rb"\$ ")
    names = zonal.names()
    zonal("rm", "-f", *names)
    assert shell.process.wait(TIMEOUT) == 137
    assert termios.tcgetattr(shell.slave) == shell.before


def test_a_terminal_without_input_is_interrupted_by_a_signal(zonal: Zonal) -> None:
    terminal = Terminal(
        zonal, "run", "--rm", "-t", "local:1", "sh", "-c", "trap 'exit 6' INT; echo on; while :; do sleep 0.05; done"
    )
    try:
        terminal.read_until(rb"on\r+\n")
        terminal.type(b"\x03")
        assert terminal.process.wait(TIMEOUT) == 6
    finally:
        terminal.close()
