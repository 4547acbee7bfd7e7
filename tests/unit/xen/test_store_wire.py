"""The store's wire protocol: numbers and layout against Xen's header, and parsers that stand any bytes."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.xen.c_layout import c_struct, c_values
from zonal.xen.store import (
    Access,
    Permission,
    StoreError,
    StoreProtocolError,
    StoreRequestError,
    StoreValueError,
    parse_integer,
    wire,
)

_HEADERS = ["xen/io/xs_wire.h"]
_NAMES = {
    "DIRECTORY": "XS_DIRECTORY",
    "READ": "XS_READ",
    "GET_PERMISSIONS": "XS_GET_PERMS",
    "WATCH": "XS_WATCH",
    "UNWATCH": "XS_UNWATCH",
    "TRANSACTION_START": "XS_TRANSACTION_START",
    "TRANSACTION_END": "XS_TRANSACTION_END",
    "INTRODUCE": "XS_INTRODUCE",
    "RELEASE": "XS_RELEASE",
    "GET_DOMAIN_PATH": "XS_GET_DOMAIN_PATH",
    "WRITE": "XS_WRITE",
    "MAKE_DIRECTORY": "XS_MKDIR",
    "REMOVE": "XS_RM",
    "SET_PERMISSIONS": "XS_SET_PERMS",
    "WATCH_EVENT": "XS_WATCH_EVENT",
    "ERROR": "XS_ERROR",
    "IS_DOMAIN_INTRODUCED": "XS_IS_DOMAIN_INTRODUCED",
    "DIRECTORY_PART": "XS_DIRECTORY_PART",
}


def test_numbers_are_those_of_the_header() -> None:
    values = c_values(_HEADERS, [*_NAMES.values(), "XENSTORE_PAYLOAD_MAX", "XENSTORE_ABS_PATH_MAX"])
    assert {name: kind.value for name, kind in wire.MessageType.__members__.items()} == {
        ours: values[theirs] for ours, theirs in _NAMES.items()
    }
    assert values["XENSTORE_PAYLOAD_MAX"] == wire.PAYLOAD_MAX
    assert values["XENSTORE_ABS_PATH_MAX"] == wire.ABSOLUTE_PATH_MAX


def test_header_is_laid_out_as_in_c() -> None:
    size, offsets = c_struct(_HEADERS, "struct xsd_sockmsg", ["type", "req_id", "tx_id", "len"])
    assert size == wire.HEADER.size
    assert list(offsets.values()) == [0, 4, 8, 12]


_messages = st.builds(
    wire.Message,
    st.integers(0, 0xFFFF_FFFF),
    st.integers(0, 0xFFFF_FFFF),
    st.integers(0, 0xFFFF_FFFF),
    st.binary(max_size=300),
)


@given(st.lists(_messages, max_size=5), st.lists(st.integers(0, 400), max_size=10))
def test_messages_survive_any_fragmentation(messages: list[wire.Message], cuts: list[int]) -> None:
    stream = b"".join(map(wire.encode_message, messages))
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    decoder = wire.MessageDecoder()
    decoded = [message for start, end in itertools.pairwise(edges) for message in decoder.feed(stream[start:end])]
    assert decoded == messages


@given(st.binary(max_size=200))
def test_decoder_stands_any_bytes(data: bytes) -> None:
    decoder = wire.MessageDecoder()
    try:
        for message in decoder.feed(data):
            assert len(message.payload) <= wire.PAYLOAD_MAX
    except StoreProtocolError:
        pass


def test_too_long_messages_are_refused_both_ways() -> None:
    with pytest.raises(StoreRequestError, match="4097 bytes"):
        wire.encode_message(wire.Message(2, 1, 0, bytes(4097)))
    with pytest.raises(StoreProtocolError, match="4097 bytes"):
        list(wire.MessageDecoder().feed(wire.HEADER.pack(2, 1, 0, 4097)))


@pytest.mark.parametrize("path", ["", "a", "/a/", "//a", "/a//b", "/a b", "/a\0b", "/ä", "/a.b", "/" + "a" * 3072])
def test_impossible_paths_are_refused(path: str) -> None:
    with pytest.raises(StoreRequestError) as caught:
        wire.encode_path(path)
    assert caught.value.error == "EINVAL"


@pytest.mark.parametrize("path", ["/", "/local/domain/0", "@releaseDomain", "/a-b_c@d"])
def test_possible_paths_are_taken(path: str) -> None:
    assert wire.encode_path(path) == path.encode() + b"\0"


@given(st.lists(st.builds(Permission, st.integers(0, 0x7FEF), st.sampled_from(Access)), min_size=1, max_size=5))
def test_permissions_survive_the_wire(permissions: list[Permission]) -> None:
    assert wire.decode_permissions(wire.encode_strings(map(str, permissions))) == tuple(permissions)


@given(st.binary(max_size=40))
def test_permission_parser_stands_any_bytes(payload: bytes) -> None:
    with contextlib.suppress(StoreError):
        wire.decode_permissions(payload)


@given(st.integers(-(2**70), 2**70))
def test_integers_within_bounds_are_read(number: int) -> None:
    text = str(number).encode()
    if 0 <= number <= 0xFFFF_FFFF:
        assert parse_integer(text, 0, 0xFFFF_FFFF, name="x") == number
    else:
        with pytest.raises(StoreValueError):
            parse_integer(text, 0, 0xFFFF_FFFF, name="x")


@pytest.mark.parametrize("value", [b"", b" 1", b"1\n", b"1\0", b"+1", b"0x1", b"1_0", "١".encode(), b"9" * 5000])
def test_what_is_not_a_decimal_number_is_named(value: bytes) -> None:
    with pytest.raises(StoreValueError, match="port is ") as caught:
        parse_integer(value, 0, 10, name="port")
    assert len(str(caught.value)) < 300
