from __future__ import annotations

from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zonal.agent.protocol.cbor import MAX_DEPTH, MAX_ITEMS, CborError, decode, encode

SCALARS = st.none() | st.booleans() | st.integers(-(1 << 64), (1 << 64) - 1) | st.binary() | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5), max_leaves=30
)


@given(VALUES)
def test_what_is_encoded_is_what_another_library_reads(value: Any) -> None:
    assert cbor2.loads(encode(value)) == value


@given(VALUES)
def test_the_encoding_is_the_canonical_one_and_decodes_to_the_same(value: Any) -> None:
    data = encode(value)
    assert data == cbor2.dumps(value, canonical=True)
    assert decode(data) == value
    assert encode(decode(data)) == data


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_are_the_one_encoding_of_a_value(data: bytes) -> None:
    try:
        value = decode(data)
    except CborError:
        return
    assert encode(value) == data


@given(VALUES, st.data())
def test_no_truncation_is_accepted(value: Any, data: st.DataObject) -> None:
    encoded = encode(value)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(CborError):
        decode(encoded[:cut])


@pytest.mark.parametrize(
    "data",
    [
        pytest.param("1817", id="a number that fits into fewer bytes"),
        pytest.param("190017", id="two bytes for 23"),
        pytest.param("1b00000000ffffffff", id="eight bytes for 32 bits"),
        pytest.param("5f42010243030405ff", id="byte string of indefinite length"),
        pytest.param("9fff", id="array of indefinite length"),
        pytest.param("bfff", id="map of indefinite length"),
        pytest.param("a2616101616102", id="key twice"),
        pytest.param("a2616201616102", id="keys out of order"),
        pytest.param("a10101", id="key that is no text"),
        pytest.param("c074323031332d30332d32315432303a30343a30305a", id="tag"),
        pytest.param("f93c00", id="half-precision float"),
        pytest.param("fb3ff199999999999a", id="double"),
        pytest.param("f7", id="undefined"),
        pytest.param("e0", id="simple value"),
        pytest.param("1c", id="reserved length"),
        pytest.param("62c328", id="text that is not UTF-8"),
        pytest.param("0000", id="two values"),
        pytest.param("", id="nothing"),
        pytest.param("9bffffffffffffffff", id="array of 2**64 - 1"),
        pytest.param("5bffffffffffffffff", id="bytes of 2**64 - 1"),
        pytest.param("bb7fffffffffffffff", id="map of 2**63 - 1"),
    ],
)
def test_what_is_outside_the_subset_is_refused(data: str) -> None:
    with pytest.raises(CborError):
        decode(bytes.fromhex(data))


def test_depth_is_bounded_both_ways() -> None:
    value: Any = None
    for _ in range(MAX_DEPTH):
        value = [value]
    assert decode(encode(value)) == value
    with pytest.raises(CborError):
        encode([value])
    with pytest.raises(CborError):
        decode(b"\x81" * (MAX_DEPTH + 1) + b"\xf6")
    with pytest.raises(CborError):
        decode(b"\x81" * 100_000 + b"\xf6")


def test_the_number_of_items_is_bounded() -> None:
    count = MAX_ITEMS
    with pytest.raises(CborError, match="items"):
        decode(b"\x9a" + count.to_bytes(4, "big") + b"\x00" * count)


@pytest.mark.parametrize("value", [1.5, {1: 2}, {None: 1}, object(), 1 << 64, -(1 << 64) - 1, "\ud800", [set[int]()]])
def test_what_the_subset_cannot_carry_is_not_encoded(value: Any) -> None:
    with pytest.raises(CborError):
        encode(value)
