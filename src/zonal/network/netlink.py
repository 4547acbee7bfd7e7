"""rtnetlink (rtnetlink(7)): requests to the kernel about links, addresses and traffic control.

Just what the path to a zone needs, with the standard library alone. pyroute2 would do as well, and was left out for
what it costs a daemon that makes ten kinds of requests: 13.5 MiB of memory, and 0.3 s to import, which is some seconds
in an emulated host, in the way of the first zone. Numbers: linux/netlink.h, linux/rtnetlink.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self

NLM_F_REQUEST: Final = 1
NLM_F_ACK: Final = 4
NLM_F_DUMP: Final = 0x300
NLM_F_REPLACE: Final = 0x100
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400

_NETLINK_ROUTE = 0
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence number, port."""
_ATTRIBUTE = struct.Struct("=HH")
_NLA_F_NESTED = 0x8000
_NLA_TYPE_MASK = 0x3FFF
_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 270, 10, 11
_NLM_F_ACK_TLVS = 0x200
_NLMSGERR_ATTR_MSG = 1
_RECEIVE = 1 << 16
_TIMEOUT = 10.0


class NetlinkError(OSError):
    """The kernel refused a request; with its own words, where it had any."""


class Netlink:
    """A socket to the kernel, in the network namespace in which it was made, whoever uses it."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_ROUTE)
        self._socket.settimeout(_TIMEOUT)
        for option in (_NETLINK_EXT_ACK, _NETLINK_CAP_ACK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def request(self, kind: int, payload: bytes, flags: int = 0) -> None:
        """One request, done when this returns. Raises ``NetlinkError``."""
        for _ in self._exchange(kind, payload, flags | NLM_F_ACK):
            pass

    def get(self, kind: int, payload: bytes, flags: int = 0) -> list[bytes]:
        """The payloads of the answers to a question; with ``NLM_F_DUMP`` of all there are. Raises ``NetlinkError``."""
        return list(self._exchange(kind, payload, flags if flags & NLM_F_DUMP else flags | NLM_F_ACK))

    def _exchange(self, kind: int, payload: bytes, flags: int) -> Iterator[bytes]:
        self._sequence += 1
        length = _HEADER.size + len(payload)
        header = _HEADER.pack(length, kind, flags | NLM_F_REQUEST, self._sequence, 0)
        self._socket.sendto(header + payload, (0, 0))
        while True:
            data = self._socket.recv(_RECEIVE)
            while len(data) >= _HEADER.size:
                length, answer, answer_flags, sequence, _ = _HEADER.unpack_from(data)
                body, data = data[_HEADER.size : length], data[_aligned(length) :]
                if sequence != self._sequence:
                    continue  # of a request that nobody waits for any more
                if answer == _NLMSG_DONE:
                    return
                if answer == _NLMSG_ERROR:
                    _raise_for(body, answer_flags)
                    return
                yield body


def attribute(kind: int, data: bytes = b"") -> bytes:
    """One attribute, padded."""
    length = _ATTRIBUTE.size + len(data)
    return _ATTRIBUTE.pack(length, kind) + data + bytes(_aligned(length) - length)


def text(kind: int, value: str) -> bytes:
    """An attribute of a text, ended by NUL."""
    return attribute(kind, value.encode() + b"\0")


def u32(kind: int, value: int) -> bytes:
    """An attribute of a number."""
    return attribute(kind, struct.pack("=I", value))


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute of attributes."""
    return attribute(kind | _NLA_F_NESTED, b"".join(attributes))


def parse_attributes(data: bytes) -> dict[int, bytes]:
    """Attributes by their kinds; of one that is there twice the last."""
    found: dict[int, bytes] = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _NLA_TYPE_MASK] = data[_ATTRIBUTE.size : length]
        data = data[_aligned(length) :]
    return found


def _raise_for(body: bytes, flags: int) -> None:
    (status,) = struct.unpack_from("=i", body)
    if not status:
        return
    words = ""
    if flags & _NLM_F_ACK_TLVS:
        # struct nlmsgerr: the status, then the header of the request alone (NETLINK_CAP_ACK).
        said = parse_attributes(body[4 + _HEADER.size :]).get(_NLMSGERR_ATTR_MSG, b"")
        words = said.rstrip(b"\0").decode(errors="replace")
    reason = os.strerror(-status)
    raise NetlinkError(-status or errno.EIO, f"{reason}: {words}" if words else reason)


def _aligned(length: int) -> int:
    return (length + 3) & ~3
