"""Lies about every field: made from honest messages as they were recorded, so that a new field is covered by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from zonal.agent.protocol import cbor
from zonal.agent.protocol.frames import DATA, EVENT, HEADER_SIZE, REPLY, encode_frame, encode_message

ESCAPES = "\x1b]0;owned\x07\x1b[2J\r\n\u202e\u0000zonal_zones_running 666\n"
"""A title, an empty screen, a line of its own, a turn of direction, a NUL, a line of Prometheus'."""
PATH = "../../../../etc/passwd"
WRONG: tuple[dict[str, Any], ...] = (
    {"value": None},
    {"value": True},
    {"value": -1},
    {"value": 0},
    {"value": (1 << 63) - 1},
    {"value": (1 << 64) - 1},
    {"value": -(1 << 63)},
    {"value": ""},
    {"value": "x" * 60_000},
    {"value": ESCAPES},
    {"value": PATH},
    {"value": b"\x00\xff"},
    {"value": []},
    {"value": {}},
    {"value": [{"id": ESCAPES}] * 100},
    {"raw": b"\xfb\x7f\xf8" + bytes(6)},  # not a number, as a float
    {"raw": b"\xc2\x58\x40" + b"\xff" * 64},  # an integer of 512 bits
    {"raw": b"\x62\xff\xfe"},  # text that is none
    {"raw": b"\x81" * 200 + b"\x00"},  # deep
    {"raw": b"\x9b" + b"\xff" * 8},  # an array without end
)
"""In place of any value."""
Lie = dict[str, Any]


def lies_about(messages: Mapping[str, Any]) -> Iterator[list[Lie]]:
    """For each field of each message each wrong value, and that it is not there; then what concerns whole messages."""
    for name, message in messages.items():
        for path in _paths(message):
            for wrong in WRONG:
                yield [{"of": name, "how": "set", "path": path, **wrong}]
            if isinstance(path[-1], str):
                yield [{"of": name, "how": "drop", "path": path}]
        yield [{"of": name, "how": "never"}]
        yield [{"of": name, "how": "twice"}]
        if name.startswith("reply:"):
            for code in ("not-found", "no-such", "limit", "runtime", "exists", ESCAPES):
                yield [{"of": name, "how": "fail", "code": code, "text": ESCAPES + "y" * 4000}]
        for raw in _surprises():
            yield [{"of": name, "how": "also", "raw": raw}]


def every_field_once(lies: list[list[Lie]], most: int) -> list[list[Lie]]:
    """A part of them that has each field ``most`` times, with other wrong values from field to field."""
    counts: dict[str, int] = {}
    chosen: list[list[Lie]] = []
    stride = max(1, len(WRONG) // most)
    for (lie,) in lies:
        key = f"{lie['of']} {lie['path']}" if lie["how"] == "set" else ""
        number = counts[key] = counts.get(key, -1) + 1
        if not key or (number + len(counts)) % stride == 0:
            chosen.append([lie])
    return chosen


def _paths(value: Any, above: tuple[Any, ...] = ()) -> Iterator[list[Any]]:
    if above:
        yield list(above)
    pairs: Any = ()
    if isinstance(value, dict):
        pairs = cast("dict[str, Any]", value).items()
    elif isinstance(value, list):
        pairs = enumerate(cast("list[Any]", value))
    for key, each in pairs:
        yield from _paths(each, (*above, key))


def _surprises() -> Iterator[bytes]:
    yield encode_message(REPLY, cbor.encode({"id": 1 << 40, "result": None}))
    yield encode_message(EVENT, cbor.encode({"event": "exited", "id": "main", "status": 0, "oom": False}))
    yield encode_message(EVENT, cbor.encode({"event": ESCAPES}))
    yield encode_frame(77, DATA, b"a stream of nobody's")
    yield b"\xff" * HEADER_SIZE
    yield encode_frame(0, EVENT, bytes(100))
