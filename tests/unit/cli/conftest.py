from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# Who runs the tests may have ignored SIGINT, as shells do for what runs in the background.
ZONAL = ("env", "--default-signal", sys.executable, "-m", "zonal.cli.main")
TIMEOUT = 30


@dataclass
class Zonal:
    """The command line, talking to a zonald whose zones are processes of this machine."""

    path: Path
    state: Path
    process: subprocess.Popen[bytes]

    @property
    def environment(self) -> dict[str, str]:
        keep = {k: v for k, v in os.environ.items() if not k.startswith("ZONAL")}
        return keep | {"ZONAL_HOST": str(self.path), "PYTHONDONTWRITEBYTECODE": "1"}

    def __call__(
        self, *arguments: str, stdin: bytes | None = None, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*ZONAL, *arguments],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=TIMEOUT,
            check=False,
            env=self.environment | (env or {}),
        )

    def start_command(self, *arguments: str) -> list[str]:
        return [*ZONAL, *arguments]

    def start(self, *arguments: str, **streams: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen[bytes]([*ZONAL, *arguments], env=self.environment, **streams)

    def names(self) -> list[str]:
        """Of all zones."""
        lines = self("zone", "ls", "-a").stdout.decode().splitlines()[1:]
        return [line.split()[1] for line in lines]


@contextmanager
def local_zonald(folder: Path) -> Generator[Zonal]:
    run = folder / "run"
    log = folder / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, log.open("wb") as stderr:
        ready.bind(str(folder / "notify"))
        ready.settimeout(TIMEOUT)
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.unit.daemon.local_zonald", str(run / "zonald.sock"), str(folder / "state")],
            stderr=stderr,
            env=os.environ | {"NOTIFY_SOCKET": str(folder / "notify")},
        )
        try:
            assert ready.recv(100) == b"READY=1", log.read_text()
            yield Zonal(run / "zonald.sock", folder / "state", process)
        finally:
            process.terminate()
            assert process.wait(TIMEOUT) == 0, log.read_text()


@pytest.fixture(scope="session")
def zonal() -> Iterator[Zonal]:
    with tempfile.TemporaryDirectory(prefix="zonal-") as path, local_zonald(Path(path)) as made:
        yield made
