"""The zone's network interface, set up as the host says, by rtnetlink(7) on a bare socket.

Numbers: linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h.
"""

from __future__ import annotations

import _socket
import os
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

FILES = "/run/zonal/etc"
"""Where containers' own resolv.conf, hosts and hostname are."""
NAMES = ("resolv.conf", "hosts", "hostname")

_SECONDS = 10.0
_NETLINK_ROUTE, _NETLINK_KOBJECT_UEVENT = 0, 15
_NEWLINK, _NEWADDR, _NEWROUTE, _NEWNEIGH = 16, 20, 24, 28
_REQUEST, _ACK, _CREATE, _REPLACE = 1, 4, 0x400, 0x100
_ERROR = 2
_IFLA_ADDRESS, _IFLA_MTU = 1, 4
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_FLAGS = 1, 2, 4, 8
_IFA_F_NODAD, _IFA_F_NOPREFIXROUTE = 2, 0x200
_NDA_DST, _NDA_LLADDR, _NUD_PERMANENT = 1, 2, 0x80
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_RTNH_F_ONLINK = 4
_RT_TABLE_MAIN, _RTPROT_BOOT, _RTN_UNICAST = 254, 3, 1
_SCOPE_UNIVERSE, _SCOPE_LINK = 0, 253
_INET, _INET6 = 2, 10
_UP = 1
# The host has given the addresses to nobody else, and no router has anything to say here.
_IPV6 = {"accept_dad": "0", "accept_ra": "0", "dad_transmits": "0", "router_solicitations": "0", "addr_gen_mode": "1"}


def configure(
    name: str,
    mac: str,
    mtu: int,
    addresses: Iterable[str],
    routes: Iterable[tuple[str, str]],
    neighbours: Iterable[tuple[str, str]] = (),
    *,
    exact: bool = False,
) -> None:
    """Brings the interface ``name`` up with ``addresses`` in CIDR and ``routes``, pairs of CIDR and gateway or "".

    ``neighbours``: pairs of an address and the hardware address that it has for ever. ``exact``: an address brings no
    way to its subnet with it, since all ways are among ``routes``.

    Raises ``OSError`` that names what the kernel refused, ``ValueError`` for what is no address.
    """
    index = _wait_for(name)
    has_ipv6 = os.path.isdir(f"/proc/sys/net/ipv6/conf/{name}")
    if has_ipv6:
        for setting, value in _IPV6.items():
            with open(f"/proc/sys/net/ipv6/conf/{name}/{setting}", "w") as file:
                file.write(value)
    link = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, _NETLINK_ROUTE)
    try:
        raw = bytes.fromhex(mac.replace(":", ""))
        settings = _attribute(_IFLA_ADDRESS, raw) + _attribute(_IFLA_MTU, _u32(mtu))
        _ask(link, _NEWLINK, 0, _interface(index, 0) + settings, f"{name} with {mac}, MTU {mtu}")
        _ask(link, _NEWLINK, 0, _interface(index, _UP), f"{name} up")
        near: list[tuple[bytes, int]] = []
        own = _link_local(raw)
        for text in (*addresses, own):
            family, address, bits = _parse(text)
            if family == _INET or has_ipv6:
                flags = _IFA_F_NODAD if family == _INET6 else 0
                if exact and text != own:
                    flags |= _IFA_F_NOPREFIXROUTE
                else:
                    near.append((address, bits))
                _ask(link, _NEWADDR, _CREATE | _REPLACE, _address(index, family, address, bits, flags), text)
        for destination, gateway in routes:
            family, address, bits = _parse(destination)
            if family == _INET or has_ipv6:
                route = _route(index, family, address, bits, _parse(gateway)[1] if gateway else b"", near)
                _ask(link, _NEWROUTE, _CREATE | _REPLACE, route, f"the way to {destination} by {gateway or name}")
        for text, hardware in neighbours:
            family, address, _ = _parse(text)
            if family == _INET or has_ipv6:
                message = _neighbour(index, family, address, bytes.fromhex(hardware.replace(":", "")))
                _ask(link, _NEWNEIGH, _CREATE | _REPLACE, message, f"{text} with {hardware}")
    finally:
        link.close()


def write_files(texts: dict[str, str]) -> None:
    """Those of `NAMES` that are given. Raises ``OSError``."""
    os.makedirs(FILES, exist_ok=True)
    for name in NAMES:
        if name in texts:
            with open(f"{FILES}/{name}", "w") as file:
                file.write(texts[name])


