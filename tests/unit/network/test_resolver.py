"""The resolver's own bookkeeping; whole lives of it are in trial.py."""

from __future__ import annotations

import pytest

from zonal.network import dns
from zonal.network.resolver import BURST, Resolver


def test_a_zone_that_asks_without_end_is_not_heard_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr("zonal.network.resolver.time.monotonic", lambda: now[0])
    resolver = Resolver("/nowhere")
    heard = sum(resolver._may_ask("10.0.0.2") for _ in range(5000))  # pyright: ignore[reportPrivateUsage]
    assert heard == BURST
    assert resolver._may_ask("10.0.0.3"), "another zone is"  # pyright: ignore[reportPrivateUsage]
    now[0] += 1.0
    assert resolver._may_ask("10.0.0.2")  # pyright: ignore[reportPrivateUsage]


def test_names_that_end_in_a_pointer_or_a_loop_are_none_of_ours() -> None:
    assert dns.parse_question(b"\0\1\1\0\0\1" + bytes(6) + b"\xc0\x0c\0\1\0\1") is None
