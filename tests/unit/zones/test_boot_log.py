from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zonal.agent import kernel_log
from zonal.zones.boot_log import (
    CLOCK_BEGINS,
    MAX_LINES,
    MAX_STEPS,
    MAX_TEXT,
    BootStep,
    console_lines,
    kernel_lines,
    parse_steps,
    zone_steps,
)

if TYPE_CHECKING:
    from zonal.agent.protocol.cbor import Value


def test_lines_of_a_console_with_their_times() -> None:
    said = b"noise\r\n[    0.000001] first\r\n[   12.345678] second \x1b[1m\r\n[1.5] no\r\n[ 999999.000000] too late\n"
    assert console_lines(said, 10) == (BootStep(1010, "first"), BootStep(12345678010, "second  [1m"))
    assert len(console_lines(b"[    0.000001] x\n" * 5000, 0)) == MAX_LINES
    assert console_lines(b"[    0.000001] " + b"x" * 5000, 0)[0].text == "x" * MAX_TEXT


def test_an_agents_answer_is_not_believed() -> None:
    assert kernel_lines({"lines": [[1, "a"], [0, "b\n"], ["x", "y"], [1], 5, [True, "z"], [-1, "n"]]}, 5) == (
        BootStep(5, "b"),
        BootStep(1005, "a"),
    )
    nonsenses: list[Value] = [None, [], {"lines": 5}, {"lines": {"a": 1}}, {}]
    for nonsense in nonsenses:
        assert kernel_lines(nonsense, 0) == ()


def test_steps_are_bounded_and_put_on_the_hosts_clock() -> None:
    assert parse_steps({"mounted": 5, "": 1, "bad\x1b": 1, "late": 10**30, "flag": True, "x" * 100: 1}) == (
        ("mounted", 5),
    )
    assert parse_steps({str(number): number for number in range(100)}) == tuple((str(n), n) for n in range(MAX_STEPS))
    assert parse_steps("text") == parse_steps(None) == ()
    assert zone_steps([("b", 7), ("a", 5)], 100) == (
        BootStep(100, CLOCK_BEGINS),
        BootStep(105, "a"),
        BootStep(107, "b"),
    )


@given(st.binary(max_size=2000))
def test_no_console_breaks_it(said: bytes) -> None:
    assert all(step.text.isprintable() for step in console_lines(said, 0))


@pytest.mark.skipif(not os.access(kernel_log.DEVICE, os.R_OK), reason="the kernel's log cannot be read")
def test_the_log_of_this_machines_kernel() -> None:
    lines = kernel_log.read_lines()
    assert lines
    # Not in strict order: two CPUs may write at once.
    assert all(time >= 0 for time, _ in lines)
    assert len(lines) <= kernel_log.MAX_LINES
    assert all(len(text) <= kernel_log.MAX_LINE and "\n" not in text for _, text in lines)
    assert sum(len(text) for _, text in lines) <= kernel_log.MAX_BYTES + kernel_log.MAX_LINE
