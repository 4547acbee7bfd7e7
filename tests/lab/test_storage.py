"""Where data lives: scratch disks, volumes, memory, images and devices, in zones that start and in zones that run."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.driver import IMAGE, Host, NamedLab, assert_nothing_left

pytestmark = pytest.mark.lab


@pytest.fixture(name="host")
def the_host(lab: NamedLab) -> Iterator[Host]:
    host = Host(lab)
    yield host
    host.remove_all()
    host.zonal("volume", "prune", "-a")


def detached(host: Host, name: str, *options: str, script: str = "sleep infinity") -> None:
    done = host.zonal("run", "-d", "-m", "128M", "--name", name, *options, IMAGE, "sh", "-c", script)
    assert done.returncode == 0, done.stderr


def volumes(host: Host) -> dict[str, dict[str, Any]]:
    lines = host.zonal("volume", "ls", "--json").stdout.splitlines()
    return {item["name"]: item for item in map(json.loads, lines)}


def refused(host: Host, *arguments: str) -> str:
    done = host.zonal(*arguments)
    assert done.returncode == 125, (arguments, done.returncode, done.stderr)
    return done.stderr.decode()


def test_a_scratch_disk_has_its_size_and_goes_with_the_zone(host: Host) -> None:
    before = host.snapshot()
    script = (
        "df --output=size -k / | tail -1; dd if=/dev/zero of=/x bs=1M count=100 2>&1 | tail -1; sync; df -k / | tail -1"
    )
    out = host.run("--storage-size", "64M", IMAGE, "sh", "-c", script).stdout.decode()
    size = int(out.splitlines()[0])
    assert 40_000 < size <= 65_536
    assert "No space left" in host.zonal(
        *["run", "--rm", "-m", "128M", "--storage-size", "64M", IMAGE],
        *["dd", "if=/dev/zero", "of=/x", "bs=1M", "count=100"],
    ).stderr.decode()  # fmt: skip
    # More than the zone's memory fits, and it is the disk's.
    big = "dd if=/dev/zero of=/x bs=1M count=300 2>/dev/null && du -m /x | cut -f1"
    assert host.run(IMAGE, "sh", "-c", big).stdout.decode().strip() == "300"
    assert_nothing_left(before, host.snapshot())
    assert "16M to 16T" in refused(host, "run", "--storage-size", "1M", IMAGE, "true")


def test_a_read_only_root_takes_writes_in_memory_alone(host: Host) -> None:
    script = (
        "touch /x 2>&1; echo a > /tmp/a && cat /tmp/a; mount | grep ' /tmp '; stat -c %a /tmp; "
        "dd if=/dev/zero of=/tmp/b bs=1M count=20 2>&1 | grep -o 'No space'; mount | grep -c xvdc"
    )
    done = host.zonal(
        *["run", "--rm", "-m", "128M", "--read-only", "--tmpfs", "/tmp:size=8m,mode=1700", IMAGE, "sh", "-c", script]
    )
    out = done.stdout.decode()
    assert "Read-only file system" in out
    assert "\na\n" in out
    assert "noexec" in out
    assert "1700" in out
    assert "No space" in out
    assert out.endswith("0\n")
    assert "--read-only" in refused(host, "run", "--read-only", "--storage-size", "1G", IMAGE, "true")


def test_a_volume_is_filled_from_the_image_kept_and_shared_for_reading(host: Host) -> None:
    listing = "cd /etc/apt && find . | sort | sha256sum; stat -c '%u %g %a' ."
    of_image = host.run(IMAGE, "sh", "-c", listing).stdout
    assert host.run("-v", "apt:/etc/apt", IMAGE, "sh", "-c", listing).stdout == of_image
    host.run("-v", "apt:/mnt", IMAGE, "sh", "-c", "echo kept > /mnt/new; chown 33:34 /mnt/new; ln -s new /mnt/link")
    reading = "cat /mnt/link; stat -c '%u %g' /mnt/new; touch /mnt/x 2>&1"
    out = host.zonal("run", "--rm", "-m", "128M", "-v", "apt:/mnt:ro", IMAGE, "sh", "-c", reading).stdout.decode()
    assert out.startswith("kept\n33 34\n")
    assert "Read-only file system" in out
    # What is there is not filled again, and nothing is filled that shall not be.
    assert host.run("-v", "apt:/usr/share", IMAGE, "sh", "-c", "ls /usr/share/new").stdout
    bare = "type=volume,source=bare,target=/etc/apt,volume-nocopy"
    assert host.run("--mount", bare, IMAGE, "ls", "/etc/apt").stdout == b""
    assert set(volumes(host)) == {"apt", "bare"}
    assert volumes(host)["apt"]["used_by"] == []
    # One writes, or several read.
    detached(host, "reader", "-v", "apt:/mnt:ro")
    assert volumes(host)["apt"]["used_by"] == ["zone reader"]
    assert host.run("-v", "apt:/mnt:ro", IMAGE, "cat", "/mnt/new").stdout == b"kept\n"
    assert "in use by zone reader" in refused(host, "run", "--rm", "-v", "apt:/mnt", IMAGE, "true")
    assert "in use by zone reader" in refused(host, "volume", "rm", "apt")
    assert host.zonal("rm", "-f", "reader").returncode == 0
    assert host.zonal("volume", "rm", "apt", "bare").returncode == 0
    assert volumes(host) == {}


def test_volumes_without_a_name_go_with_their_zone(host: Host) -> None:
    host.run("-v", "/data", IMAGE, "touch", "/data/x")
    assert volumes(host) == {}
    detached(host, "keeps", "-v", "/data")
    (name,) = volumes(host)
    assert volumes(host)[name]["anonymous"]
    assert host.zonal("rm", "-f", "keeps").returncode == 0
    assert set(volumes(host)) == {name}
    assert host.zonal("volume", "prune").stdout.decode().startswith(f"deleted {name}\n")
    detached(host, "takes", "-v", "/data")
    assert host.zonal("rm", "-f", "-v", "takes").returncode == 0
    assert volumes(host) == {}
    # A run that never began leaves none.
    assert host.zonal("run", "--rm", "-m", "128M", "-v", "/data", IMAGE, "/none").returncode == 127
    assert volumes(host) == {}


def test_what_was_written_survives_the_zone_however_it_ends(host: Host) -> None:
    write = "echo plain > /data/plain; echo synced > /data/synced; sync /data/synced; echo ready; sleep infinity"
    # Stopped by force: all of it. The domain destroyed under it: what was synced, and the filesystem is in order.
    detached(host, "removed", "-v", "one:/data", script=write)
    host.until_logged("removed", "ready")
    assert host.zonal("rm", "-f", "removed").returncode == 0
    assert host.run("-v", "one:/data:ro", IMAGE, "cat", "/data/plain", "/data/synced").stdout == b"plain\nsynced\n"
    detached(host, "lost", "-v", "two:/data", script=write)
    host.until_logged("lost", "ready")
    host.shell("xl destroy lost")
    host.zonal("wait", "lost")
    assert "mount it once without :ro" in refused(host, "run", "--rm", "-v", "two:/data:ro", IMAGE, "true")
    assert host.run("-v", "two:/data", IMAGE, "cat", "/data/synced").stdout == b"synced\n"
    assert host.run("-v", "two:/data:ro", IMAGE, "cat", "/data/synced").stdout == b"synced\n"
    sound = "e2fsck -fn /var/lib/zonal/volumes/two/data.ext4 >&2 && echo sound"
    assert host.shell(sound).strip() == "sound"


def test_mounts_come_and_go_while_a_zone_runs(host: Host) -> None:
    before = host.snapshot()
    host.zonal("volume", "create", "--size", "64M", "data")
    device = host.shell("truncate -s 64M /var/tmp/disk && losetup -f --show /var/tmp/disk").strip()
    script = (
        "i=0; while :; do for p in data mem image; do [ -e /at/$p/. ] && echo $i $p $(ls /at/$p | head -1); done; "
        "[ -b /dev/extra ] && echo $i device $(head -c 4 /dev/extra); [ -e /at/data/. ] && echo $i > /at/data/count; "
        "i=$((i+1)); sleep 0.3; done"
    )
    detached(host, "runs", script=script)
    try:
        host.shell(f"printf 'DISK' > {device}")
        assert host.zonal("zone", "mount", "-v", "data:/at/data", "runs").returncode == 0
        done = host.zonal(
            *["zone", "mount", "--tmpfs", "/at/mem", "--mount", f"type=image,source={IMAGE},target=/at/image"],
            *["--device", f"{device}:/dev/extra", "runs"],
        )
        assert done.returncode == 0, done.stderr
        for text in ("data count", "mem", "image bin", "device DISK"):
            host.until_logged("runs", text)
        (zone,) = json.loads(host.zonal("zone", "inspect", "runs").stdout)
        assert {mount["Destination"] for mount in zone["Mounts"]} == {"/at/data", "/at/mem", "/at/image", "/dev/extra"}
        assert "mounted at /at/data already" in refused(host, "zone", "mount", "-v", "data:/at/data", "runs")
        assert "in use by zone runs" in refused(host, "run", "--rm", "-v", "data:/x", IMAGE, "true")
        # A restart of zonald changes nothing of it.
        host.shell("systemctl restart zonald")
        host.until_zonald_answers()
        assert "in use by zone runs" in refused(host, "volume", "rm", "data")
        for target in ("/at/data", "/at/mem", "/at/image", "/dev/extra"):
            assert host.zonal("zone", "unmount", "runs", target).returncode == 0
        assert "has nothing at /at/data" in refused(host, "zone", "unmount", "runs", "/at/data")
        (zone,) = json.loads(host.zonal("zone", "inspect", "runs").stdout)
        assert zone["Mounts"] == []
        count = host.run("-v", "data:/x:ro", IMAGE, "cat", "/x/count").stdout
        assert int(count) > 0
        assert host.zonal("zone", "ls", "-q").stdout.count(b"\n") == 1
        # A mount that cannot be leaves nothing.
        assert "there is no image" in refused(
            host, "zone", "mount", "--mount", "type=image,source=none,target=/at/none", "runs"
        )
        assert host.zonal("rm", "-f", "runs").returncode == 0
        assert "xvd" not in host.shell("xenstore-ls /local/domain/0/backend 2>/dev/null || true")
    finally:
        host.shell(f"losetup -d {device}; rm /var/tmp/disk")
    host.zonal("volume", "rm", "data")
    after = host.snapshot()
    assert after.domains == before.domains
    assert set(after.store_keys) - set(before.store_keys) == set()
    assert len(after.loops) <= len(before.loops) + 1


def test_images_parts_of_volumes_and_devices_are_mounted_at_the_start(host: Host) -> None:
    host.run("-v", "parts:/v", IMAGE, "sh", "-c", "mkdir -p /v/a/b; echo inner > /v/a/b/file; ln -s / /v/out")
    part = "type=volume,source=parts,target=/p,volume-subpath=a/b"
    image = f"type=image,source={IMAGE},target=/i,image-subpath=usr"
    device = host.shell("truncate -s 32M /var/tmp/disk && losetup -f --show /var/tmp/disk").strip()
    try:
        script = (
            "cat /p/file; ls -d /i/bin; touch /i/x 2>&1; printf written | dd of=/dev/mine 2>/dev/null; "
            "head -c 7 /dev/mine; mknod /tmp/root b 202 32 && cat /tmp/root 2>&1 | head -1"
        )
        done = host.run("--mount", part, "--mount", image, "--device", f"{device}:/dev/mine", IMAGE, "sh", "-c", script)
        lines = done.stdout.decode().splitlines()
        assert lines[:2] == ["inner", "/i/bin"]
        assert "Read-only" in lines[2]
        assert lines[3].startswith("written")
        # The scratch disk itself is nobody's to open.
        assert "not permitted" in done.stdout.decode()
        assert host.shell(f"head -c 7 {device}") == "written"
        readonly = host.zonal(
            *["run", "--rm", "-m", "128M", "--device", f"{device}:/dev/mine:r", IMAGE],
            *["sh", "-c", "head -c 7 /dev/mine; echo x > /dev/mine"],
        )
        assert readonly.stdout == b"written"
        assert readonly.returncode != 0
    finally:
        host.shell(f"losetup -d {device}; rm /var/tmp/disk")
    # A link in a volume leads nowhere but into the volume.
    out = "type=volume,source=parts,target=/p,volume-subpath=out"
    assert host.run("--mount", out, IMAGE, "ls", "/p").stdout.split() == [b"a", b"out"]
    missing = "type=volume,source=parts,target=/p,volume-subpath=nothing"
    assert "No such file" in refused(host, "run", "--rm", "-m", "128M", "--mount", missing, IMAGE, "true")


def test_files_are_copied_in_and_out_and_changes_listed(host: Host, tmp_path: Path) -> None:
    script = "echo old > /etc/issue; rm /etc/motd; mkdir /new; sleep infinity"
    detached(host, "files", "-v", "copied:/vol", script=script)
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "big").write_bytes(os.urandom(20 << 20))
    (source / "sub" / "big").chmod(0o751)
    (source / "out").symlink_to("/etc/shadow")
    into = host.zonal("cp", str(source), "files:/srv/tree")
    assert into.returncode == 0, into.stderr
    assert host.zonal("cp", f"{source}/.", "files:/vol").returncode == 0
    back = tmp_path / "back"
    assert host.zonal("cp", "files:/srv/tree", str(back)).returncode == 0
    assert (back / "sub/big").read_bytes() == (source / "sub/big").read_bytes()
    assert stat.S_IMODE((back / "sub/big").stat().st_mode) == 0o751
    assert (back / "out").readlink() == Path("/etc/shadow")
    assert host.zonal("cp", "files:/vol/sub/big", str(tmp_path / "big")).returncode == 0
    assert (tmp_path / "big").read_bytes() == (source / "sub/big").read_bytes()
    # A link in the zone leads somewhere in the zone, whoever follows it.
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "link").symlink_to("/etc")
    assert host.zonal("cp", str(tmp_path / "inside" / "link"), "files:/srv").returncode == 0
    (tmp_path / "marker").write_text("marked")
    assert host.zonal("cp", str(tmp_path / "marker"), "files:/srv/link").returncode == 0
    assert host.zonal("cp", "-L", "files:/srv/link/marker", str(tmp_path / "again")).returncode == 0
    assert (tmp_path / "again").read_text() == "marked"
    changes = host.zonal("diff", "files").stdout.decode().splitlines()
    for line in ("C /etc", "C /etc/issue", "A /etc/marker", "D /etc/motd", "A /new", "A /srv/tree/sub/big"):
        assert line in changes
    assert not any(line.split()[1].startswith(("/proc", "/sys", "/dev", "/vol")) for line in changes)
    assert "No such file" in refused(host, "cp", "files:/none", str(tmp_path / "none"))
    assert "no zone" in refused(host, "cp", "none:/x", str(tmp_path))
    assert host.zonal("rm", "-f", "files").returncode == 0
    size = host.run("-v", "copied:/v:ro", IMAGE, "sh", "-c", "wc -c < /v/sub/big").stdout
    assert int(size) == 20 << 20
