"""The command server and its client as processes: whatever a command does by itself, it does by the server too."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[3] / "src"
CLIENT = (
    "import sys; sys.path.insert(0, {source!r}); from zonal.cli import start; start.SOCKET = {socket!r}; start.main()"
)
SERVER = "from zonal.cli import command_server; command_server.main({socket!r})"
PATIENCE = 60.0


@dataclass
class Served:
    server: subprocess.Popen[bytes]
    socket: Path

    def command(self, *arguments: str) -> list[str]:
        text = CLIENT.format(source=str(SOURCE), socket=str(self.socket))
        return [sys.executable, "-IS", "-c", text, *arguments]

    def workers(self) -> list[int]:
        children = Path(f"/proc/{self.server.pid}/task/{self.server.pid}/children")
        return [int(number) for number in children.read_text().split()]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    path = tmp_path_factory.mktemp("command") / "command.sock"
    with subprocess.Popen([sys.executable, "-c", SERVER.format(socket=str(path))]) as server:
        until(path.exists)
        until(lambda: answers(path))
        yield Served(server, path)
        server.terminate()


@pytest.fixture
def silent_zonald(tmp_path: Path) -> Generator[str]:
    """A socket that takes connections and says nothing: a command that asks it for something stays."""
    path = tmp_path / "silent.sock"
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(path))
        listener.listen(8)
        yield str(path)


def answers(path: Path) -> bool:
    with closing(socket.socket(socket.AF_UNIX)) as link, suppress(OSError):
        link.connect(str(path))
        return True
    return False


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, condition
        time.sleep(0.02)


def run_here(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from zonal.cli.main import main; main()", *arguments]


@pytest.mark.parametrize(
    "arguments",
    [
        ("version",),
        ("--help",),
        ("run", "--help"),
        ("no-such-command",),
        ("run",),
        ("run", "--memory", "0", "debian:13"),
        ("--host", "relative", "info"),
        ("info", "--host", "/no/such.sock"),
        ("run", "--env-file", "no-such-file", "image"),
        ("run", "--env-file", "variables\udcff", "image"),
        ("run", "-e", "=ü x", "image"),
    ],
)
def test_a_command_says_and_returns_the_same(served: Served, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    here = subprocess.run(run_here(*arguments), capture_output=True, cwd=tmp_path, check=False)
    there = subprocess.run(served.command(*arguments), capture_output=True, cwd=tmp_path, check=False)
    assert (there.returncode, there.stdout, there.stderr) == (here.returncode, here.stdout, here.stderr)


def test_it_is_the_server_that_runs_them(served: Served, silent_zonald: str) -> None:
    with subprocess.Popen(served.command("info", "--host", silent_zonald)) as client:
        until(lambda: len(served.workers()) == 2)
        assert not Path(f"/proc/{client.pid}/task/{client.pid}/children").read_text()
        client.kill()
    until(lambda: len(served.workers()) == 1)


def test_environment_and_working_directory_are_the_clients(served: Served, tmp_path: Path) -> None:
    (tmp_path / "variables").write_text("one two=3\n")
    result = subprocess.run(
        served.command("run", "--env-file", "variables", "image"), cwd=tmp_path, capture_output=True, check=False
    )
    assert b"variables, line 1" in result.stderr
    environment = {**os.environ, "ZONAL_HOST": "/from/the/environment"}
    result = subprocess.run(served.command("info"), env=environment, capture_output=True, check=False)
    assert b"/from/the/environment" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signals_end_a_command_as_they_do_here(served: Served, silent_zonald: str, number: signal.Signals) -> None:
    with subprocess.Popen(served.command("info", "--host", silent_zonald), stderr=subprocess.PIPE) as client:
        until(lambda: len(served.workers()) == 2)
        (worker,) = [process for process in served.workers() if Path(f"/proc/{process}/fd/2").resolve() != null(served)]
        until(lambda: b"grpc" in Path(f"/proc/{worker}/maps").read_bytes())
        time.sleep(0.2)
        client.send_signal(number)
        expected = 130 if number == signal.SIGINT else -number
        assert client.wait(PATIENCE) == expected


def null(served: Served) -> Path:
    return Path(f"/proc/{served.server.pid}/fd/2").resolve()


def test_a_client_killed_takes_its_command_along_even_stopped(served: Served, silent_zonald: str) -> None:
    with subprocess.Popen(served.command("info", "--host", silent_zonald)) as client:
        until(lambda: len(served.workers()) == 2)
        client.send_signal(signal.SIGTSTP)
        until(lambda: "T (stopped)" in Path(f"/proc/{client.pid}/status").read_text())
        until(lambda: any("T (stopped)" in Path(f"/proc/{w}/status").read_text() for w in served.workers()))
        client.kill()
    until(lambda: len(served.workers()) == 1)


def test_a_command_that_goes_on_after_a_stop(served: Served, silent_zonald: str) -> None:
    with subprocess.Popen(served.command("info", "--host", silent_zonald), stdin=subprocess.DEVNULL) as client:
        until(lambda: len(served.workers()) == 2)
        client.send_signal(signal.SIGTSTP)
        until(lambda: any("T (stopped)" in Path(f"/proc/{w}/status").read_text() for w in served.workers()))
        client.send_signal(signal.SIGCONT)
        until(lambda: not any("T (stopped)" in Path(f"/proc/{w}/status").read_text() for w in served.workers()))
        client.kill()
    until(lambda: len(served.workers()) == 1)


def test_closed_standard_files_do_no_harm(served: Served) -> None:
    shell = ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *served.command("version")]
    assert subprocess.run(shell, check=False).returncode == 0


def test_a_reader_that_leaves_is_no_traceback(served: Served) -> None:
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run(served.command("--help"), stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (result.returncode, result.stderr) == (1, b"")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xff\xff\xff",
        b"\x04\0\0\0abc",
        b"\x04\0\0\0abcd",
        b"\x14\0\0\0zonal-command-1\0x\0y\0z",
    ],
)
def test_what_is_no_request_ends_with_its_connection(served: Served, data: bytes) -> None:
    for descriptors in ([], [0], [0, 1, 2, 0], [0] * 9):
        with closing(socket.socket(socket.AF_UNIX)) as link:
            link.settimeout(PATIENCE)
            link.connect(str(served.socket))
            if data:
                socket.send_fds(link, [data], descriptors)
            link.shutdown(socket.SHUT_WR)
            with suppress(ConnectionResetError):
                while link.recv(100):
                    pass
    version = subprocess.run(served.command("version"), capture_output=True, check=True)
    assert version.stdout
    until(lambda: len(served.workers()) == 1)


def test_many_at_once(served: Served) -> None:
    clients = [subprocess.Popen(served.command("version"), stdout=subprocess.PIPE) for _ in range(12)]
    outputs = {client.communicate(timeout=PATIENCE)[0] for client in clients}
    assert len(outputs) == 1
    assert {client.returncode for client in clients} == {0}


def test_without_a_server_the_command_runs_here(tmp_path: Path) -> None:
    text = CLIENT.format(source=str(SOURCE), socket=str(tmp_path / "none.sock"))
    result = subprocess.run([sys.executable, "-c", text, "version"], capture_output=True, check=True)
    assert result.stdout
