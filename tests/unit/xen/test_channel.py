"""The channel's control page: layout against Xen's header, and a parser that stands any page."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.xen.c_layout import c_struct, c_values
from zonal.xen import channel
from zonal.xen.channel import ChannelError, parse_layout

_HEADERS = ["xen/io/libxenvchan.h"]


def test_layout_is_that_of_the_header() -> None:
    size, offsets = c_struct(
        _HEADERS,
        "struct vchan_interface",
        [
            "left.cons",
            "left.prod",
            "right.cons",
            "right.prod",
            "left_order",
            "right_order",
            "cli_live",
            "srv_live",
            "cli_notify",
            "srv_notify",
            "grants",
        ],
    )
    assert size == channel.CONTROL.size == offsets["grants"]
    assert offsets["left.cons"] == 4 * channel.LEFT_CONS
    assert offsets["left.prod"] == 4 * channel.LEFT_PROD
    assert offsets["right.cons"] == 4 * channel.RIGHT_CONS
    assert offsets["right.prod"] == 4 * channel.RIGHT_PROD
    assert offsets["left_order"] == channel.ORDERS_OFFSET
    assert offsets["right_order"] == channel.ORDERS_OFFSET + 2
    assert offsets["cli_live"] == channel.CLI_LIVE
    assert offsets["srv_live"] == channel.SRV_LIVE
    assert offsets["cli_notify"] == channel.CLI_NOTIFY
    assert offsets["srv_notify"] == channel.SRV_NOTIFY
    values = c_values(_HEADERS, ["VCHAN_NOTIFY_WRITE", "VCHAN_NOTIFY_READ"])
    assert list(values.values()) == [channel.NOTIFY_WRITE, channel.NOTIFY_READ]


def page(left_order: int, right_order: int, grants: bytes = b"") -> bytes:
    return (channel.CONTROL.pack(0, 0, 0, 0, left_order, right_order, 2, 1, 0, 0) + grants).ljust(4096, b"\0")


def test_grants_are_left_then_right() -> None:
    layout = parse_layout(page(14, 13, struct.pack("=7I", 1, 2, 3, 4, 50, 60, 999)))
    assert layout == channel.Layout(14, 13, (1, 2, 3, 4), (50, 60))


def test_small_rings_live_in_the_page() -> None:
    assert parse_layout(page(10, 11)) == channel.Layout(10, 11, (), ())
    assert parse_layout(page(11, 12, struct.pack("=I", 7))) == channel.Layout(11, 12, (), (7,))


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        (9, 16, "order 9"),
        (16, 21, "order 21"),
        (65535, 16, "order 65535"),
        (10, 10, "same place"),
        (11, 11, "same place"),
        (10, 20, "do not fit"),
    ],
)
def test_impossible_orders_are_named(left: int, right: int, message: str) -> None:
    with pytest.raises(ChannelError, match=message):
        parse_layout(page(left, right))


@given(st.binary(min_size=24, max_size=64), st.integers(0, 65535), st.integers(0, 65535))
def test_any_page_is_parsed_or_refused(noise: bytes, left: int, right: int) -> None:
    hostile = noise[:16] + struct.pack("=2H", left, right) + noise[20:].ljust(4076, noise[-1:])
    try:
        layout = parse_layout(hostile)
    except ChannelError:
        return
    assert len(layout.left_grants) + len(layout.right_grants) <= 512
    for order, grants in ((left, layout.left_grants), (right, layout.right_grants)):
        assert (len(grants) << 12 == 1 << order) if order >= 12 else not grants


@given(st.integers(10, 20), st.integers(10, 20))
def test_every_order_that_fits_is_taken(left: int, right: int) -> None:
    grants = sum(1 << (order - 12) for order in (left, right) if order >= 12)
    room = min(1024 if order == 10 else 2048 if order == 11 else 4096 for order in (left, right))
    fits = 24 + 4 * grants <= room and not (left == right < 12)
    try:
        parse_layout(page(left, right))
    except ChannelError:
        assert not fits
    else:
        assert fits
