"""zonald killed, and the power cut, in the middle of a pull and of an import: the old state or the new, and nothing
half made."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.conftest import Lab
from tests.lab.driver import TIMEOUT, Host
from tests.lab.small_images import SmallImages, is_whole
from tests.lab.store_check import checked
from tests.unit.images.registry import Registry, registry
from tests.unit.images.tarballs import OciLayout

pytestmark = [pytest.mark.lab, pytest.mark.long]

SMALL, LARGE = "small", "large"
_FILES = 1000
"""In the large image, so that every step of making it takes a while."""


@pytest.fixture(name="host")
def the_host(lab: Lab) -> Iterator[Host]:
    lab.up()
    host = Host(lab)
    yield host
    lab.up()
    host.remove_all()
    host.remove_images("10.0.2.2:")


@pytest.fixture(name="server")
def a_registry(tmp_path: Path) -> Iterator[Registry]:
    with registry(tmp_path / "open") as running:
        yield running


@pytest.fixture(name="layouts")
def the_layouts(host: Host) -> dict[str, OciLayout]:
    images = SmallImages.of(host)
    return {SMALL: images.layout(SMALL, 1), LARGE: images.layout(LARGE, 16, files=_FILES)}


def put(server: Registry, layouts: dict[str, OciLayout]) -> dict[str, str]:
    names = {version: server.put(f"small/{version}", "1", layout) for version, layout in layouts.items()}
    return {version: name.replace("127.0.0.1", "10.0.2.2") for version, name in names.items()}


def commands(names: dict[str, str], archive: Path) -> dict[str, tuple[str, ...]]:
    """What is interrupted; each makes the large image, by the same name."""
    return {
        "pull": ("pull", "--tls-verify=false", names[LARGE]),
        "import": ("image", "import", str(archive), names[LARGE]),
    }


def assert_whole(host: Host, name: str, version: str) -> None:
    assert is_whole(host.run("--pull", "never", name).stdout.decode(), version)


def assert_old_or_new(host: Host, names: dict[str, str], *, finished: bool) -> None:
    """After a start: what was there is there, and the new image is whole or not there at all."""
    state = checked(host)
    assert names[SMALL] in state.names
    if names[LARGE] in state.names:
        assert_whole(host, names[LARGE], LARGE)
    else:
        assert not finished, "what was said to be done is gone"


def test_zonald_killed_in_a_pull_and_in_an_import(
    host: Host, server: Registry, layouts: dict[str, OciLayout], tmp_path: Path
) -> None:
    names = put(server, layouts)
    archive = tmp_path / "large.tar"
    archive.write_bytes(layouts[LARGE].tar())
    assert host.zonal("pull", "--tls-verify=false", names[SMALL]).returncode == 0
    kill = (
        "echo watching; while ! compgen -G '/var/lib/zonal/images/tmp/*' > /dev/null; do sleep 0.05; done; "
        "sleep {}; kill -9 $(systemctl show --property MainPID --value zonald)"
    )
    for kind, command in commands(names, archive).items():
        whole = 0.0
        for part in (None, 0.4):
            host.zonal("image", "rm", names[LARGE])
            host.zonal("image", "prune")
            if part is None:
                begin = time.monotonic()
                assert host.zonal(*command).returncode == 0
                whole = time.monotonic() - begin
                continue
            delay = whole * (part + random.uniform(-0.4, 0.3))
            print(f"{kind}: killed after {delay:.2f} of {whole:.2f} s")
            shell = ("lab", "shell", "--name", host.lab, "--", "bash", "-c", kill.format(f"{delay:.2f}"))
            with host.start(*shell, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as killer:
                assert killer.stdout
                assert killer.stdout.readline() == b"watching\n"
                with host.start(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
                    said = process.communicate(timeout=TIMEOUT)[1]
                assert killer.wait(TIMEOUT) == 0
            assert process.returncode in (0, 125), said
            host.until_zonald_answers()
            assert_old_or_new(host, names, finished=process.returncode == 0)
        # What has arrived whole is used; the rest is fetched.
        assert host.zonal(*command).returncode == 0
        assert_whole(host, names[LARGE], LARGE)
    assert_whole(host, names[SMALL], SMALL)


def test_the_power_is_cut_in_a_pull_and_in_an_import(
    lab: Lab, host: Host, server: Registry, layouts: dict[str, OciLayout], tmp_path: Path
) -> None:
    names = put(server, layouts)
    archive = tmp_path / "large.tar"
    archive.write_bytes(layouts[LARGE].tar())
    for kind, command in commands(names, archive).items():
        begin = time.monotonic()
        assert host.zonal(*command).returncode == 0
        delay = random.uniform(0.2, 1) * (time.monotonic() - begin)
        assert host.zonal("image", "rm", names[LARGE]).returncode == 0
        host.zonal("image", "prune")
        # The one that is done before must be on the disk when it is said to be.
        assert host.zonal("pull", "--tls-verify=false", names[SMALL]).returncode == 0
        with host.start(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            time.sleep(delay)
            finished = process.poll() == 0
            lab.kill_qemu()
            process.communicate(timeout=TIMEOUT)
        print(f"{kind}: power cut after {delay:.2f} s, finished: {finished}")
        boot_from_the_disks(lab)
        assert_old_or_new(host, names, finished=finished)
        assert_whole(host, names[SMALL], SMALL)
        assert host.zonal(*command).returncode == 0
        assert_whole(host, names[LARGE], LARGE)
        host.remove_images("10.0.2.2:")
    checked(host)


def boot_from_the_disks(lab: Lab) -> None:
    """As a machine whose power comes back, and not from the snapshot, which takes the disks back as well."""
    tag = lab.status()["snapshot"]["tag"]
    for disk in (lab.paths.root_disk, lab.paths.data_disk):
        subprocess.run(["qemu-img", "snapshot", "-d", tag, disk], check=True)
    assert "cannot be resumed" in lab.up().err
