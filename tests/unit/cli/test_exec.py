from __future__ import annotations

import subprocess

import pytest

from tests.unit.cli.conftest import TIMEOUT, Zonal
from tests.unit.cli.test_terminal import Terminal
from zonal.cli.terminal import DetachKeys, parse_detach_keys
from zonal.errors import InvalidInputError

LOOP = "while :; do sleep 0.05; done"


def detached(zonal: Zonal, name: str, script: str = LOOP, *options: str) -> None:
    assert zonal("run", "-d", "--rm", "--name", name, *options, "local:1", "sh", "-c", script).returncode == 0


def test_streams_status_and_variables(zonal: Zonal) -> None:
    detached(zonal, "here")
    done = zonal("exec", "-i", "-e", "A=ü", "here", "sh", "-c", "echo $A; cat; echo err >&2; exit 7", stdin=b"in")
    assert (done.stdout.decode(), done.stderr, done.returncode) == ("ü\nin", b"err\n", 7)
    assert zonal("exec", "-w", "/usr", "here", "pwd").stdout == b"/usr\n"
    assert zonal("zone", "exec", "here", "no-such").returncode == 127
    assert zonal("exec", "here", "/etc").returncode == 126
    done = zonal("exec", "-d", "here", "sleep", "1000")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    zonal("rm", "-f", "here")
    assert zonal("exec", "here", "true").returncode == 125


def test_a_shell_in_a_terminal_that_is_left(zonal: Zonal) -> None:
    detached(zonal, "typed")
    terminal = Terminal(zonal, "exec", "-it", "-e", "PS1=$ ", "--detach-keys", "ctrl-a,x", "typed", "sh")
    try:
        terminal.read_until(rb"\$ ")
        terminal.type(b"stty size; echo \x10\x11$TERM\n")
        terminal.read_until(rb"30 100\r\n.*xterm\r\n")
        terminal.type(b"\x01x")
        assert terminal.process.wait(TIMEOUT) == 0
    finally:
        terminal.close()
        zonal("rm", "-f", "typed")


def test_signals_and_output_of_an_attached_client(zonal: Zonal) -> None:
    detached(zonal, "both", "trap 'echo got' HUP; trap 'exit 9' INT; while :; do echo on; sleep 0.05; done")
    with zonal.start("attach", "--no-stdin", "both", stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"on\n"
        with zonal.start("attach", "--sig-proxy=false", "both", stdout=subprocess.PIPE) as other:
            assert other.stdout
            other.stdout.readline()
            other.send_signal(2)
            assert other.wait(TIMEOUT) == 130
        process.send_signal(1)
        while process.stdout.readline() != b"got\n":
            pass
        process.send_signal(2)
        assert process.wait(TIMEOUT) == 9


def test_a_detached_terminal_is_taken_up(zonal: Zonal) -> None:
    done = zonal("run", "-dit", "--name", "later", "-e", "PS1=$ ", "local:1", "sh")
    assert done.returncode == 0, done.stderr
    terminal = Terminal(zonal, "attach", "later")
    try:
        terminal.type(b"stty size\n")
        terminal.read_until(rb"30 100\r\n")
        terminal.type(b"exit 4\n")
        assert terminal.process.wait(TIMEOUT) == 4
    finally:
        terminal.close()
        zonal("rm", "-f", "later")


@pytest.mark.parametrize(
    ("text", "keys"),
    [("ctrl-p,ctrl-q", b"\x10\x11"), ("ctrl-@,a", b"\0a"), ("ctrl-[,ctrl-_", b"\x1b\x1f"), ("", b"")],
)
def test_detach_keys_as_docker_writes_them(text: str, keys: bytes) -> None:
    assert parse_detach_keys(text) == keys


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-1", "ab", "ctrl-p,,ctrl-q", "ä"])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError):
        parse_detach_keys(text)


def test_keys_are_found_however_they_are_cut() -> None:
    keys = DetachKeys(b"aab")
    assert keys.filter(b"xa") == b"x"
    assert keys.filter(b"a") == b""
    assert keys.filter(b"a") == b"a"
    assert keys.filter(b"c") == b"aac"
    assert keys.filter(b"zaa") == b"z"
    assert keys.filter(b"bq") == b""
    assert keys.detached
