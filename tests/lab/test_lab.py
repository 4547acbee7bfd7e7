"""The lab itself: what survives what, who gets in, and what two commands at once do."""

from __future__ import annotations

import shutil
import socket
import ssl
import stat
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

import zonal
from tests.lab.conftest import Lab
from zonal.lab import checkpoint, connect


@pytest.fixture(autouse=True)
def _up(lab: Lab) -> None:
    lab.up()


@pytest.fixture
def other() -> Generator[Lab]:
    """A second lab, which does not exist yet."""
    made = Lab("test-other")
    made.zonal("lab", "destroy")
    yield made
    made.zonal("lab", "destroy").check()


def test_the_host_is_a_xen_host_whose_zonald_answers(lab: Lab) -> None:
    status = lab.status()
    assert status["condition"] == "up"
    assert status["source_current"]
    assert status["recipe_current"]
    assert lab.shell("cat /proc/xen/capabilities").out == "control_d"
    assert lab.shell("systemctl is-failed --quiet '*'").status == 1, lab.shell("systemctl --failed").out


def test_shell_passes_arguments_input_and_status(lab: Lab) -> None:
    assert lab.zonal("lab", "shell", "--", "printf", "%s|", "a  b", "$HOME", "ä", "").check().out == "a  b|$HOME|ä||"
    assert lab.zonal("lab", "shell", "echo $((6 * 7)) | tr 4 x").check().out == "x2"
    assert lab.zonal("lab", "shell", "--", "sh", "-c", "exit 7").status == 7
    assert lab.zonal("lab", "shell", "cat", input=bytes(range(256))).check().stdout == bytes(range(256))


def test_memory_disk_and_clock_are_right_after_a_night(lab: Lab) -> None:
    lab.shell("echo in memory > /run/zonal-test; echo on disk > /var/lib/zonal/test; sync").check()
    lab.down()
    assert lab.status()["condition"] == "asleep"
    lab.up()
    assert lab.shell("cat /run/zonal-test /var/lib/zonal/test").check().out == "in memory\non disk"
    assert abs(lab.status()["clock_offset"]) < 5


def test_a_killed_lab_goes_back_to_its_last_snapshot(lab: Lab) -> None:
    lab.shell("echo first > /var/lib/zonal/test").check()
    checkpoint(lab.name)
    lab.shell("echo second > /var/lib/zonal/test; sync").check()
    lab.kill_qemu()
    assert lab.status()["condition"] == "asleep"
    lab.up()
    assert lab.shell("cat /var/lib/zonal/test").check().out == "first"


@pytest.mark.long
def test_a_lab_without_its_snapshot_is_booted_from_its_disks(lab: Lab) -> None:
    lab.shell("echo kept > /var/lib/zonal/test; touch /run/zonal-test").check()
    lab.down()
    for disk in (lab.paths.root_disk, lab.paths.data_disk):
        tag = lab.status()["snapshot"]["tag"]
        subprocess.run(["qemu-img", "snapshot", "-d", tag, disk], check=True)
    assert "cannot be resumed" in lab.up().err
    assert lab.shell("cat /var/lib/zonal/test; ls /run/zonal-test").out == "kept"
    assert lab.status()["snapshot"] is not None


def test_two_commands_at_once_share_one_lab(lab: Lab) -> None:
    lab.down()
    both = [subprocess.Popen(lab.command("lab", "up"), env=lab.environment(), stderr=subprocess.PIPE) for _ in range(2)]
    messages = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], messages
    assert sum(b"Resuming" in message for message in messages) == 1, messages
    assert lab.status()["condition"] == "up"


def test_a_changed_source_reaches_the_running_lab(lab: Lab, tmp_path: Path) -> None:
    shutil.copytree(Path(zonal.__file__).parent, tmp_path / "zonal", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "zonal/added.py").write_text("ANSWER = 42\n")
    boot = lab.shell("cat /proc/sys/kernel/random/boot_id").out
    result = lab.zonal("lab", "up", env={"PYTHONPATH": str(tmp_path)}).check()
    assert "Refreshing" in result.err
    question = "PYTHONPATH=/opt/zonal/src python3 -c 'import zonal.added; print(zonal.added.ANSWER)'"
    assert lab.shell(question).check().out == "42"
    assert "Refreshing" in lab.up().err
    assert lab.shell(question).status != 0
    assert lab.shell("cat /proc/sys/kernel/random/boot_id").out == boot


