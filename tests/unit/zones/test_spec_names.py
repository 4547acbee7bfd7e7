from __future__ import annotations

import re
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zonal.api.signals import parse_signal
from zonal.errors import InvalidInputError
from zonal.zones.names import check_hostname, check_name, make_id, make_name


def test_made_up_names_can_be_names() -> None:
    names = {make_name() for _ in range(200)}
    assert len(names) > 100
    assert all(re.fullmatch(r"[a-z]+_[a-z]+", check_name(name)) for name in names)


def test_ids_are_sixty_four_digits_each_time_others() -> None:
    assert re.fullmatch(r"[0-9a-f]{64}", make_id())
    assert make_id() != make_id()


@pytest.mark.parametrize("name", ["ab", "a-1", "A.b_c", "x" * 63])
def test_names_that_are_fine(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "a", "-ab", ".ab", "a/b", "a b", "ä1", "x" * 64, "a\n", "ab\n", "0" * 64])
def test_names_that_are_not(name: str) -> None:
    with pytest.raises(InvalidInputError):
        check_name(name)


@pytest.mark.parametrize("hostname", ["a", "web-1", "a.b.example", "1" * 63])
def test_host_names_that_are_fine(hostname: str) -> None:
    assert check_hostname(hostname) == hostname


@pytest.mark.parametrize("hostname", ["", "-a", "a-", "a_b", "a b", "a\n", "x" * 64])
def test_host_names_that_are_not(hostname: str) -> None:
    with pytest.raises(InvalidInputError):
        check_hostname(hostname)


def test_signals_have_this_machines_numbers() -> None:
    for member in signal.Signals:
        if member.name not in ("SIGRTMIN", "SIGRTMAX"):
            assert parse_signal(member.name) == parse_signal(member.name[3:].lower()) == member
    assert (parse_signal("RTMIN+3"), parse_signal("sigrtmax-1"), parse_signal("RTMIN"), parse_signal("RTMAX")) == (
        37, 63, 34, 64,
    )  # fmt: skip


@given(st.one_of(st.text(max_size=12), st.integers().map(str)))
def test_any_text_is_a_signal_or_refused(text: str) -> None:
    try:
        assert 1 <= parse_signal(text) <= 64
    except InvalidInputError as error:
        assert error.hint


@pytest.mark.parametrize(
    "text", ["", "0", "65", "-1", "SIG", "TERMS", "RTMIN-1", "RTMAX+1", "RTMIN+31", "RTMIN+99", "٣"]
)
def test_what_is_no_signal(text: str) -> None:
    with pytest.raises(InvalidInputError):
        parse_signal(text)
