from __future__ import annotations

import json
import re

import pytest

from tests.unit.cli.conftest import Zonal
from zonal.cli.format import parse_time
from zonal.cli.measures import wanted_columns
from zonal.cli.template import render
from zonal.duration import parse_duration
from zonal.errors import InvalidInputError

S = 1_000_000_000


def test_a_zone_through_its_verbs(zonal: Zonal) -> None:
    script = "echo on; trap 'exit 4' TERM; while :; do sleep 0.05; done"
    assert zonal("run", "-d", "--name", "worker", "local:1", "sh", "-c", script).returncode == 0
    assert zonal("pause", "worker").stdout == b"worker\n"
    assert b"(paused)" in zonal("ps").stdout
    assert zonal("unpause", "worker").returncode == 0
    assert zonal("rename", "worker", "renamed").returncode == 0
    assert zonal("restart", "-t", "5", "renamed").stdout == b"renamed\n"
    while zonal("logs", "renamed").stdout.count(b"on\n") < 2:
        pass
    table = zonal("top", "renamed", "-o", "pid,comm").stdout.decode()
    assert re.fullmatch(r"PID +COMM\n1 +sh\n", table)
    assert b"UID" in zonal("top", "renamed").stdout
    line = json.loads(zonal("stats", "--no-stream", "--json", "renamed").stdout)
    assert (line["name"], line["cpu_percent"], line["processes"]) == ("renamed", 50.0, 5)
    assert b"1.0 MiB / 128 MiB" in zonal("stats", "--no-stream").stdout
    zonal("stop", "renamed")
    assert zonal("wait", "renamed").stdout == b"4\n"
    assert zonal("start", "renamed").stdout == b"renamed\n"
    zonal("kill", "renamed")
    assert zonal("wait", "renamed").stdout == b"137\n"
    assert zonal("rm", "renamed").returncode == 0
    for command in ("start", "restart", "pause", "unpause", "top", "stats"):
        assert zonal(command, "renamed").returncode == 125


def test_what_a_zone_may_have_is_shown_and_changed(zonal: Zonal) -> None:
    options = ("-m", "128M", "--memory-max", "1G", "--cpus-max", "2", "-c", "512", "--cpuset-cpus", "0")
    zonal("run", "-d", "--name", "elastic", *options, "local:1", "sleep", "1000")

    def shown() -> dict[str, object]:
        return json.loads(zonal("inspect", "-f", "{{json .Zone.resources}}", "elastic").stdout)

    before = {"memory_bytes": 128 << 20, "memory_max_bytes": 1 << 30, "cpus": 1, "cpus_max": 2}
    assert shown() == {**before, "cpu_weight": 128, "cpu_cap": 0, "cpuset_cpus": "0"}
    limits = zonal("inspect", "-f", "{{.HostConfig.Memory}} {{.HostConfig.MemoryReservation}}", "elastic").stdout
    assert limits.split() == [b"1073741824", b"134217728"]
    assert b"128 MiB to 1.0 GiB" in zonal("ps").stdout
    changes = ("-m", "256M", "--cpus", "2", "--weight", "300", "--cpu-cap", "50", "--cpuset-cpus", "")
    assert zonal("update", *changes, "elastic").stdout == b"elastic\n"
    after = {**before, "memory_bytes": 256 << 20, "cpus": 2}
    assert shown() == {**after, "cpu_weight": 300, "cpu_cap": 50, "cpuset_cpus": ""}
    for wrong, said in (
        (("-m", "2G"), b"--memory-max at least"),
        (("-m", "0"), b"no memory"),
        (("--cpus-max", "1"), b"--cpus-max"),
        ((), b"nothing is to be changed"),
    ):
        done = zonal("update", *wrong, "elastic")
        assert done.returncode == 125
        assert said in done.stderr
    assert shown()["memory_bytes"] == 256 << 20
    assert zonal("update", "--cpus", "1", "no-such").returncode == 125
    zonal("rm", "-f", "elastic")


def test_started_and_taken_part_in(zonal: Zonal) -> None:
    zonal("run", "-i", "--name", "again", "local:1", "sh", "-c", "cat; exit 3", stdin=b"1")
    done = zonal("start", "-ai", "again", stdin=b"2")
    assert (done.returncode, done.stdout) == (3, b"2")
    assert zonal("logs", "again").stdout == b"12"
    zonal("rm", "again")