def test_only_its_owner_gets_in(lab: Lab) -> None:
    for path in (lab.paths.folder, lab.paths.keys, *lab.paths.keys.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    host, port = connect(lab.name).target.split(":")
    assert host == "127.0.0.1"
    context = ssl.create_default_context(cafile=str(lab.paths.keys / "ca.pem"))
    context.set_alpn_protocols(["h2"])
    with (
        pytest.raises((ssl.SSLError, ConnectionError)),
        socket.create_connection((host, int(port))) as link,
        context.wrap_socket(link, server_hostname="127.0.0.1") as tls,
    ):
        tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        # With TLS 1.3 the server's refusal comes after the handshake; a closed connection is one as well.
        if not tls.recv(1):
            raise ConnectionError("closed")
    stranger = ["ssh", "-F", "none", "-p", str(lab.run.ssh_port), "-o", "StrictHostKeyChecking=no"]
    stranger += [
        "-o",
        "BatchMode=yes",
        "-o",
        "UserKnownHostsFile=/dev/null",
        "-o",
        "IdentityFile=none",
        "-l",
        "root",
        "127.0.0.1",
        "true",
    ]
    assert subprocess.run(stranger, check=False, capture_output=True).returncode == 255


def test_its_ports_are_on_loopback_only(lab: Lab) -> None:
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    for port in (lab.run.zonald_port, lab.run.ssh_port):
        addresses = {line[1].split(":")[0] for line in listening if int(line[1].split(":")[1], 16) == port}
        assert addresses == {"0100007F"}


@pytest.mark.long
def test_a_lab_that_cannot_be_saved_keeps_its_files_and_is_booted_once_more_after_a_panic(other: Lab) -> None:
    """QEMU saves no machine with an NVMe disk: such a lab is powered off, and booted again."""
    other.up("--device", "nvme", "--device", "bochs-display", "--memory", "2G")
    devices = other.shell("modprobe nvme && udevadm settle && cat /sys/bus/pci/devices/*/class").check().out
    assert "0x010802" in devices
    assert "0x038000" in devices
    other.shell("test -b /dev/nvme0n1 && echo raw > /dev/nvme0n1; echo kept > /var/lib/zonal/test").check()
    assert other.status()["snapshot"] is None
    # The next boot, and only that, ends in a panic.
    crash = "/bin/sh -c 'test -e /panic && rm /panic && sync && echo c > /proc/sysrq-trigger; true'"
    unit = f"[Unit]\nBefore=zonald.service\n[Service]\nType=oneshot\nExecStart={crash}\n"
    other.shell("cat > /etc/systemd/system/crash.service", unit.encode()).check()
    other.shell("systemctl add-wants multi-user.target crash.service; touch /panic; sync").check()
    other.down()
    assert other.status()["condition"] == "down"
    assert "it is booted once more" in other.up().err
    assert "sysrq triggered crash" in other.paths.console.with_suffix(".crashed").read_text(errors="replace")
    found = other.shell("modprobe nvme && udevadm settle && head -c 3 /dev/nvme0n1; echo; cat /var/lib/zonal/test")
    assert found.check().out == "raw\nkept"
    # Killed, it has no snapshot to go back to: its journalled file systems are mended.
    other.kill_qemu()
    other.up()
    assert other.shell("cat /var/lib/zonal/test").check().out == "kept"
    other.down("--force")


@pytest.mark.long
def test_half_a_lab_is_made_anew_with_an_iommu(other: Lab) -> None:
    other.paths.folder.mkdir()
    (other.paths.folder / "root.qcow2").write_bytes(b"half a disk")
    assert other.status()["condition"] == "damaged"
    result = other.up("--device", "intel-iommu", "--device", "e1000e", "--memory", "3G", "--cpus", "1")
    assert "half there" in result.err
    assert "pv_directio" in other.shell("xl info").check().out
    assert "Ethernet" in other.shell("cat /sys/bus/pci/devices/*/class | grep -q 0x020000 && echo Ethernet").out
    assert other.zonal("lab", "up", "--memory", "4G").status == 125
    other.down()
    other.up()
    assert other.status()["spec"]["devices"] == ["e1000e", "intel-iommu"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--memory", "100M"], "too little memory"),
        (["--memory", "100000G"], "does not fit"),
        (["--cpus", "0"], "cannot have 0 CPUs"),
        (["--package", "no such;package"], "not the name of a Debian package"),
        (["--name", "../escape"], "cannot be the name of a lab"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_made(other: Lab, arguments: list[str], message: str) -> None:
    result = other.zonal("lab", "up", *arguments)
    assert result.status == 125
    assert message in result.err
    assert "Traceback" not in result.err
    assert not other.paths.folder.exists()


def test_without_qemu_the_package_is_named(other: Lab, tmp_path: Path) -> None:
    # No program is found at all; QEMU's version is asked before anything is made.
    empty = tmp_path / "bin"
    empty.mkdir()
    code = (
        "import zonal.lab.requirements as r, sys; r._SYSTEM_PATH = sys.argv[1]; import zonal.cli.main as m;"
        " m.main(['lab', 'up', '--name', 'test-other'])"
    )
    done = subprocess.run(
        [*other.command()[:1], "-c", code, str(empty)],
        env=other.environment({"PATH": str(empty)}),
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 125
    assert "qemu-system-x86" in done.stderr
    assert not other.paths.folder.exists()


def test_logs_show_all_three_sources(lab: Lab) -> None:
    text = lab.zonal("lab", "logs").check().out
    assert "==> console <==" in text
    assert "(XEN)" in lab.zonal("lab", "logs", "--of", "console", "-n", "1000").check().out
    assert "zonald" in text.split("==> zonald <==")[1]
