"""Restart policies and health checks of real zones: ends, panics, a zonald that is killed, a host that is."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.lab.conftest import Lab
from tests.lab.driver import IMAGE, TIMEOUT, Host

pytestmark = pytest.mark.lab
KILL_ZONALD = "kill -9 $(systemctl show --property MainPID --value zonald)"
PANIC = "echo c > /proc/sysrq-trigger"
SLEEP = ("sh", "-c", "echo on; sleep 1000")


@pytest.fixture(name="host")
def the_host(lab: Lab) -> Iterator[Host]:
    host = Host(lab)
    yield host
    host.remove_all()


def text(host: Host, *arguments: str) -> str:
    done = host.zonal(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def run(host: Host, name: str, *options: str, command: tuple[str, ...] = SLEEP) -> None:
    text(host, "run", "-d", "-m", "128M", "--name", name, *options, IMAGE, *command)


def inspect(host: Host, name: str) -> dict[str, Any]:
    return json.loads(text(host, "inspect", name))[0]


def until(host: Host, name: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Until this holds of what ``inspect`` shows."""
    end = time.monotonic() + TIMEOUT
    while not holds(found := inspect(host, name)):
        assert time.monotonic() < end, found
        time.sleep(0.3)
    return found


def until_top(host: Host, name: str, holds: Callable[[str], bool]) -> None:
    """Until this holds of the command lines of a zone's processes."""
    end = time.monotonic() + TIMEOUT
    while not holds(text(host, "top", name, "-o", "args")):
        assert time.monotonic() < end


def status(found: dict[str, Any]) -> str:
    return found["State"]["Status"]


def panic(host: Host, name: str) -> None:
    host.zonal("exec", name, "sh", "-c", PANIC)


def told(host: Host, name: str) -> list[str]:
    """The actions that the events tell of a zone, but for those of further processes."""
    # By its id: earlier sessions may have had zones of the same name.
    zone = inspect(host, name)["Id"]
    lines = text(host, "events", "--since", "1", "--until", "0s", "-f", f"zone={zone}", "--json").splitlines()
    actions = [json.loads(line)["Action"] for line in lines]
    return [action for action in actions if not action.startswith("exec_")]


def test_failures_are_counted_to_the_bound_over_a_killed_zonald(host: Host) -> None:
    run(host, "fails", "--restart", "on-failure:2", command=("sh", "-c", "echo on; exit 3"))
    until(host, "fails", lambda found: found["RestartCount"] == 1)
    host.shell(KILL_ZONALD)
    host.until_zonald_answers()
    found = until(host, "fails", lambda found: status(found) == "exited")
    assert (found["RestartCount"], found["State"]["ExitCode"]) == (2, 3)
    assert found["HostConfig"]["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 2}
    assert set(text(host, "logs", "fails").split()) == {"on"}
    assert told(host, "fails")[:3] == ["create", "start", "die"]


def test_a_panic_is_told_of_with_its_console_and_undone_by_a_policy(host: Host) -> None:
    command = ("run", "-m", "128M", "--privileged", "--name", "panics", IMAGE, *SLEEP)
    with host.start(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == b"on\n"
        panic(host, "panics")
        said = process.stderr.read().decode()
        assert process.wait(TIMEOUT) == 125
    found = inspect(host, "panics")
    waited = host.zonal("wait", "panics")
    for words in (said, found["State"]["Error"], waited.stderr.decode()):
        assert "its kernel crashed" in words
        assert "sysrq triggered crash" in words
    assert (found["Zone"]["state"], waited.stdout) == ("crashed", b"125\n")
    text(host, "update", "--restart", "on-failure:5", "panics")
    text(host, "start", "panics")
    panic(host, "panics")
    found = until(host, "panics", lambda found: found["RestartCount"] == 1 and status(found) == "running")
    assert told(host, "panics")[-3:] == ["die", "start", "restart"]
    text(host, "stop", "-t", "1", "panics")
    assert status(inspect(host, "panics")) == "exited"


@pytest.mark.long
def test_a_panic_while_zonald_is_dead_is_a_crash_as_well(host: Host) -> None:
    script = f"sleep 6; {PANIC}"
    run(host, "alone", "--privileged")
    with host.start("exec", "alone", "sh", "-c", script):
        until_top(host, "alone", lambda seen: "sleep 6" in seen)
        host.shell("systemctl stop zonald; sleep 8; systemctl start zonald")
    host.until_zonald_answers()
    found = until(host, "alone", lambda found: status(found) != "running")
    assert found["Zone"]["state"] == "crashed"
    assert "its kernel crashed" in found["State"]["Error"]


def test_health_is_asked_after_over_a_killed_zonald(host: Host) -> None:
    line = "echo asked; test -e /slow && sleep 2000; test -e /well"
    options = ("--health-interval", "500ms", "--health-retries", "2", "--health-timeout", "6s")
    run(host, "ill", "--health-cmd", line, *options, command=("sh", "-c", "touch /well; sleep 1000"))

    def until_health(wanted: str) -> dict[str, Any]:
        return until(host, "ill", lambda found: found["State"]["Health"]["Status"] == wanted)

    health = until_health("healthy")["State"]["Health"]
    assert (health["Log"][-1]["ExitCode"], health["Log"][-1]["Output"]) == (0, "asked\n")
    assert "(healthy)" in text(host, "ps")
    assert text(host, "ps", "-q", "-f", "health=healthy")
    # A probe under way is ended by the next zonald, and does not go on for ever.
    text(host, "exec", "ill", "touch", "/slow")
    until_top(host, "ill", lambda seen: "sleep 2000" in seen)
    host.shell(KILL_ZONALD)
    host.until_zonald_answers()
    found = until_health("unhealthy")
    assert "exceeded timeout" in found["State"]["Health"]["Log"][-1]["Output"]
    text(host, "exec", "ill", "rm", "/slow")
    until_health("healthy")
    until_top(host, "ill", lambda seen: "sleep 2000" not in seen)
    told_of = [action for action in told(host, "ill") if action.startswith("health_status")]
    assert told_of == [f"health_status: {each}" for each in ("healthy", "unhealthy", "healthy")]


@pytest.mark.long
def test_after_a_power_cut_zones_are_started_or_said_to_be_lost(lab: Lab, host: Host) -> None:
    run(host, "plain")
    run(host, "kept", "--restart", "unless-stopped")
    run(host, "rests", "--restart", "unless-stopped", command=("sleep", "1000"))
    text(host, "kill", "rests")
    assert text(host, "wait", "rests") == "137\n"
    host.shell("sync")
    lab.kill_qemu()
    lab.up("--boot")
    until(host, "kept", lambda found: status(found) == "running")
    assert text(host, "logs", "kept") == "on\non\n"
    lost = inspect(host, "plain")
    assert (lost["Zone"]["state"], lost["State"]["ExitCode"]) == ("crashed", 255)
    assert lost["State"]["Error"] == "the host was restarted"
    assert status(inspect(host, "rests")) == "exited"
