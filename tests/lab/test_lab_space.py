"""A lab whose disk fills up: while it is built, while it runs, and when it is to be saved."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.lab.conftest import COMMAND_SECONDS, Lab
from zonal.lab.paths import cache
from zonal.lab.recipe import recipe

pytestmark = [pytest.mark.lab, pytest.mark.long]

MIB = 1 << 20
NAME = "small"


class SmallDisk:
    """A file system of any size at ``folder``, seen only in a mount namespace; commands run in there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Not root: a user namespace with all ids of ours makes us so.
        more = [] if os.geteuid() == 0 else ["--map-root-user", "--map-auto"]
        script = 'mount -t tmpfs -o mode=755,size=8G zonal "$0" && echo ready && exec sleep infinity'
        self._keeper = subprocess.Popen(
            ["unshare", "--mount", *more, "--", "sh", "-c", script, str(folder)], stdout=subprocess.PIPE
        )
        assert self._keeper.stdout is not None
        assert self._keeper.stdout.readline() == b"ready\n"
        join = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        self._enter = ["nsenter", f"--target={self._keeper.pid}", "--mount", *join, "--"]

    def close(self) -> None:
        """The file system goes with the last process that is in there."""
        self._keeper.kill()
        self._keeper.communicate()

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """``zonal`` with its cache on the small disk."""
        variables = {name: value for name, value in os.environ.items() if name != "ZONAL_HOST"}
        return subprocess.Popen(
            [*self._enter, sys.executable, "-m", "zonal.cli.main", *arguments],
            env={**variables, "ZONAL_CACHE": str(self.folder), "ZONAL_LAB": NAME},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def zonal(self, *arguments: str, status: int = 0) -> str:
        """Both outputs of ``zonal``, which must end with ``status``."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=COMMAND_SECONDS)
        assert process.returncode == status, out + err
        assert "Traceback" not in err
        return out + err

    def run(self, *argv: str) -> str:
        """Any other command in there."""
        return subprocess.run([*self._enter, *argv], check=True, capture_output=True, text=True).stdout

    def leave_free(self, mebibytes: int) -> None:
        """Makes the file system as large as what is in it and this much more."""
        used = int(self.run("df", "--block-size=1", "--output=used", str(self.folder)).split()[-1])
        self.run("mount", "-o", f"remount,size={used + mebibytes * MIB}", str(self.folder))


@pytest.fixture
def disk(tmp_path: Path) -> Generator[SmallDisk]:
    made = SmallDisk(tmp_path)
    try:
        yield made
    finally:
        try:
            made.leave_free(1024)
            made.zonal("lab", "destroy", "--disks")
        finally:
            made.close()


def test_too_little_space_is_said_before_and_while_the_disk_is_built(disk: SmallDisk) -> None:
    disk.leave_free(1024)
    assert "needs 3.0 GiB" in disk.zonal("lab", "up", status=125)
    disk.leave_free(4096)
    process = disk.start("lab", "up")
    assert process.stderr is not None
    while "Building Debian" not in process.stderr.readline():
        assert process.poll() is None
    disk.leave_free(64)
    _, err = process.communicate(timeout=COMMAND_SECONDS)
    assert process.returncode == 125
    assert "no space" in err.lower(), err
    assert "Traceback" not in err
    assert disk.run("find", str(disk.folder / "disks"), str(disk.folder / "labs"), "-mindepth", "1") == ""


def test_a_running_lab_stands_still_when_its_disk_is_full_and_goes_on(disk: SmallDisk, lab: Lab) -> None:
    """``lab`` has the base disk built, which takes a minute."""
    base = cache().disks / recipe(()).digest
    disk.run("mkdir", "-p", str(disk.folder / "disks"))
    disk.run("cp", "-a", str(base), str(disk.folder / "disks"))
    lab.down()
    disk.zonal("lab", "up", "--memory", "2G")
    try:
        disk.leave_free(96)
        # Saving it takes more than is left: it runs on, and its snapshot of before is still there.
        assert "no space for the snapshot" in disk.zonal("lab", "down", status=125)
        disk.leave_free(64)
        copy = "dd if=/dev/urandom of=/var/lib/zonal/large bs=1M count=256 conv=fsync && sha256sum /var/lib/zonal/large"
        writing = disk.start("lab", "shell", "--name", NAME, "--", copy)
        deadline = time.monotonic() + 120
        while '"stuck"' not in disk.zonal("lab", "status", "--json") and time.monotonic() < deadline:
            time.sleep(1)
        assert "stands still" in disk.zonal("info", status=125)
        disk.leave_free(2048)
        disk.zonal("info")
        out, err = writing.communicate(timeout=COMMAND_SECONDS)
        assert writing.returncode == 0, err
        assert disk.zonal("lab", "shell", "--name", NAME, "--", "sha256sum /var/lib/zonal/large").startswith(out)
        disk.zonal("lab", "down")
    finally:
        lab.up()
