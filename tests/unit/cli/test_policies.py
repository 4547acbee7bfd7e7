"""``--restart``, ``--health-…`` and ``update`` on the command line, with a zonald whose zones are processes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.cli.conftest import Zonal
from zonal.api import control_pb2 as pb
from zonal.cli.documents import parse_filters, passes
from zonal.cli.events import is_wanted
from zonal.cli.policies import health_words, parse_restart, set_policies, show_health
from zonal.errors import InvalidInputError


def inspected(zonal: Zonal, name: str) -> dict[str, Any]:
    return json.loads(zonal("inspect", name).stdout)[0]


def test_policies_are_asked_for_shown_and_changed(zonal: Zonal) -> None:
    options = ("--restart", "on-failure:3", "--health-cmd", "test -e ü", "--health-interval", "1m30s")
    options += ("--health-retries", "5", "--health-start-period", "1h")
    assert zonal("run", "-d", "--name", "policies", *options, "local:1", "sleep", "1000").returncode == 0
    found = inspected(zonal, "policies")
    assert found["RestartCount"] == 0
    assert found["HostConfig"]["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    check = found["Config"]["Healthcheck"]
    assert check["Test"] == ["CMD-SHELL", "test -e ü"]
    assert (check["Interval"], check["Retries"], check["StartPeriod"]) == (90 * 10**9, 5, 3600 * 10**9)
    assert found["State"]["Health"] == {"Status": "starting", "FailingStreak": 0, "Log": []}
    assert b"(health: starting)" in zonal("ps").stdout
    assert zonal("ps", "-q", "-f", "health=starting").stdout == found["Id"][:12].encode() + b"\n"
    assert zonal("ps", "-q", "-f", "name=policies", "-f", "health=healthy", "-f", "health=none").stdout == b""
    assert zonal("update", "--restart", "always", "policies").stdout == b"policies\n"
    assert inspected(zonal, "policies")["HostConfig"]["RestartPolicy"]["Name"] == "always"
    zonal("rm", "-f", "policies")


def test_without_any_there_is_none(zonal: Zonal) -> None:
    for options in ((), ("--no-healthcheck", "--restart", "no")):
        assert zonal("run", "--name", "none", *options, "local:1", "true").returncode == 0
        found = inspected(zonal, "none")
        assert found["HostConfig"]["RestartPolicy"] == {"Name": "no", "MaximumRetryCount": 0}
        assert "Health" not in found["State"]
        assert "Healthcheck" not in found["Config"]
        zonal("rm", "none")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--restart", "sometimes", "local:1"], "there is no restart policy 'sometimes'"),
        (["run", "--restart", "always:3", "local:1"], "the restart policy always has no number of retries"),
        (["run", "--restart", "on-failure:-1", "local:1"], "'-1' is not a number of retries"),
        (["run", "--restart", "on-failure:", "local:1"], "'' is not a number of retries"),
        (["run", "--restart", f"on-failure:{1 << 31}", "local:1"], "is not a number of retries"),
        (["run", "--rm", "--restart", "always", "local:1"], "--restart and --rm cannot go together"),
        (["run", "--health-interval", "soon", "--health-cmd", "true", "local:1"], "'soon' is not a duration"),
        (["run", "--health-timeout", "1us", "--health-cmd", "true", "local:1"], "timeout of 1000 ns cannot be"),
        (["run", "--health-interval", "9999h", "--health-cmd", "true", "local:1"], "interval of"),
        (["run", "--health-interval", "5s", "local:1"], "the image has none"),
        (["run", "--no-healthcheck", "--health-cmd", "true", "local:1"], "cannot go together"),
        (["ps", "-f", "health=good"], "there is no health 'good'"),
        (["update", "some"], "nothing is to be changed"),
        (["update", "--restart", "never", "some"], "there is no restart policy 'never'"),
        (["update", "--restart", "always", "no-such"], "there is no zone 'no-such'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_and_a_hint(zonal: Zonal, arguments: list[str], said: str) -> None:
    done = zonal(*arguments)
    assert done.returncode == 125
    lines = done.stderr.decode().splitlines()
    assert said in lines[0]
    assert lines[1].startswith("hint: ")
    assert len(lines) == 2


def test_no_policy_is_given_to_a_zone_that_goes_at_its_end(zonal: Zonal) -> None:
    zonal("run", "-d", "--rm", "--name", "goes", "local:1", "sleep", "1000")
    done = zonal("update", "--restart", "always", "goes")
    assert b"removed at its end (--rm)" in done.stderr
    assert zonal("update", "--restart", "no", "goes").returncode == 0
    zonal("rm", "-f", "goes")


def test_policies_in_dockers_spelling() -> None:
    assert parse_restart("on-failure:3") == pb.RestartPolicy(name="on-failure", maximum_retries=3)
    assert parse_restart("on-failure:0") == parse_restart("on-failure")
    assert parse_restart("unless-stopped").name == "unless-stopped"
    spec = pb.RunSpec()
    set_policies(spec, health_interval="0", health_timeout="1.5s")
    assert (spec.health.interval_ns, spec.health.timeout_ns) == (0, 1_500_000_000)
    with pytest.raises(InvalidInputError, match="too long"):
        set_policies(spec, health_interval="999999999999h")


def test_health_in_lists_and_documents() -> None:
    words = {"": "", "starting": " (health: starting)", "healthy": " (healthy)", "unhealthy": " (unhealthy)"}
    for status, shown in words.items():
        zone = pb.Zone(health=pb.Health(status=status)) if status else pb.Zone()
        assert health_words(zone) == shown
        assert passes(zone, parse_filters([f"health={status or 'none'}"]))
        assert not passes(zone, parse_filters([f"health={'starting' if status != 'starting' else 'none'}"]))
    probe = pb.HealthProbe(start_ns=10**18, end_ns=10**18 + 10**6, exit_status=-1, output="no\n")
    shown = show_health(pb.Health(status="unhealthy", failing_streak=3, log=[probe]))
    entry = {"Start": "2001-09-09T01:46:40Z", "End": "2001-09-09T01:46:40.001000Z", "ExitCode": -1, "Output": "no\n"}
    assert shown == {"Status": "unhealthy", "FailingStreak": 3, "Log": [entry]}


def test_events_of_health_are_found_with_and_without_their_state() -> None:
    event = pb.Event(action="health_status: healthy")
    assert is_wanted(event, {"event": {"health_status"}})
    assert is_wanted(event, {"event": {"health_status: healthy"}})
    assert not is_wanted(event, {"event": {"health_status: unhealthy"}})
