"""What docker would think of a workload after each result."""

from __future__ import annotations

import json
from dataclasses import asdict

from hypothesis import given
from hypothesis import strategies as st

from zonal.images.healthcheck import HealthCheck
from zonal.zones.health import MAX_RESULTS, Health, HealthStatus, ProbeResult, check_from, health_from

S = 10**9
STARTED = 1000 * S
STARTING, HEALTHY, UNHEALTHY = HealthStatus


def result(status: int, at_s: float = 100) -> ProbeResult:
    start = STARTED + int(at_s * S)
    return ProbeResult(start, start + S, status, f"status {status}")


def after(check: HealthCheck, *results: ProbeResult) -> Health:
    health = Health()
    for each in results:
        health = health.after(check, each, started_ns=STARTED)
    return health


def test_one_success_makes_healthy_and_three_failures_in_a_row_unhealthy() -> None:
    check = HealthCheck()
    assert after(check).status is STARTING
    assert after(check, result(0)).status is HEALTHY
    assert after(check, result(0), result(1), result(1)).status is HEALTHY
    assert after(check, result(0), result(1), result(1), result(0), result(1)).failing_streak == 1
    assert after(check, result(0), result(1), result(-1), result(2)).status is UNHEALTHY
    assert after(check, *[result(1)] * 2).status is STARTING
    assert after(check, *[result(1)] * 3).status is UNHEALTHY
    assert after(check, *[result(1)] * 3, result(0)) == after(check, result(1), result(1), result(1), result(0))
    assert after(HealthCheck(retries=1), result(1)).status is UNHEALTHY


def test_failures_in_the_start_period_do_not_count_before_the_first_success() -> None:
    check = HealthCheck(start_period_ns=10 * S, retries=2)
    early = [result(1, at) for at in (1, 3, 5, 9.9)]
    assert after(check, *early) == Health(STARTING, 0, tuple(early))
    assert after(check, *early, result(1, 10), result(1, 11)).status is UNHEALTHY
    assert after(check, result(0, 1), result(1, 2), result(1, 3)).status is UNHEALTHY


@given(st.lists(st.integers(-1, 3), max_size=20))
def test_the_last_results_are_kept_and_come_back_from_a_record(statuses: list[int]) -> None:
    results = [result(status) for status in statuses]
    health = after(HealthCheck(), *results)
    assert list(health.results) == results[-MAX_RESULTS:]
    assert health_from(json.loads(json.dumps(asdict(health)))) == health


def test_a_check_comes_back_from_a_record() -> None:
    check = HealthCheck(("CMD", "a", "b"), 1, 2, 3, 4, 5, ("/bin/bash", "-c"))
    assert check_from(json.loads(json.dumps(asdict(check)))) == check
    assert check_from(None) is None
    assert health_from(None) is None


def test_when_the_next_probe_begins() -> None:
    def at(check: HealthCheck, health: Health, now_s: float) -> float:
        return health.next_ns(check, STARTED + int(now_s * S), started_ns=STARTED) / S

    assert at(HealthCheck(), Health(), 0) == 30
    assert at(HealthCheck(), Health(), 12) == 18
    assert at(HealthCheck(), after(HealthCheck(), result(0, 100)), 101) == 30
    assert at(HealthCheck(), after(HealthCheck(), result(0, 100)), 1000) == 0
    slow = HealthCheck(start_period_ns=60 * S, interval_ns=20 * S)
    assert at(slow, Health(), 0) == 5
    assert at(slow, after(slow, result(0, 1)), 2) == 20
    assert at(slow, Health(), 61) == 0
    # A clock that was set back by a year does not hold it up for so long.
    assert at(HealthCheck(), Health(), -365 * 24 * 3600) == 30
    assert at(HealthCheck(interval_ns=1), Health(), 0) == 0.1
    assert at(HealthCheck(interval_ns=(1 << 63) - 1), Health(), 0) == 365 * 24 * 3600


def test_what_a_test_runs() -> None:
    assert HealthCheck(("CMD", "curl", "-f", "x")).command == ("curl", "-f", "x")
    assert HealthCheck(("CMD-SHELL", "exit 1")).command == ("/bin/sh", "-c", "exit 1")
    assert HealthCheck(("CMD-SHELL", "exit 1"), shell=("bash", "-ec")).command == ("bash", "-ec", "exit 1")
    for nothing in ((), ("NONE",), ("CMD",), ("CMD-SHELL",), ("CMD-SHELL", "a", "b"), ("curl", "x")):
        assert HealthCheck(nothing).command == ()
