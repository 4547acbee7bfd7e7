"""When docker would start a container again, and after how long."""

from __future__ import annotations

import pytest

from zonal.errors import InvalidInputError
from zonal.zones.restart import (
    MAX_RETRIES,
    NO_RESTARTS_YET,
    STEADY_NS,
    RestartKind,
    RestartPolicy,
    Restarts,
    after_end,
    check_restart,
    stops,
    with_daemon,
)

ALWAYS = RestartPolicy(RestartKind.ALWAYS)


def delays(ran_ns: int = 0) -> list[int]:
    found: list[int] = []
    restarts: Restarts | None = NO_RESTARTS_YET
    for _ in range(12):
        assert restarts is not None
        restarts = after_end(ALWAYS, restarts, status=0, ran_ns=ran_ns)
        assert restarts is not None
        found.append(restarts.delay_ms)
    assert restarts is not None
    assert restarts.count == 12
    return found


def test_the_delay_doubles_from_100_ms_to_a_minute() -> None:
    assert delays() == [100 * 2**n for n in range(10)] + [60_000, 60_000]


def test_a_run_of_ten_seconds_begins_the_delays_anew() -> None:
    assert delays(STEADY_NS) == [100] * 12
    assert delays(STEADY_NS - 1)[-1] == 60_000


@pytest.mark.parametrize(
    ("policy", "restarted_after"),
    [
        (RestartPolicy(), []),
        (RestartPolicy(RestartKind.ON_FAILURE), [1, 125, 137]),
        (ALWAYS, [0, 1, 125, 137]),
        (RestartPolicy(RestartKind.UNLESS_STOPPED), [0, 1, 125, 137]),
    ],
    ids=str,
)
def test_which_ends_a_policy_undoes(policy: RestartPolicy, restarted_after: list[int]) -> None:
    due = {status: after_end(policy, NO_RESTARTS_YET, status=status, ran_ns=0) for status in (0, 1, 125, 137)}
    assert [status for status, restarts in due.items() if restarts] == restarted_after
    by_hand = Restarts(by_hand=True)
    assert not any(after_end(policy, by_hand, status=status, ran_ns=0) for status in due)


def test_failures_are_counted_to_the_bound() -> None:
    policy = RestartPolicy(RestartKind.ON_FAILURE, 3)
    counts: list[int] = []
    restarts: Restarts | None = NO_RESTARTS_YET
    while restarts := after_end(policy, restarts, status=1, ran_ns=STEADY_NS):
        counts.append(restarts.count)
    assert counts == [1, 2, 3]


def test_what_is_started_with_the_daemon() -> None:
    by_hand = Restarts(by_hand=True)
    started = {
        (kind, state.by_hand)
        for kind in RestartKind
        for state in (NO_RESTARTS_YET, by_hand)
        if with_daemon(RestartPolicy(kind), state)
    }
    assert started == {(RestartKind.ALWAYS, False), (RestartKind.ALWAYS, True), (RestartKind.UNLESS_STOPPED, False)}


def test_signals_that_are_to_end_a_workload() -> None:
    assert [number for number in range(1, 65) if stops(number, 15)] == [2, 3, 6, 9, 15]
    assert stops(1, 1)
    assert stops(28, 28)  # SIGWINCH, as httpd's image has it


@pytest.mark.parametrize(
    ("policy", "remove"),
    [
        (RestartPolicy(RestartKind.ALWAYS, 3), False),
        (RestartPolicy(RestartKind.NO, 1), False),
        (RestartPolicy(RestartKind.ON_FAILURE, MAX_RETRIES + 1), False),
        (RestartPolicy(RestartKind.ON_FAILURE, -1), False),
        (RestartPolicy(RestartKind.ALWAYS), True),
        (RestartPolicy(RestartKind.ON_FAILURE, 3), True),
    ],
)
def test_what_cannot_be_is_refused(policy: RestartPolicy, remove: bool) -> None:
    with pytest.raises(InvalidInputError) as caught:
        check_restart(policy, remove=remove)
    assert caught.value.hint


def test_no_policy_goes_with_rm() -> None:
    check_restart(RestartPolicy(), remove=True)
