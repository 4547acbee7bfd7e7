from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zonal.agent.protocol.frames import ProtocolError
from zonal.agent.protocol.streams import LEAST_WINDOW, WINDOW, ReceiveAccount, SendAccount, common_window, credit_step


@given(
    st.lists(st.tuples(st.integers(1, WINDOW), st.integers(1, WINDOW)), max_size=50),
    st.integers(0, 1 << 40),
    st.sampled_from([LEAST_WINDOW, WINDOW]),
)
def test_two_honest_sides_never_meet_an_error_or_get_stuck(
    steps: list[tuple[int, int]], offset: int, window: int
) -> None:
    sender, receiver = SendAccount(offset, window), ReceiveAccount(offset, window)
    for send, consume in steps:
        count = min(send, sender.room())
        if count:
            sender.sent += count
            receiver.data(count)
        credit = receiver.consume(min(consume, receiver.received - receiver.consumed))
        if credit is not None:
            sender.credit(credit)
        assert 0 <= sender.room() <= window
        assert receiver.received - receiver.told <= window
    credit = receiver.consume(receiver.received - receiver.consumed)
    if credit is not None:
        sender.credit(credit)
    assert sender.room() > window - credit_step(window)


def test_the_last_bytes_are_credited_at_the_end() -> None:
    receiver = ReceiveAccount()
    receiver.data(10)
    receiver.end(10)
    assert receiver.consume(4) is None
    assert receiver.consume(6) == 10


def test_more_than_the_window_is_refused() -> None:
    receiver = ReceiveAccount(5, WINDOW)
    receiver.data(WINDOW)
    with pytest.raises(ProtocolError):
        receiver.data(1)


def test_an_end_must_tell_the_true_length_and_be_the_last() -> None:
    receiver = ReceiveAccount()
    receiver.data(3)
    with pytest.raises(ProtocolError):
        receiver.end(4)
    receiver.end(3)
    with pytest.raises(ProtocolError):
        receiver.end(3)
    with pytest.raises(ProtocolError):
        receiver.data(1)


@pytest.mark.parametrize("consumed", [0, 9, 10, 21, 1 << 63])
def test_credit_goes_forwards_and_not_beyond_what_was_sent(consumed: int) -> None:
    sender = SendAccount(10)
    sender.sent = 20
    with pytest.raises(ProtocolError):
        sender.credit(consumed)
    assert sender.credit(15) == 5
    assert sender.credit(20) == 5


def test_the_smaller_window_of_both_sides_holds() -> None:
    assert common_window(None) == LEAST_WINDOW
    assert common_window(LEAST_WINDOW + 1) == LEAST_WINDOW + 1
    assert common_window(1 << 60) == WINDOW


@pytest.mark.parametrize("said", [0, -1, LEAST_WINDOW - 1, True, "wide", b"", [], {}])
def test_a_window_that_cannot_be_is_refused(said: object) -> None:
    with pytest.raises(ProtocolError):
        common_window(said)