def _wait_for(name: str) -> int:
    """The interface's index, once its driver has made it."""
    uevents = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_DGRAM, _NETLINK_KOBJECT_UEVENT)
    try:
        uevents.bind((0, 1))
        poll = select.poll()
        poll.register(uevents.fileno(), select.POLLIN)
        deadline = time.monotonic() + _SECONDS
        while True:
            try:
                return _socket.if_nametoindex(name)
            except OSError:
                if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                    raise OSError(f"there is no interface {name} after {_SECONDS:.0f} s: no xen-netfront?") from None
            uevents.recv(8192)
    finally:
        uevents.close()


def _address(index: int, family: int, address: bytes, bits: int, flags: int) -> bytes:
    # struct ifaddrmsg: family, length of the prefix, flags, scope, interface
    scope = _SCOPE_LINK if address[:2] == b"\xfe\x80" else _SCOPE_UNIVERSE
    message = bytes((family, bits, 0, scope)) + _u32(index)
    message += _attribute(_IFA_LOCAL, address) + _attribute(_IFA_ADDRESS, address)
    if family == _INET and bits < 31:
        broadcast = int.from_bytes(address, "big") | (1 << (32 - bits)) - 1
        message += _attribute(_IFA_BROADCAST, broadcast.to_bytes(4, "big"))
    return message + _attribute(_IFA_FLAGS, _u32(flags))


def _neighbour(index: int, family: int, address: bytes, hardware: bytes) -> bytes:
    # struct ndmsg: family, padding, interface, state, flags, type
    head = bytes((family, 0, 0, 0)) + _u32(index) + _NUD_PERMANENT.to_bytes(2, "little") + bytes(2)
    return head + _attribute(_NDA_DST, address) + _attribute(_NDA_LLADDR, hardware)


def _route(
    index: int, family: int, address: bytes, bits: int, gateway: bytes, near: Iterable[tuple[bytes, int]]
) -> bytes:
    # struct rtmsg: family, lengths of destination and source, tos, table, protocol, scope, type, flags
    direct = not gateway or any(_covers(*each, gateway) for each in near)
    scope = _SCOPE_UNIVERSE if gateway else _SCOPE_LINK
    head = (family, bits, 0, 0, _RT_TABLE_MAIN, _RTPROT_BOOT, scope, _RTN_UNICAST)
    message = bytes(head) + _u32(0 if direct else _RTNH_F_ONLINK) + _attribute(_RTA_OIF, _u32(index))
    message += _attribute(_RTA_DST, address) if bits else b""
    return message + (_attribute(_RTA_GATEWAY, gateway) if gateway else b"")


def _covers(address: bytes, bits: int, other: bytes) -> bool:
    shift = 8 * len(address) - bits
    return (
        len(address) == len(other) and int.from_bytes(address, "big") >> shift == int.from_bytes(other, "big") >> shift
    )


def _link_local(mac: bytes) -> str:
    """RFC 4291, appendix A."""
    raw = b"\xfe\x80" + bytes(6) + bytes((mac[0] ^ 2,)) + mac[1:3] + b"\xff\xfe" + mac[3:]
    return _socket.inet_ntop(_INET6, raw) + "/64"


def _parse(text: str) -> tuple[int, bytes, int]:
    """Family, bytes and length of the prefix."""
    address, _, bits = text.partition("/")
    family = _INET6 if ":" in address else _INET
    try:
        raw = _socket.inet_pton(family, address)
    except OSError as error:
        raise ValueError(f"{text!r} is no address") from error
    return family, raw, int(bits) if bits else 8 * len(raw)


def _interface(index: int, flags: int) -> bytes:
    # struct ifinfomsg: family, padding, type, index, flags, which of them to change
    return bytes(4) + _u32(index) + _u32(flags) + _u32(flags)


def _attribute(kind: int, data: bytes) -> bytes:
    length = 4 + len(data)
    return length.to_bytes(2, "little") + kind.to_bytes(2, "little") + data + bytes(-length % 4)


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _ask(link: _socket.socket, kind: int, flags: int, payload: bytes, what: str) -> None:
    # struct nlmsghdr: length, type, flags, sequence number, port
    head = _u32(16 + len(payload)) + kind.to_bytes(2, "little") + (flags | _REQUEST | _ACK).to_bytes(2, "little")
    link.send(head + bytes(8) + payload)
    answer = link.recv(8192)
    number = -int.from_bytes(answer[16:20], "little", signed=True)
    if int.from_bytes(answer[4:6], "little") == _ERROR and number:
        raise OSError(number, f"{what}: {os.strerror(number)}")
