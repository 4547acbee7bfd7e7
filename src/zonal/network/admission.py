"""Which frames a zone may send: those that name its own hardware address and its own addresses as their sender's.

The rule is one program of classic BPF (Linux, Documentation/networking/filter.rst), which the kernel checks and
compiles. It says yes or no to a frame from its Ethernet header on:

- No VLAN tag, and the zone's hardware address as the source.
- IPv4: an address of the zone as the source.
- ARP for IPv4 (RFC 826): the zone's hardware address and an address of its as the sender.
- IPv6: an address of the zone as the source, and no extension headers in which something else could hide (RFC 7113).
- Neighbour discovery (RFC 4861): neither a router's messages nor those that only ask for such; an advertisement is for
  an address of the zone, and an option with a hardware address has the zone's.
- Nothing else.

A zone knows its addresses beforehand, so it needs none of what an unconfigured machine sends (DHCP, `::` as a source).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from zonal.errors import InvalidInputError
from zonal.network.links import mac_bytes

MAX_ADDRESSES: Final = 8
"""Of a zone's addresses of one family; a jump in such a program goes no further than 255 instructions."""
ACCEPT: Final = 0xFFFFFFFF

# linux/bpf_common.h: class, size and mode, or class and operation.
_LOAD, _LOAD_HALF, _LOAD_BYTE, _RETURN, _JUMP, _EQUAL = 0x20, 0x28, 0x30, 0x06, 0x05, 0x15
_VLAN_TAG_PRESENT = 0xFFFFF000 + 48  # linux/filter.h: SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT
_INSTRUCTION = struct.Struct("=HBBI")
"""struct sock_filter: code, instructions to skip if true and if false, operand."""

_IPV4, _ARP, _IPV6 = 0x0800, 0x0806, 0x86DD
_SOURCE_MAC, _TYPE, _PAYLOAD = 6, 12, 14
_IPV4_SOURCE = _PAYLOAD + 12
_ARP_FORMAT, _ARP_MAC, _ARP_ADDRESS = _PAYLOAD, _PAYLOAD + 8, _PAYLOAD + 14
_IPV6_LENGTH, _IPV6_NEXT, _IPV6_SOURCE, _IPV6_PAYLOAD = _PAYLOAD + 4, _PAYLOAD + 6, _PAYLOAD + 8, _PAYLOAD + 40
_ICMPV6, _FRAGMENT = 58, 44
_EXTENSIONS = (0, 43, 60)
"""Hop-by-hop options, routing, destination options: IANA's protocol numbers."""
_ROUTER_MESSAGES = (133, 134, 137)
"""Router solicitation and advertisement, redirect: IANA's ICMPv6 types."""
_SOLICITATION, _ADVERTISEMENT = 135, 136
_TARGET = _IPV6_PAYLOAD + 8
_OPTION = _IPV6_PAYLOAD + 24
_WITHOUT_OPTION, _WITH_OPTION = 24, 32
"""Bytes of a solicitation or advertisement, without and with one hardware address."""


def link_local(mac: str) -> IPv6Address:
    """The link-local address that belongs to a hardware address (RFC 4291, appendix A)."""
    raw = mac_bytes(mac)
    identifier = bytes([raw[0] ^ 2]) + raw[1:3] + b"\xff\xfe" + raw[3:]
    return IPv6Address(b"\xfe\x80" + bytes(6) + identifier)


def admission_program(mac: str, addresses: Iterable[IPv4Address | IPv6Address]) -> bytes:
    """The program, as an array of ``struct sock_filter``; its result is 0 for no, and ``ACCEPT`` for yes.

    Raises ``InvalidInputError`` when there are more addresses than `MAX_ADDRESSES` of a family.
    """
    wanted = list(addresses)
    ipv4 = [address for address in wanted if isinstance(address, IPv4Address)]
    ipv6 = [address for address in wanted if isinstance(address, IPv6Address)]
    if max(len(ipv4), len(ipv6)) > MAX_ADDRESSES:
        raise InvalidInputError(f"a zone with more than {MAX_ADDRESSES} addresses of a family cannot be filtered")
    code = _Program()
    code.load(_VLAN_TAG_PRESENT)
    code.otherwise_refuse(0)
    _own_mac(code, mac, _SOURCE_MAC)
    code.load(_TYPE, 2)
    code.branch(_IPV4, "ipv4")
    code.branch(_ARP, "arp")
    code.otherwise_refuse(_IPV6)
    _ipv6(code, mac, ipv6)
    code.place("arp")
    code.load(_ARP_FORMAT)
    code.otherwise_refuse(0x0001_0800)  # Ethernet, IPv4
    code.load(_ARP_FORMAT + 4, 2)
    code.otherwise_refuse(0x0604)  # of 6 bytes and 4
    _own_mac(code, mac, _ARP_MAC)
    _own_ipv4(code, ipv4, _ARP_ADDRESS)
    code.place("ipv4")
    _own_ipv4(code, ipv4, _IPV4_SOURCE)
    return code.assemble()


