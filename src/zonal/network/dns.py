"""DNS messages (RFC 1035), as far as a server needs them that answers for a few names and passes on the rest.

What comes in is hostile: a message that is not one plain question is none of ours.
"""

from __future__ import annotations

import socket
import struct
from typing import Final, NamedTuple

LOCK: Final = "resolver.lock"
UPSTREAM: Final = "upstream"
SUFFIX: Final = ".json"
"""Files of the resolver's folder: here, since its process imports little."""
A: Final = 1
PTR: Final = 12
AAAA: Final = 28
ANY: Final = 255
NO_ERROR: Final = 0
FORMAT_ERROR: Final = 1
SERVER_FAILURE: Final = 2
NO_SUCH_NAME: Final = 3
REFUSED: Final = 5
MAX_UDP: Final = 4096
"""Bytes of a message that is taken or given over UDP."""

_HEADER = struct.Struct("!6H")
_FIXED = struct.Struct("!2H")
_RECORD = struct.Struct("!HHHIH")
_IN = 1
_RESPONSE, _AUTHORITATIVE, _RECURSION_DESIRED, _RECURSION_AVAILABLE = 0x8000, 0x0400, 0x0100, 0x0080
_OPCODE = 0x7800
_MAX_NAME, _MAX_LABEL = 255, 63
_QUESTION_AT = 0xC00C
"""A pointer to the question's name."""
TTL: Final = 5
"""Seconds that an answer of ours may be kept: zones come and go."""


class Question(NamedTuple):
    """What is asked: an id to repeat, a name in lower case without the last dot, a type; and the bytes of it all."""

    identifier: int
    name: str
    kind: int
    section: bytes
    recursion: bool


def parse_question(message: bytes) -> Question | None:
    """The question of a query with exactly one; ``None`` for anything else."""
    if not _HEADER.size < len(message) <= 0xFFFF:
        return None
    identifier, flags, questions, _, _, _ = _HEADER.unpack_from(message)
    if flags & (_RESPONSE | _OPCODE) or questions != 1:
        return None
    labels: list[str] = []
    at = _HEADER.size
    while True:
        if at >= len(message):
            return None
        length = message[at]
        at += 1
        if length == 0:
            break
        if length > _MAX_LABEL or at + length - _HEADER.size > _MAX_NAME:
            return None  # compressed, or too long
        labels.append(message[at : at + length].decode("latin-1").lower())
        at += length
    if at + _FIXED.size > len(message):
        return None
    kind, family = _FIXED.unpack_from(message, at)
    if family != _IN:
        return None
    end = at + _FIXED.size
    return Question(identifier, ".".join(labels), kind, message[_HEADER.size : end], bool(flags & _RECURSION_DESIRED))


def answer(question: Question, records: list[tuple[int, bytes]], code: int = NO_ERROR) -> bytes:
    """A response to a question: with ``records``, pairs of a type and its data, or only a code."""
    flags = _RESPONSE | _AUTHORITATIVE | _RECURSION_AVAILABLE | code
    flags |= _RECURSION_DESIRED if question.recursion else 0
    parts = [_HEADER.pack(question.identifier, flags, 1, len(records), 0, 0), question.section]
    for kind, data in records:
        parts.append(_RECORD.pack(_QUESTION_AT, kind, _IN, TTL, len(data)) + data)
    return b"".join(parts)


def address_record(address: str) -> tuple[int, bytes]:
    """A or AAAA of an address."""
    if ":" in address:
        return AAAA, socket.inet_pton(socket.AF_INET6, address)
    return A, socket.inet_pton(socket.AF_INET, address)


def name_record(name: str) -> tuple[int, bytes]:
    """PTR to a name."""
    labels = [label.encode("latin-1", "replace")[:_MAX_LABEL] for label in name.split(".") if label]
    return PTR, b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def reverse_name(address: str) -> str:
    """Under which name the PTR of an address is asked for."""
    if ":" in address:
        digits = socket.inet_pton(socket.AF_INET6, address).hex()
        return ".".join(reversed(digits)) + ".ip6.arpa"
    return ".".join(reversed(address.split("."))) + ".in-addr.arpa"


def with_identifier(message: bytes, identifier: int) -> bytes:
    """The message under another id."""
    return identifier.to_bytes(2, "big") + message[2:]


def is_response_to(message: bytes, identifier: int, question: Question) -> bool:
    """Whether a server's message answers this question that was sent under ``identifier``."""
    if len(message) < _HEADER.size + len(question.section) or not message[2] & 0x80:
        return False
    got = int.from_bytes(message[:2], "big")
    section = message[_HEADER.size : _HEADER.size + len(question.section)]
    return got == identifier and section.lower() == question.section.lower()
