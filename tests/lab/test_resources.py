"""Memory and CPUs of zones as they run: grown, given back, bounded, changed; one zone at a time."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.lab.driver import IMAGE, TIMEOUT, Host, NamedLab

pytestmark = pytest.mark.lab
MIB = 1 << 20
EMULATOR_S_FAULT = "Oops: int3"
"""How a kernel with several CPUs dies when the emulator does not see its patched code: see docs/lab.md."""
HOLD = "perl -e '$n = {0}; $x = q(a) x ($n << 20); print length $x, qq(\\n); $| = 1; print qq(full\\n); <STDIN>'"


@pytest.fixture(name="host")
def the_host(lab: NamedLab) -> Iterator[Host]:
    host = Host(lab)
    yield host
    host.remove_all()


def text(host: Host, *arguments: str) -> str:
    done = host.zonal(*arguments)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def stats(host: Host, name: str) -> dict[str, Any]:
    return json.loads(text(host, "stats", "--no-stream", "--json", name))


def until(condition: Callable[[], bool]) -> None:
    """Waits, however long the emulator takes."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(1)


def test_memory_grows_before_it_runs_out_and_comes_back(host: Host) -> None:
    options = ("-m", "128M", "--memory-max", "1G", "--name", "elastic")
    script = f"read go; {HOLD.format(450)}; echo ended $?; sleep 1000"
    with host.start("run", "-i", *options, IMAGE, "sh", "-c", script, stdin=-1, stdout=-1) as process:
        assert process.stdin and process.stdout
        until(lambda: text(host, "ps", "-q", "-f", "name=elastic", "-f", "status=running") != "")
        assert 128 * MIB <= stats(host, "elastic")["memory_held_bytes"] < 256 * MIB
        process.stdin.write(b"go\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"%d\n" % (450 * MIB)
        assert process.stdout.readline() == b"full\n"
        grown = stats(host, "elastic")
        assert 450 * MIB < grown["memory_held_bytes"] <= grown["memory_limit_bytes"] == 1024 * MIB
        assert grown["memory_bytes"] > 450 * MIB
        # zonald knows, after it was killed, what the zone was given.
        host.shell("kill -9 $(systemctl show --property MainPID --value zonald)")
        host.until_zonald_answers()
        until(lambda: text(host, "inspect", "-f", "{{.State.Status}}", "elastic").strip() == "running")
        process.kill()
    text(host, "exec", "elastic", "sh", "-c", "kill $(pidof perl) || true")
    until(lambda: stats(host, "elastic")["memory_held_bytes"] < 256 * MIB)


def test_out_of_memory_at_the_ceiling_kills_in_the_zone_and_is_reported(host: Host) -> None:
    options = ("-m", "128M", "--memory-max", "192M", "--name", "small")
    done = host.zonal("run", *options, IMAGE, "perl", "-e", "$n = 400; $x = q(a) x ($n << 20)")
    assert done.returncode == 137
    assert b"out of memory" in done.stderr
    state = json.loads(text(host, "inspect", "-f", "{{json .State}}", "small"))
    assert state["OOMKilled"] is True
    zone = text(host, "inspect", "-f", "{{.Id}}", "small").strip()
    soon = f"{time.time() + 3:.0f}"  # the lab's clock may be ahead of ours
    events = text(host, "events", "--until", soon, "--filter", "event=oom", "--filter", f"zone={zone}")
    assert len(events.splitlines()) == 1


def test_more_than_there_is_is_refused_and_the_host_keeps_its_reserve(host: Host) -> None:
    free = int(re.findall(r"free_memory *: (\d+)", host.shell("xl info"))[0])
    said = host.refused("run", "--rm", "-m", f"{free - 32}M", IMAGE, "true")
    assert "MiB are free; the host keeps 64 MiB" in said
    assert "there is no CPU 40" in host.refused("run", "--rm", "--cpuset-cpus", "0,40", IMAGE, "true")
    # A ceiling beyond what there is may be asked for: what there is, the zone gets, and the rest is not taken.
    options = ("-m", "512M", "--memory-max", "5G", "--rm")
    done = host.zonal("run", *options, IMAGE, "perl", "-e", "$n = 200; $x = q(a) x ($n << 20); print length $x")
    assert done.stdout == b"%d" % (200 * MIB), done.stderr


def test_a_zone_that_runs_is_changed(host: Host) -> None:
    options = ("-m", "128M", "--memory-max", "256M", "--cpus-max", "2", "--cpuset-cpus", "1", "--name", "changed")
    done = host.zonal("run", "-d", *options, IMAGE, "sleep", "10000")
    for _ in range(4):
        if EMULATOR_S_FAULT not in done.stderr.decode():
            break
        done = host.zonal("run", "-d", *options, IMAGE, "sleep", "10000")
    assert done.returncode == 0, done.stderr
    number = host.shell("xl domid changed").strip()

    def scheduled() -> list[str]:
        return host.shell(f"xl sched-credit2 -d {number} | tail -n 1").split()[-2:]

    assert scheduled() == ["256", "100"]
    assert host.shell(f"xl vcpu-list {number} | tail -n 2 | awk '{{print $7}}'").split() == ["1", "1"]
    assert stats(host, "changed")["cpus"] == 1
    text(host, "update", "--cpu-weight", "512", "--cpu-cap", "50", "--cpuset-cpus", "0-1", "changed")
    assert scheduled() == ["512", "50"]
    assert "1" not in host.shell(f"xl vcpu-list {number} | tail -n 2 | awk '{{print $7}}'").split()
    text(host, "update", "--cpu-cap", "0", "-m", "200M", "changed")
    until(lambda: stats(host, "changed")["memory_held_bytes"] >= 200 * MIB)
    assert "was started for at most 256 MiB" in host.refused("update", "--memory-max", "512M", "changed")
    assert "was started for at most 2 CPUs" in host.refused("update", "--cpus", "3", "--cpus-max", "3", "changed")
    assert text(host, "inspect", "-f", "{{.HostConfig.Memory}}", "changed").strip() == str(256 * MIB)
    text(host, "update", "--memory-max", "200M", "changed")
    assert stats(host, "changed")["memory_limit_bytes"] == 200 * MIB
    used = "perl -e '$n = 110; $x = q(a) x ($n << 20); print qq(on\\n); sleep 1000'"
    text(host, "exec", "-d", "changed", "sh", "-c", used)
    until(lambda: stats(host, "changed")["memory_bytes"] > 110 * MIB)
    assert "too much for 128 MiB" in host.refused("update", "-m", "128M", "--memory-max", "128M", "changed")
    done = host.zonal("update", "--cpus", "2", "changed")
    if done.returncode and EMULATOR_S_FAULT in host.zonal("zone", "console", "changed").stdout.decode():
        return
    assert done.returncode == 0, done.stderr
    assert text(host, "exec", "changed", "nproc").strip() == "2"
    assert stats(host, "changed")["cpus"] == 2
    assert scheduled() == ["512", "0"]
    text(host, "update", "--cpus", "1", "changed")
    assert text(host, "exec", "changed", "nproc").strip() == "1"
    assert scheduled() == ["512", "100"]
