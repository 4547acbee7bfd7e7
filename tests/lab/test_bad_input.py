"""What cannot be: a clear message with what to do next, the right exit status, and nothing left behind."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab.driver import IMAGE, Host, NamedLab, assert_nothing_left
from tests.unit.xen.test_build_kernel import elf_kernel
from zonal.daemon.main import AGENT_TIMEOUT_VARIABLE

pytestmark = pytest.mark.lab


@pytest.fixture(name="host", scope="module")
def the_host(lab: NamedLab) -> Iterator[Host]:
    host = Host(lab)
    host.run(IMAGE, "true")
    before = host.snapshot()
    yield host
    host.remove_all()
    assert_nothing_left(before, host.snapshot(), growth_kib=16384)


def said(done: subprocess.CompletedProcess[bytes]) -> str:
    text = done.stderr.decode()
    assert "Traceback" not in text
    return text


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["no-such:1"], 125, ["no-such:1", "hint: "]),
        (["UPPER CASE"], 125, ["UPPER CASE"]),
        (["-m", "60M", IMAGE], 125, ["hint: give at least 64M"]),
        (["-m", "100G", IMAGE, "true"], 125, ["MiB", "hint: "]),
        (["--cpus", "65", IMAGE], 125, ["--cpus"]),
        (["--name", "a/b", IMAGE], 125, ["a/b", "hint: "]),
        (["--kernel", "no-such", IMAGE], 125, ["no-such", "hint: "]),
        (["--kernel", "/no/such", IMAGE], 125, ["/no/such"]),
        (["-w", "relative", IMAGE], 125, ["relative", "hint: "]),
        (["-u", "nobody-here", IMAGE, "true"], 125, ["nobody-here"]),
        (["-m", "128M", IMAGE, "no-such-command"], 127, ["no-such-command"]),
        (["-m", "128M", IMAGE, "/etc/passwd"], 126, ["/etc/passwd"]),
    ],
)
def test_a_run_that_cannot_be(host: Host, arguments: list[str], status: int, words: list[str]) -> None:
    done = host.zonal("run", "--rm", *arguments)
    assert done.returncode == status
    text = said(done)
    assert all(word in text for word in words), text
    assert host.zones() == []


def test_a_name_in_use(host: Host) -> None:
    assert host.zonal("run", "-d", "-m", "128M", "--name", "taken", IMAGE, "sleep", "1000").returncode == 0
    done = host.zonal("run", "-m", "128M", "--name", "taken", IMAGE, "true")
    assert done.returncode == 125
    assert "in use" in said(done)
    assert [zone["state"] for zone in host.zones()] == ["running"]
    host.remove_all()


def tar_of(*members: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member in members:
            tar.addfile(member)
    return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "archive",
    [
        tar_of(member("/etc/absolute")),
        tar_of(member("../outside")),
        tar_of(member("a/../../outside")),
        tar_of(member("link", tarfile.LNKTYPE, "../../etc/passwd")),
        tar_of(member("link", tarfile.LNKTYPE, "/etc/passwd")),
        tar_of(member("file"))[:700],
        b"no tar at all" * 100,
        b"\x1f\x8b\x08" + os.urandom(1000),
        b"",
    ],
    ids=["absolute", "dots", "hidden dots", "hard link out", "absolute hard link", "cut", "text", "gzip", "empty"],
)
def test_an_archive_that_is_refused(host: Host, archive: bytes, tmp_path: Path) -> None:
    before = host.zonal("image", "ls", "--quiet").stdout
    path = tmp_path / "bad.tar"
    path.write_bytes(archive)
    done = host.zonal("image", "import", str(path), "bad:1")
    assert done.returncode == 125
    assert "bad.tar" in said(done)
    assert host.zonal("image", "ls", "--quiet").stdout == before


def test_device_nodes_of_an_image_are_inert(host: Host, tmp_path: Path) -> None:
    device = member("disk", tarfile.BLKTYPE)
    device.devmajor, device.devminor, device.mode = 202, 0, 0o666
    static = host.zonal("lab", "shell", "--", "cat /usr/bin/busybox").stdout
    busybox = member("busybox")
    busybox.size, busybox.mode = len(static), 0o755
    path = tmp_path / "device.tar"
    with tarfile.open(path, mode="w") as tar:
        tar.addfile(device)
        tar.addfile(busybox, io.BytesIO(static))
    assert host.zonal("image", "import", str(path), "device:1").returncode == 0
    try:
        done = host.zonal("run", "--rm", "-m", "128M", "device:1", "/busybox", "head", "-c", "1", "/disk")
        assert done.returncode != 0
        assert b"ermi" in done.stderr
    finally:
        host.zonal("image", "rm", "device:1")


def cut(data: bytes) -> bytes:
    return data[: len(data) // 3]


def scrambled(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + os.urandom(65536) + data[middle + 65536 :]


def empty_elf(_: bytes) -> bytes:
    return b"\x7fELF" + bytes(60)


def text(_: bytes) -> bytes:
    return b"text" * 1000


@pytest.mark.parametrize("spoil", [cut, scrambled, empty_elf, text])
def test_a_kernel_that_is_no_good(host: Host, spoil: Callable[[bytes], bytes], tmp_path: Path) -> None:
    good = host.zonal("lab", "shell", "--", "cat $(ls /boot/vmlinuz-*cloud* | head -n 1)").stdout
    assert len(good) > 1 << 20
    path = tmp_path / "kernel"
    path.write_bytes(spoil(good))
    done = host.zonal("run", "--rm", "-m", "128M", "--kernel", str(path), IMAGE, "true")
    assert done.returncode == 125
    assert said(done).startswith("zonal: ")
    assert host.zones() == []


@pytest.fixture
def impatient(host: Host) -> Iterator[Host]:
    """The host with a zonald that gives a zone's agent 20 s to answer."""
    folder = "/run/systemd/system/zonald.service.d"

    def restart(change: str) -> None:
        host.shell(f"{change}; systemctl daemon-reload; systemctl restart zonald")
        host.until_zonald_answers()

    setting = f"[Service]\\nEnvironment={AGENT_TIMEOUT_VARIABLE}=20\\n"
    restart(f"mkdir -p {folder}; printf '{setting}' > {folder}/impatient.conf")
    yield host
    restart(f"rm {folder}/impatient.conf")


def test_an_agent_that_never_answers(impatient: Host, tmp_path: Path) -> None:
    """A kernel whose first instruction is its last: it spins for ever, and says nothing."""
    kernel = tmp_path / "kernel"
    kernel.write_bytes(elf_kernel(code=b"\x90" * 4096 + b"\xf3\x90\xeb\xfc"))  # pause; jmp to it
    done = impatient.zonal("run", "--rm", "-m", "128M", "--kernel", str(kernel), IMAGE, "true")
    assert done.returncode == 125
    assert "its agent did not answer within 20 s" in said(done)
    assert impatient.zones() == []


def test_an_image_in_use_is_kept(host: Host) -> None:
    assert host.zonal("run", "-d", "-m", "128M", "--name", "user", IMAGE, "sleep", "1000").returncode == 0
    done = host.zonal("image", "rm", IMAGE)
    assert done.returncode == 125
    assert "in use" in said(done)
    host.remove_all()


def test_what_does_not_exist(host: Host) -> None:
    for arguments in (["zone", "logs"], ["zone", "stop"], ["zone", "rm"], ["zone", "console"], ["image", "rm"]):
        done = host.zonal(*arguments, "no-such")
        assert done.returncode == 125
        assert "no-such" in said(done)