def test_zones_are_chosen(zonal: Zonal) -> None:
    for name, status in (("chosen-a", "5"), ("chosen-b", "6")):
        zonal("run", "--name", name, "local:1", "sh", "-c", f"exit {status}")

    def names(*options: str) -> list[str]:
        lines = zonal("ps", "--format", "json", *options).stdout.splitlines()
        return [json.loads(line)["name"] for line in lines]

    assert names("-f", "exited=6") == ["chosen-b"]
    assert names("-a", "-f", "name=chosen") == ["chosen-a", "chosen-b"]
    assert names("-f", "status=exited", "-f", "name=chosen-a", "-f", "name=chosen-b", "-l") == ["chosen-b"]
    assert names("-n", "2", "-f", "image=local:1", "-f", "name=chosen") == ["chosen-a", "chosen-b"]
    assert names("-f", "status=running", "-f", "name=chosen") == []
    assert zonal("ps", "-f", "colour=red").returncode == 125
    zonal("rm", "chosen-a", "chosen-b")


def test_templates() -> None:
    document = {"A": {"B": [1, True]}, "C": None, "D": "ü"}
    assert render(r"{{.A.B}}\t{{ json .A }} {{.C}} {{.X}}{{.D.E}}|{{.D}}", document) == (
        '[1 true]\t{"B": [1, true]} <no value> <no value><no value>|ü'
    )
    for template in ("{{range .A}}", "{{A}}", "{{}}", "{{.A..B}}"):
        with pytest.raises(InvalidInputError):
            render(template, document)


def test_times_as_docker_takes_them() -> None:
    assert parse_time("1767366245.5") == 1767366245 * S + S // 2
    assert parse_time("2026-01-02T15:04:05.000000001Z") == 1767366245 * S + 1
    assert parse_time("2026-01-02T16:04:05+01:00") == 1767366245 * S
    assert parse_time("1h30m", now_ns=10_000 * S) == (10_000 - 5400) * S
    assert parse_duration("1.5s") == 3 * S // 2
    for text in ("", "x", "10", "-1s", "1y"):
        with pytest.raises(InvalidInputError):
            parse_duration(text)
    for text in ("yesterday", "2026-13-01", "1e9", "99999999999999999999"):
        with pytest.raises(InvalidInputError):
            parse_time(text)


def test_columns_of_top() -> None:
    assert wanted_columns(("-eo", "pid,args")) == ("pid", "args")
    assert wanted_columns(("-o", "pid")) == ("pid",)
    assert wanted_columns(()) == wanted_columns(("-ef",))
    assert "rss" in wanted_columns(("aux",))
    for options in (("-o", "nothing"), ("-z",), ("-o",)):
        with pytest.raises(InvalidInputError):
            wanted_columns(options)


def test_events_are_shown_and_chosen(zonal: Zonal) -> None:
    zonal("run", "--name", "told", "local:1", "sh", "-c", "exit 5")
    lines = zonal("events", "--until", "0s", "--filter", "zone=told", "--filter", "event=die").stdout.decode()
    assert re.fullmatch(r"\S+Z zone die [0-9a-f]{64} \(exitCode=5, image=local:1, name=told\)\n", lines)
    (line,) = zonal("events", "--since", "1h", "--until", "0s", "--json", "--filter", "event=die").stdout.splitlines()[
        -1:
    ]
    assert json.loads(line)["Actor"]["Attributes"]["exitCode"] == "5"
    assert zonal("events", "--filter", "colour=red").returncode == 125
    zonal("rm", "told")


def test_what_is_created_waits_for_its_start(zonal: Zonal) -> None:
    made = zonal("create", "--name", "later", "-e", "A=1", "local:1", "sh", "-c", "echo $A; exit 3")
    assert made.returncode == 0, made.stderr
    assert b"later" not in zonal("ps").stdout
    listed = zonal("ps", "-a", "--filter", "status=created")
    assert b"later" in listed.stdout
    assert made.stdout.decode().strip().startswith(zonal("ps", "-aq").stdout.decode().strip())
    started = zonal("start", "-a", "later")
    assert (started.stdout, started.returncode) == (b"1\n", 3), started.stderr


def test_a_zone_for_workloads_is_made_with_a_zones_options_only(zonal: Zonal) -> None:
    for arguments in (("--entrypoint", "x", "z"), ("-m", "0", "z"), ("--restart", "sometimes", "z"), ("z", "image")):
        assert zonal("zone", "create", *arguments).returncode == 125, arguments
    done = zonal("run", "--zone", "nobody", "local:1", "true")
    assert (done.returncode, b"nobody" in done.stderr) == (125, True), done.stderr
