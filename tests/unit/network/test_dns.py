from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zonal.network import dns


def query(name: str, kind: int = dns.A, identifier: int = 7, flags: int = 0x0100) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label)
    return struct.pack("!6H", identifier, flags, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", kind, 1)


def test_a_plain_question_is_read() -> None:
    question = dns.parse_question(query("Web.Example", dns.AAAA))
    assert question is not None
    assert (question.name, question.kind, question.identifier, question.recursion) == ("web.example", dns.AAAA, 7, True)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\0" * 12,
        query("a")[:-1],
        query("a", flags=0x8000),
        query("a", flags=0x2800),
        query("a")[:4] + b"\0\2" + query("a")[6:],
        query("a")[:12] + b"\xc0\x0c" + query("a")[-4:],
        query("a")[:12] + b"\x3f" + b"x" * 63 + (b"\x3f" + b"x" * 63) * 3 + b"\0" + query("a")[-4:],
        query("a")[:-1] + b"\3",
    ],
)
def test_what_is_no_plain_question_is_none_of_ours(message: bytes) -> None:
    assert dns.parse_question(message) is None


@given(st.binary(max_size=600))
def test_anything_may_come(message: bytes) -> None:
    question = dns.parse_question(message)
    assert question is None or message[12 : 12 + len(question.section)] == question.section


def test_an_answer_repeats_the_question_and_gives_its_records() -> None:
    question = dns.parse_question(query("web"))
    assert question is not None
    reply = dns.answer(question, [dns.address_record("10.0.0.7"), dns.address_record("fd00::7")])
    assert reply[:2] == b"\0\7"
    assert struct.unpack("!4H", reply[4:12]) == (1, 2, 0, 0)
    assert reply[12 : 12 + len(question.section)] == question.section
    assert bytes((10, 0, 0, 7)) in reply
    assert dns.is_response_to(reply, 7, question)
    assert not dns.is_response_to(reply, 8, question)
    other = dns.parse_question(query("wet"))
    assert other is not None
    assert not dns.is_response_to(reply, 7, other)


def test_reverse_names_are_those_of_the_registries() -> None:
    assert dns.reverse_name("10.187.0.5") == "5.0.187.10.in-addr.arpa"
    assert dns.reverse_name("fd00::1").startswith("1.0.0.0.")
    assert dns.reverse_name("fd00::1").endswith(".0.0.d.f.ip6.arpa")
