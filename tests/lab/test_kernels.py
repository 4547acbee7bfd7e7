"""Kernels as images: Debian's, made into one, saved, squashed, imported, and booted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.driver import IMAGE, Host, NamedLab
from tests.unit.images.registry import Registry, registry

pytestmark = pytest.mark.lab


@pytest.fixture(name="host")
def the_host(lab: NamedLab) -> Iterator[Host]:
    host = Host(lab)
    yield host
    host.remove_all()
    host.zonal("kernel", "use", "debian-cloud")
    for kernel in kernels(host).values():
        if kernel["source"]:
            host.zonal("kernel", "rm", kernel["name"])
    host.zonal("image", "prune")


@pytest.fixture(name="server")
def a_registry(tmp_path: Path) -> Iterator[Registry]:
    with registry(tmp_path / "registry") as running:
        yield running


def kernels(host: Host) -> dict[str, dict[str, Any]]:
    lines = host.zonal("kernel", "ls", "--json").stdout.splitlines()
    return {item["name"]: item for item in map(json.loads, lines)}


@pytest.mark.long
def test_debian_s_kernel_is_an_image_that_is_pushed_pulled_and_booted(host: Host, server: Registry) -> None:
    name = f"10.0.2.2:{server.port}/kernels/debian:1"
    done = host.zonal("kernel", "import-debian", "-t", name)
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"debian-1\n"
    made = kernels(host)["debian-1"]
    assert made["modules"]
    assert made["metadata"]["KERNEL_VERSION"] == made["release"]
    assert "cloud" not in made["release"]
    pushed = host.zonal("push", "--tls-verify=false", name)
    assert pushed.returncode == 0, pushed.stderr
    assert host.zonal("image", "rm", name).returncode == 0
    assert host.zonal("kernel", "rm", "debian-1").returncode == 0

    # By its name as an image: fetched on demand; then it is there, as a kernel and not as an image.
    assert b"there is no kernel" in host.zonal("run", "--pull", "never", "--kernel", name, IMAGE, "true").stderr
    done = host.run("--tls-verify=false", "--kernel", name, IMAGE, "uname", "-r")
    assert done.stdout.decode().strip() == made["release"]
    assert kernels(host)["debian-1"]["source"] == name
    assert host.zonal("image", "inspect", name).returncode == 125
    assert host.zonal("kernel", "use", "debian-1").returncode == 0
    assert kernels(host)["debian-1"]["default"]
    # Its modules are its own: a directory needs some of them.
    done = host.run("-v", f"{Path(__file__).parent}:/d:ro", IMAGE, "ls", "/d")
    assert b"test_kernels.py" in done.stdout
    assert host.zonal("kernel", "rm", "debian-1").returncode == 0
    assert kernels(host)["debian-cloud"]["default"]
    refused = host.zonal("kernel", "pull", "--tls-verify=false", f"10.0.2.2:{server.port}/none:1")
    assert refused.returncode == 125
    assert b"no such image" in refused.stderr


def test_a_squashed_archive_is_imported_and_what_is_no_kernel_is_not(host: Host, tmp_path: Path) -> None:
    # As others make them: an archive with the modules in a squashfs.
    host.shell(
        "set -e; cd $(mktemp -d); release=$(ls /lib/modules | grep cloud); mkdir kernel a; "
        "cp -a /lib/modules/$release a/modules; mksquashfs a kernel/addons.squashfs -quiet -no-progress; "
        "cp /boot/vmlinuz-$release kernel/image; echo KERNEL_FLAVOR=squashed > kernel/metadata; "
        "tar -czf /root/kernel.tar.gz kernel; cd /; rm -rf $OLDPWD"
    )
    archive = tmp_path / "kernel.tar.gz"
    archive.write_bytes(host.zonal("lab", "shell", "--name", host.lab, "--", "cat /root/kernel.tar.gz").stdout)
    done = host.zonal("kernel", "import", "--name", "squashed", str(archive))
    assert done.returncode == 0, done.stderr
    assert kernels(host)["squashed"]["metadata"] == {"KERNEL_FLAVOR": "squashed"}
    assert host.run("--kernel", "squashed", IMAGE, "echo", "booted").stdout == b"booted\n"
    images = host.zonal("image", "ls", "--quiet").stdout
    bad = tmp_path / "bad.tar.gz"
    bad.write_bytes(archive.read_bytes()[:100_000])
    for path in (bad, Path(__file__)):
        refused = host.zonal("kernel", "import", str(path))
        assert refused.returncode == 125
        assert refused.stderr
    assert host.zonal("image", "ls", "--quiet").stdout == images
