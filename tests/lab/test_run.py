"""``zonal run`` from the outside, in real zones."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import select
import signal
import subprocess
from pathlib import Path

import pytest

from tests.lab.driver import IMAGE, TIMEOUT, Host, NamedLab

pytestmark = pytest.mark.lab


@pytest.fixture(name="host", scope="module")
def the_host(lab: NamedLab) -> Host:
    return Host(lab)


def test_a_zone_has_a_kernel_of_its_own(host: Host) -> None:
    boot_id = "/proc/sys/kernel/random/boot_id"
    script = f"uname -r; cat {boot_id}; uname -v"
    inside = host.run(IMAGE, "sh", "-c", script).stdout.decode().split("\n")
    in_host = host.shell(f"uname -r; cat {boot_id}").split("\n")
    assert inside[0] not in (in_host[0], platform.release())
    assert inside[1] not in (in_host[1], Path(boot_id).read_text().strip())
    assert inside[1] != host.run(IMAGE, "cat", boot_id).stdout.decode().strip()
    assert inside[0].endswith("-cloud-amd64")


def test_it_is_the_image_that_runs(host: Host) -> None:
    release = host.run(IMAGE, "cat", "/etc/os-release").stdout.decode()
    assert 'VERSION_ID="13"' in release
    assert host.run(IMAGE, "sh", "-c", "echo x > /file && cat /file").stdout == b"x\n"
    assert host.zonal("run", "--rm", "-m", "128M", IMAGE, "test", "-e", "/file").returncode == 1


def test_a_zone_sees_only_itself(host: Host) -> None:
    script = "ls /proc | grep -c '^[0-9]'; ls /dev; cat /proc/1/comm; grep -c xvd /proc/partitions; hostname"
    lines = host.run("-h", "inner", IMAGE, "sh", "-c", script).stdout.decode().splitlines()
    assert int(lines[0]) <= 5
    assert "xvda" not in lines
    assert "xen" not in lines
    assert lines[-1] == "inner"
    assert lines[-3] == "sh"
    blocked = host.zonal("run", "--rm", "-m", "128M", IMAGE, "sh", "-c", "mknod /d b 202 0 && head -c 1 /d")
    assert blocked.returncode != 0
    assert b"Operation not permitted" in blocked.stderr or b"Permission denied" in blocked.stderr


def test_memory_and_cpus_are_as_asked(host: Host) -> None:
    script = "nproc; sed -n 's/^MemTotal: *//p' /proc/meminfo"
    done = host.zonal("run", "--rm", "-m", "192M", "--cpus", "2", IMAGE, "sh", "-c", script)
    cpus, memory = done.stdout.decode().splitlines()
    assert cpus == "2"
    assert 120 << 10 < int(memory.split()[0]) <= 192 << 10


def test_arguments_and_variables_arrive_as_they_are(host: Host) -> None:
    weird = ["a b", "'q\"", "ä€😀", "", "-e", "$HOME", "*", "line\nline", "\\"]
    script = 'printf "%s|" "$@"; printf %s "$WEIRD"'
    done = host.run("-e", "WEIRD=ü 'x\" \t=y", IMAGE, "sh", "-c", script, "sh", *weird)
    assert done.stdout.decode() == "|".join(weird) + "|ü 'x\" \t=y"


def test_directory_user_and_entrypoint(host: Host) -> None:
    done = host.run("-w", "/usr/share", "-u", "daemon", "--entrypoint", "sh", IMAGE, "-c", "pwd; id -un; id -Gn")
    assert done.stdout.decode().split() == ["/usr/share", "daemon", "daemon"]
    done = host.run("-u", "1234:5678", IMAGE, "sh", "-c", "id -u; id -g; grep CapEff /proc/self/status")
    assert done.stdout.decode().split() == ["1234", "5678", "CapEff:", "0" * 16]


def test_a_read_only_root(host: Host) -> None:
    done = host.zonal("run", "--rm", "-m", "128M", "--read-only", IMAGE, "sh", "-c", "echo x > /x")
    assert done.returncode != 0
    assert b"Read-only file system" in done.stderr


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["sh", "-c", "exit 42"], 42),
        pytest.param(["sh", "-c", "kill -TERM $$; exit 1"], 1, marks=pytest.mark.long),
        (["sh", "-c", "sh -c 'kill -9 $$'; exit $?"], 137),
        (["no-such-command"], 127),
        (["/etc/passwd"], 126),
        pytest.param(["/etc"], 126, marks=pytest.mark.long),
    ],
)
def test_exit_statuses_are_dockers(host: Host, command: list[str], status: int) -> None:
    assert host.zonal("run", "--rm", "-m", "128M", IMAGE, *command).returncode == status


def test_streams_are_apart_and_binary_safe(host: Host) -> None:
    done = host.run(IMAGE, "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")
    assert host.run("-i", IMAGE, "cat", stdin=b"hi\n").stdout == b"hi\n"
    data = os.urandom(2_000_000)
    assert host.run("-i", IMAGE, "cat", stdin=data).stdout == data


def test_much_output_arrives_whole(host: Host) -> None:
    done = host.run(IMAGE, "sh", "-c", "yes 0123456789abcde | head -c 16000000")
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(b"0123456789abcde\n" * 1_000_000).digest()


def test_a_reader_that_leaves_ends_the_zone_quietly(host: Host) -> None:
    with host.start(
        "run", "--rm", "-m", "128M", IMAGE, "yes", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline() == b"y\n"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE
    assert host.zones() == []


def test_control_c_reaches_the_workload(host: Host) -> None:
    script = "trap 'exit 9' INT; echo ready; while :; do sleep 0.1; done"
    with host.start("run", "--rm", "-m", "128M", IMAGE, "sh", "-c", script, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 9


def test_control_c_during_the_launch_undoes_it(host: Host) -> None:
    with host.start("run", "--rm", "-m", "128M", "--name", "early", IMAGE, "sleep", "1000") as process:
        while not any(zone["name"] == "early" for zone in host.zones()):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 130
    host.shell('for i in $(seq 300); do [ -z "$(ls /var/lib/zonal/zones)" ] && exit 0; sleep 0.1; done; exit 1')
    assert host.zones() == []


def test_a_terminal_works_and_follows_the_size(host: Host) -> None:
    import fcntl
    import struct
    import termios

    master, slave = os.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", 33, 99, 0, 0))
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", *host.command("run", "--rm", "-it", "-m", "128M", IMAGE, "sh")],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=host.environment,
    )
    seen = b""

    def read_until(pattern: bytes) -> None:
        nonlocal seen
        while not (match := re.search(pattern, seen)):
            assert select.select([master], [], [], TIMEOUT)[0], seen
            seen += os.read(master, 4096)
        seen = seen[match.end() :]

    try:
        read_until(rb"# ")
        os.write(master, b"stty size; tty; echo $TERM\n")
        read_until(rb"33 99\r\n/dev/pts/\d+\r\nxterm\r\n")
        # Not by a trap: the signal goes to the foreground job, which under job control is not the shell.
        os.write(master, b"while :; do stty size; sleep 0.1; done\n")
        read_until(rb"\r\n33 99\r\n")
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", 40, 120, 0, 0))
        read_until(rb"40 120\r\n")
        os.write(master, b"\x03")
        read_until(rb"# ")
        os.write(master, b"exit 5\n")
        assert process.wait(TIMEOUT) == 5
    finally:
        process.kill()
        process.wait()
        os.close(slave)
        os.close(master)


def test_timing_tells_every_phase_in_order(host: Host) -> None:
    done = host.zonal("run", "--rm", "-m", "128M", "--timing=json", IMAGE, "true")
    timing = json.loads(done.stderr)
    names = [phase["name"] for phase in timing["phases"]]
    assert names[:2] == ["command line", "connect"]
    assert names[-1] == "end"
    assert len(names) >= 6
    assert all(0 <= p["begin_ns"] <= p["end_ns"] <= timing["total_ns"] for p in timing["phases"])


@pytest.mark.long
def test_debian_12_is_made_and_run(host: Host) -> None:
    done = host.run("debian:12", "cat", "/etc/debian_version")
    assert done.stdout.startswith(b"12.")