def _ipv6(code: _Program, mac: str, addresses: list[IPv6Address]) -> None:
    _own_ipv6(code, addresses, _IPV6_SOURCE, "next header")
    code.place("next header")
    code.load(_IPV6_NEXT, 1)
    code.branch(_ICMPV6, "icmpv6")
    for number in _EXTENSIONS:
        code.refuse_if(number)
    code.unless(_FRAGMENT, "accept")
    code.load(_IPV6_PAYLOAD, 1)  # a fragment's own next header
    for number in _EXTENSIONS:
        code.refuse_if(number)
    code.place("accept")
    code.accept()
    code.place("icmpv6")
    code.load(_IPV6_PAYLOAD, 1)
    for number in _ROUTER_MESSAGES:
        code.refuse_if(number)
    code.branch(_SOLICITATION, "option")
    code.unless(_ADVERTISEMENT, "fine")
    _own_ipv6(code, addresses, _TARGET, "option")
    code.place("option")
    code.load(_IPV6_LENGTH, 2)
    code.branch(_WITHOUT_OPTION, "fine")
    code.otherwise_refuse(_WITH_OPTION)
    code.load(_OPTION + 1, 1)
    code.otherwise_refuse(1)  # eight bytes, a type and a hardware address among them
    _own_mac(code, mac, _OPTION + 2)
    code.place("fine")
    code.accept()


def _own_mac(code: _Program, mac: str, offset: int) -> None:
    high, low = struct.unpack("!HI", mac_bytes(mac))
    code.load(offset, 2)
    code.otherwise_refuse(high)
    code.load(offset + 2)
    code.otherwise_refuse(low)


def _own_ipv4(code: _Program, addresses: list[IPv4Address], offset: int) -> None:
    """Ends the program."""
    code.load(offset)
    for address in addresses:
        code.unless(int(address), f"not {address} at {offset}")
        code.accept()
        code.place(f"not {address} at {offset}")
    code.refuse()


def _own_ipv6(code: _Program, addresses: list[IPv6Address], offset: int, found: str) -> None:
    """Goes on at ``found``, or refuses."""
    for address in addresses:
        other = f"not {address} at {offset}"
        for position, word in enumerate(struct.unpack("!4I", address.packed)):
            code.load(offset + 4 * position)
            code.unless(word, other)
        code.go(found)
        code.place(other)
    code.refuse()


@dataclass
class _Program:
    """Instructions, with labels to jump to, all of them forward."""

    code: list[tuple[int, str, str, int]] = field(default_factory=list[tuple[int, str, str, int]])
    labels: dict[str, int] = field(default_factory=dict[str, int])

    def load(self, offset: int, size: int = 4) -> None:
        kind = {4: _LOAD, 2: _LOAD_HALF, 1: _LOAD_BYTE}[size]
        self.code.append((kind, "", "", offset))

    def branch(self, value: int, label: str) -> None:
        """Goes on at ``label`` if what was loaded is ``value``."""
        self.code.append((_EQUAL, label, "", value))

    def unless(self, value: int, label: str) -> None:
        """Goes on at ``label`` if what was loaded is not ``value``."""
        self.code.append((_EQUAL, "", label, value))

    def go(self, label: str) -> None:
        self.code.append((_JUMP, label, "", 0))

    def otherwise_refuse(self, value: int) -> None:
        label = f"as wanted {len(self.code)}"
        self.branch(value, label)
        self.refuse()
        self.place(label)

    def refuse_if(self, value: int) -> None:
        label = f"not refused {len(self.code)}"
        self.unless(value, label)
        self.refuse()
        self.place(label)

    def accept(self) -> None:
        self.code.append((_RETURN, "", "", ACCEPT))

    def refuse(self) -> None:
        self.code.append((_RETURN, "", "", 0))

    def place(self, label: str) -> None:
        self.labels[label] = len(self.code)

    def assemble(self) -> bytes:
        done: list[bytes] = []
        for at, (kind, true, false, value) in enumerate(self.code):
            skip = [self.labels[label] - at - 1 if label else 0 for label in (true, false)]
            if kind == _JUMP:  # its way is the operand
                value, skip = skip[0], [0, 0]
            done.append(_INSTRUCTION.pack(kind, *skip, value))
        return b"".join(done)
