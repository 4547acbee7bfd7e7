"""How much a zone may send: never more than burst and rate allow, and never less than it could have had."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zonal.zones.allowance import Allowance

steps = st.lists(st.tuples(st.floats(0, 10), st.floats(0, 500)), max_size=40)


@given(steps, st.floats(1, 1000), st.floats(0, 1000))
def test_who_waits_as_told_never_has_more_than_rate_and_burst(
    steps: list[tuple[float, float]], rate: float, burst: float
) -> None:
    clock = 0.0
    allowance = Allowance(rate, burst, lambda: clock)
    before_last = 0.0
    for pause, count in steps:
        clock += pause
        assert before_last <= burst + rate * clock + 1e-6
        wait = allowance.spend(count)
        before_last += count
        clock += wait
        assert before_last <= burst + rate * clock + 1e-6


def test_a_rest_fills_it_again_but_no_further() -> None:
    clock = 0.0
    allowance = Allowance(10, 100, lambda: clock)
    assert allowance.spend(100) == 0
    assert allowance.spend(1) == pytest.approx(0.1)
    clock += 1000
    assert allowance.spend(100) == 0
    assert allowance.spend(10) == pytest.approx(1)


async def test_how_long_it_was_held_back_is_counted() -> None:
    allowance = Allowance(1000, 1)
    await allowance.charge(1)
    assert allowance.held_seconds == pytest.approx(0, abs=1e-3)
    await allowance.charge(20)
    assert allowance.held_seconds == pytest.approx(0.02, abs=1e-2)
