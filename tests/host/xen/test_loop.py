"""Loop devices of the host's kernel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from zonal.xen.loop import LoopPool, open_loop


def backing_files() -> list[str]:
    """The files behind all loop devices that are set up, once udev has looked at those that are new."""
    subprocess.run(["udevadm", "settle"], check=True)
    return [path.read_text().strip() for path in Path("/sys/block").glob("loop*/loop/backing_file")]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(b"".join(number.to_bytes(4) * 1024 for number in range(64)))
    return path


def test_a_file_becomes_a_disk_and_is_let_go(file: Path) -> None:
    with open_loop(file, read_only=False) as device:
        assert backing_files().count(str(file)) == 1
        with device.path.open("r+b", buffering=0) as disk:
            assert disk.read(4096) == file.read_bytes()[:4096]
            disk.seek(8192)
            disk.write(b"\xaa" * 4096)
    assert str(file) not in backing_files()
    assert file.read_bytes()[8192:12288] == b"\xaa" * 4096


def test_a_read_only_disk_cannot_be_written(file: Path) -> None:
    with (
        open_loop(file, read_only=True) as device,
        pytest.raises(PermissionError),
        device.path.open("r+b", buffering=0) as disk,
    ):
        disk.write(bytes(4096))


def test_direct_access_is_taken_where_it_can_be_had(file: Path) -> None:
    with open_loop(file, read_only=True, direct=True) as device:
        assert device.path.read_bytes() == file.read_bytes()


def test_who_has_it_open_keeps_it(file: Path) -> None:
    device = open_loop(file, read_only=True)
    with device.path.open("rb") as disk:
        device.close()
        device.close()
        assert str(file) in backing_files()
        assert disk.read(4) == bytes(4)
    assert str(file) not in backing_files()


def test_a_killed_process_leaves_no_device(file: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from zonal.xen.loop import open_loop;"
        "device = open_loop(Path(sys.argv[1]), read_only=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(file)], check=False).returncode == -9
    assert str(file) not in backing_files()


def test_one_device_serves_all_who_want_the_same_file(file: Path) -> None:
    pool = LoopPool()
    first, second = pool.acquire(file), pool.acquire(file)
    assert first.device == second.device
    assert backing_files().count(str(file)) == 1
    first.close()
    first.close()
    assert str(file) in backing_files()
    second.close()
    assert str(file) not in backing_files()
    assert not len(pool)


def test_a_replaced_file_is_another_one(file: Path) -> None:
    pool = LoopPool()
    with pool.acquire(file) as old:
        replacement = file.with_suffix(".new")
        replacement.write_bytes(b"\xff" * 65536)
        replacement.replace(file)
        with pool.acquire(file) as new:
            assert old.device != new.device
            assert new.path.read_bytes() == b"\xff" * 65536
            assert old.path.read_bytes()[:4] == bytes(4)


def test_many_at_once_get_devices_of_their_own(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.img" for number in range(12)]
    for number, path in enumerate(files):
        path.write_bytes(bytes([number]) * 4096)
    devices = [open_loop(path, read_only=True) for path in files]
    assert [device.path.read_bytes()[0] for device in devices] == list(range(12))
    for device in devices:
        device.close()
    assert not [name for name in backing_files() if name.startswith(str(tmp_path))]
