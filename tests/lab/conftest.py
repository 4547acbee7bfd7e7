"""The lab as tests see it: one lab for a whole session, with the verbs that a person would use.

Its name is ``$ZONAL_TEST_LAB``, or ``test``. It is put to sleep at the end, so the next session begins in a second.
"""

from __future__ import annotations

import io
import json
import os
import select
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from zonal.lab.access import ssh_command
from zonal.lab.paths import LabPaths, cache
from zonal.lab.recipe import LIB, PYTHON, SOURCE
from zonal.lab.state import Run, load
from zonal.lab.wheels import fetch_command, pinned

PROJECT = Path(__file__).parents[2]
COMMAND_SECONDS = 600
HOST_TEST_PACKAGES = ("pytest", "pytest-asyncio", "hypothesis", "cbor2", "pyyaml")
HOST_TEST_LIB = "/opt/zonal/test-lib"
HOST_TEST_FOLDER = "/opt/zonal/tests"
_BEGUN = pytest.StashKey[float]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what is beside this file, and nothing else."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.lab)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Where time is short, as on a machine that others load as well, what does not fit is left out, and said to be."""
    budget = float(os.environ.get("ZONAL_LAB_TEST_SECONDS", "inf"))
    begun = item.session.stash.setdefault(_BEGUN, time.monotonic())
    if time.monotonic() - begun > budget:
        pytest.skip(f"the {budget:.0f} s for tests in the lab are used up")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows what the host had to say about it."""
    report = yield
    lab = getattr(item, "funcargs", {}).get("lab")
    if report.failed and isinstance(lab, Lab):
        with suppress(OSError, subprocess.SubprocessError, AssertionError):
            said = lab.shell("journalctl --no-pager -o short-precise -n 80 -u zonald; dmesg | tail -n 20", seconds=60)
            report.sections.append(("what zonald and the kernel of the host said", said.out))
    return report


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def out(self) -> str:
        """Standard output as text, without the line's end."""
        return self.stdout.decode().removesuffix("\n")

    @property
    def err(self) -> str:
        """Standard error as text."""
        return self.stderr.decode()

    def check(self) -> Result:
        """Itself, if the command succeeded."""
        assert self.status == 0, f"status {self.status}\nstdout: {self.stdout!r}\nstderr: {self.err}"
        return self


@dataclass(frozen=True)
class Lab:
    """A lab, by its name."""

    name: str

    @property
    def paths(self) -> LabPaths:
        """Its files on this machine."""
        return cache().lab(self.name)

    @property
    def run(self) -> Run:
        """The QEMU that runs now."""
        state = load(self.paths)
        assert state is not None
        assert state.run is not None
        return state.run

    def command(self, *arguments: str) -> list[str]:
        """The command line of ``zonal`` with ``arguments``, for tests that start it themselves."""
        return [sys.executable, "-m", "zonal.cli.main", *arguments]

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment in which ``zonal`` uses this lab."""
        mine = {name: value for name, value in os.environ.items() if name != "ZONAL_HOST"}
        return {**mine, "ZONAL_LAB": self.name, **(more or {})}

    def zonal(self, *arguments: str, input: bytes = b"", env: Mapping[str, str] | None = None) -> Result:
        """Runs ``zonal`` with ``arguments`` to its end."""
        done = subprocess.run(
            self.command(*arguments),
            input=input,
            capture_output=True,
            check=False,
            timeout=COMMAND_SECONDS,
            env=self.environment(env),
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def shell(self, line: str, input: bytes = b"", seconds: float = COMMAND_SECONDS) -> Result:
        """Runs a line of shell in the host as root, without `zonal` in between; the lab must be up."""
        argv = ssh_command(self.paths, self.run.ssh_port, [line])
        done = subprocess.run(argv, input=input, capture_output=True, check=False, timeout=seconds)
        return Result(done.returncode, done.stdout, done.stderr)

    def status(self) -> dict[str, Any]:
        """What ``zonal lab status`` says."""
        return json.loads(self.zonal("lab", "status", "--json").check().stdout)

    def up(self, *options: str) -> Result:
        """Brings the lab up."""
        return self.zonal("lab", "up", *options).check()

    def down(self, *options: str) -> Result:
        """Puts the lab to sleep."""
        return self.zonal("lab", "down", *options).check()

    def kill_qemu(self) -> None:
        """Ends QEMU as kill -9 does, and returns when it has ended."""
        process = os.pidfd_open(self.status()["qemu_pid"])
        try:
            signal.pidfd_send_signal(process, signal.SIGKILL)
            select.select([process], [], [])
        finally:
            os.close(process)

    def host_pytest(self, *arguments: str, env: Mapping[str, str] | None = None) -> Result:
        """Runs pytest with ``arguments`` (paths as in the project) in the host, on the tests as they are now."""
        with tempfile.TemporaryDirectory() as folder:
            pins = pinned(HOST_TEST_PACKAGES)
            if self.shell(f"cat {HOST_TEST_LIB}/pins").out != "\n".join(pins):
                wheels = Path(folder) / "wheels"
                subprocess.run(fetch_command(pins, PYTHON, wheels), check=True, stdin=subprocess.DEVNULL)
                (wheels / "pins").write_text("\n".join(pins))
                self.push(wheels, HOST_TEST_LIB)
        self.push(PROJECT / "tests", f"{HOST_TEST_FOLDER}/tests")
        settings = (PROJECT / "pyproject.toml").read_bytes()
        self.shell(f"cat > {HOST_TEST_FOLDER}/pyproject.toml", settings).check()
        path = ":".join((SOURCE, LIB, HOST_TEST_LIB))
        quoted = " ".join(f"'{argument}'" for argument in arguments)
        variables = " ".join(f"{name}='{value}'" for name, value in {"PYTHONPATH": path, **(env or {})}.items())
        return self.shell(f"cd {HOST_TEST_FOLDER} && {variables} python3 -m pytest {quoted}", seconds=1800)

    def push(self, folder: Path, target: str) -> None:
        """Puts a copy of ``folder`` in the place of ``target`` in the host."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.add(folder, ".", filter=_without_caches)
        self.shell(f"rm -rf '{target}' && mkdir -p '{target}' && tar -x -C '{target}'", buffer.getvalue()).check()


@pytest.fixture(scope="session")
def lab() -> Generator[Lab]:
    """A lab that is up."""
    made = Lab(os.environ.get("ZONAL_TEST_LAB", "test"))
    made.up()
    yield made
    made.down()


def _without_caches(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if "__pycache__" in member.name or member.name.endswith(".pyc"):
        return None
    member.uid = member.gid = 0
    return member
