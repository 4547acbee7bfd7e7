"""The agent's end of a session, with what it says put wrong on the way out: ``LyingLink`` in place of ``Link``.

Which lies an agent tells is asked for by its zone's host name: ``lie-7`` stands for ``TABLE[7]``, a list of maps, each
with ``of`` (``hello``, ``reply:METHOD`` or ``event:NAME``) and ``how``:

- ``set``: the value at ``path`` (keys and indices) becomes ``value``, or the bytes ``raw`` as they are;
- ``drop``: the key at ``path`` is left out;
- ``never``: the message is not sent;
- ``twice``: it is sent twice;
- ``fail``: a reply becomes a refusal with ``code`` and ``text``;
- ``also``: the bytes ``raw`` are sent after it, on the channel itself.

It needs nothing but the agent's own modules, so that it can be a part of a real zone's system image.
"""

from __future__ import annotations

from zonal.agent.link import Link
from zonal.agent.protocol import cbor
from zonal.agent.protocol.frames import CALL, DATA, EVENT, HEADER_SIZE, HELLO, REPLY, encode_message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TABLE: list[list[dict[str, Any]]] = []
"""What there is to be asked for."""
NAME = "lie-"
_ARRAY, _MAP = 4, 5


class Raw:
    """Bytes to be put where a value should be."""

    def __init__(self, data: bytes) -> None:
        self.data = data


class LyingLink(Link):
    """See the module."""

    def __init__(self, loop: Any, transport: Any, peer: Any) -> None:
        self._methods: dict[int, str] = {}
        self._payload_follows = False
        # They are its peer's, and so those of all its sessions.
        self._lies: list[dict[str, Any]] = peer.__dict__.setdefault("lies", [])
        super().__init__(loop, transport, peer)

    def send(self, part: bytes | memoryview) -> None:
        """See ``Link``: messages are put wrong, frames of streams are left alone."""
        if self._payload_follows:
            self._payload_follows = False
            super().send(part)
            return
        stream, kind = int.from_bytes(part[4:8], "little"), part[8]
        if stream:
            self._payload_follows = kind == DATA and len(part) == HEADER_SIZE
            super().send(part)
            return
        message: Any = cbor.decode(bytes(part[HEADER_SIZE:]))
        self.said(self._name(kind, message), kind, message, part)

    def said(self, name: str, kind: int, message: Any, honest: bytes | memoryview) -> None:
        """Sends a message as the lies have it."""
        told = [lie for lie in self._lies if lie["of"] == name]
        if any(lie["how"] == "never" for lie in told):
            return
        for lie in told:
            message = _put_wrong(message, lie)
        frame = encode_message(kind, encode(message)) if told else honest
        for _ in range(2 if any(lie["how"] == "twice" for lie in told) else 1):
            super().send(frame)
        for lie in told:
            if lie["how"] == "also":
                super().send(lie["raw"])

    def _handle(self, stream: int, kind: int, payload: bytes) -> None:
        if not stream and kind == CALL:
            message: Any = cbor.decode(payload)
            self._methods[message["id"]] = message["method"]
            name = str(message["params"].get("hostname", ""))
            if name.startswith(NAME):
                self._lies[:] = TABLE[int(name.removeprefix(NAME))]
        super()._handle(stream, kind, payload)

    def _name(self, kind: int, message: dict[str, Any]) -> str:
        if kind == HELLO:
            return "hello"
        if kind == REPLY:
            return f"reply:{self._methods.get(message['id'], '')}"
        assert kind == EVENT
        return f"event:{message['event']}"


def encode(value: Any) -> bytes:
    """CBOR, with ``Raw`` as it is, and without the bounds that the protocol has."""
    if isinstance(value, Raw):
        return value.data
    if _is(value, dict):
        ordered = sorted(((cbor.encode(key), each) for key, each in value.items()), key=lambda pair: pair[0])
        return _head(_MAP, len(ordered)) + b"".join(key + encode(each) for key, each in ordered)
    if _is(value, list):
        return _head(_ARRAY, len(value)) + b"".join(encode(each) for each in value)
    return cbor.encode(value)


def _head(major: int, count: int) -> bytes:
    head = bytearray(cbor.encode(count))
    head[0] |= major << 5
    return bytes(head)


def _put_wrong(message: Any, lie: dict[str, Any]) -> Any:
    if lie["how"] == "fail":
        return {"id": message["id"], "error": {"code": lie["code"], "message": lie["text"]}}
    if lie["how"] not in ("set", "drop"):
        return message
    *above, last = lie["path"]
    place: Any = message
    for key in above:
        if not _has(place, key):
            return message  # there is no such field in this one
        place = place[key]
    if not _has(place, last):
        return message
    if lie["how"] == "set":
        place[last] = Raw(lie["raw"]) if "raw" in lie else lie["value"]
    else:
        del place[last]
    return message


def _has(place: Any, key: Any) -> bool:
    if _is(place, dict):
        return key in place
    return _is(place, list) and isinstance(key, int) and key < len(place)


def _is(value: Any, kind: type[Any]) -> bool:
    return isinstance(value, kind)
