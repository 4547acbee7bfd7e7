"""The verbs of a zone that runs, on real zones: two of them for all."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.driver import IMAGE, TIMEOUT, Host, NamedLab

pytestmark = pytest.mark.lab
LOOP = "echo begin >> /kept; trap 'exit 4' TERM; i=0; while :; do echo $i; i=$((i+1)); sleep 0.2; done"


@pytest.fixture(name="host", scope="module")
def the_host(lab: NamedLab) -> Iterator[Host]:
    host = Host(lab)
    limits = ("--log-opt", "max-size=64k", "--log-opt", "max-file=3")
    done = host.zonal("run", "-d", "-m", "128M", "--name", "verbs", *limits, IMAGE, "sh", "-c", LOOP)
    assert done.returncode == 0, done.stderr
    yield host
    host.remove_all()


def text(host: Host, *arguments: str) -> str:
    done = host.zonal(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def status(host: Host, name: str) -> str:
    return text(host, "inspect", "-f", "{{.State.Status}}", name).strip()


def test_exec_has_streams_a_status_and_the_containers_world(host: Host) -> None:
    script = "cat; echo err >&2; id -un; cat /kept; exit 7"
    done = host.zonal("exec", "-i", "verbs", "sh", "-c", script, stdin=b"in\n")
    assert (done.stdout, done.stderr, done.returncode) == (b"in\nroot\nbegin\n", b"err\n", 7)
    done = host.zonal("exec", "-u", "daemon", "-w", "/usr", "-e", "A=ü", "verbs", "sh", "-c", "id -un; pwd; echo $A")
    assert done.stdout.decode() == "daemon\n/usr\nü\n"
    capabilities = "sed -n 's/^CapEff:.*\\(.\\{10\\}\\)$/\\1/p' /proc/self/status"
    assert text(host, "exec", "--privileged", "verbs", "sh", "-c", capabilities).strip() == "1ffffffffff"[-10:]
    assert host.zonal("exec", "verbs", "no-such").returncode == 127
    assert host.zonal("exec", "verbs", "/etc/passwd").returncode == 126
    assert host.zonal("exec", "-u", "nobody-such", "verbs", "true").returncode == 125


def test_a_background_child_does_not_hold_an_exec_open(host: Host) -> None:
    begin = time.monotonic()
    assert host.zonal("exec", "verbs", "sh", "-c", "sleep 1000 & echo on; exit 3").returncode == 3
    assert time.monotonic() - begin < 120
    text(host, "exec", "verbs", "sh", "-c", "kill $(pidof sleep | tr ' ' '\\n' | head -n 1) || true")


def test_signals_reach_an_exec_and_what_runs_is_listed(host: Host) -> None:
    script = "trap 'exit 9' INT; echo ready; while :; do sleep 0.1; done"
    with host.start("exec", "verbs", "sh", "-c", script, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        listed = host.zonal("top", "verbs", "-o", "pid,user,comm,args").stdout.decode()
        process.send_signal(2)
        assert process.wait(TIMEOUT) == 9
    assert re.search(r"^1 +root +sh +sh -c echo begin", listed, re.MULTILINE)
    assert "trap 'exit 9'" in listed


def test_nothing_of_a_paused_zone_runs_also_over_a_restart_of_zonald(host: Host) -> None:
    assert text(host, "pause", "verbs") == "verbs\n"
    assert status(host, "verbs") == "paused"
    before = text(host, "logs", "verbs")
    assert host.zonal("exec", "verbs", "true").returncode == 125
    host.shell("systemctl restart zonald")
    host.until_zonald_answers()
    assert status(host, "verbs") == "paused"
    assert text(host, "logs", "verbs") == before
    (line,) = text(host, "stats", "--no-stream", "--json", "verbs").splitlines()
    assert json.loads(line)["cpu_percent"] == 0
    text(host, "unpause", "verbs")
    assert status(host, "verbs") == "running"
    text(host, "exec", "verbs", "true")
    after = text(host, "logs", "verbs")
    assert after.startswith(before)
    assert [int(word) for word in after.split()] == list(range(len(after.split())))


def test_what_a_zone_uses(host: Host) -> None:
    (line,) = text(host, "stats", "--no-stream", "--json", "verbs").splitlines()
    used = json.loads(line)
    assert 0 < used["cpu_percent"] <= 110
    assert 8 << 20 < used["memory_bytes"] < used["memory_limit_bytes"] <= 128 << 20
    assert used["block_read_bytes"] > 1 << 20
    assert used["processes"] >= 2


def test_the_log_has_times_and_nothing_is_doubled_when_zonald_is_killed(host: Host) -> None:
    host.shell("kill -9 $(systemctl show --property MainPID --value zonald)")
    host.until_zonald_answers()
    while status(host, "verbs") != "running":
        pass
    text(host, "exec", "verbs", "sleep", "1")
    lines = text(host, "logs", "-t", "verbs").splitlines()
    times, numbers = zip(*(line.split() for line in lines), strict=True)
    assert [int(number) for number in numbers] == list(range(len(numbers)))
    assert list(times) == sorted(times)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", moment) for moment in times)
    late = text(host, "logs", "--since", times[-3], "-t", "verbs").splitlines()
    assert late[:3] == lines[-3:]


def test_renamed_restarted_stopped_and_started(host: Host) -> None:
    text(host, "rename", "verbs", "renamed")
    assert "renamed" in host.shell("xl list")
    zone_id = text(host, "inspect", "-f", "{{.Id}}", "renamed")
    with host.start("attach", "--no-stdin", "renamed", stdout=subprocess.PIPE) as attached:
        assert attached.stdout
        attached.stdout.readline()
        assert text(host, "restart", "-t", "20", "renamed") == "renamed\n"
        attached.stdout.read()
        assert attached.wait(TIMEOUT) == 4
    assert text(host, "exec", "renamed", "cat", "/kept") == "begin\nbegin\n"
    text(host, "stop", "-t", "20", "renamed")
    assert text(host, "wait", "renamed") == "4\n"
    numbers = text(host, "logs", "renamed").split()
    assert numbers.count("0") == 2
    text(host, "start", "renamed")
    assert text(host, "inspect", "-f", "{{.Id}}", "renamed") == zone_id
    assert text(host, "exec", "renamed", "cat", "/kept") == "begin\n" * 3
    folder = f"/var/lib/zonal/zones/{zone_id.strip()}"
    assert host.shell(f"cat {folder}/output.log* | wc -c").strip() != "0"


def test_a_zone_that_is_killed_while_it_is_attended_to(host: Host, tmp_path: Path) -> None:
    with (
        (tmp_path / "out").open("wb") as file,
        host.start("exec", "renamed", "sh", "-c", "echo on; sleep 1000", stdout=subprocess.PIPE) as process,
        host.start("logs", "-f", "renamed", stdout=file) as following,
    ):
        assert process.stdout
        assert process.stdout.readline() == b"on\n"
        text(host, "kill", "renamed")
        assert process.wait(TIMEOUT) == 137
        assert following.wait(TIMEOUT) == 0
    assert (tmp_path / "out").read_text() == text(host, "logs", "renamed")
    assert text(host, "wait", "renamed") == "137\n"
