"""How plugins have set an interface up, whatever they are: what a zone's own interface must be like in its stead.

A plugin's result tells addresses, but not all that it did: some lead every way over a gateway that is on no subnet,
some write down the gateway's hardware address. So the kernel is asked. Numbers: linux/rtnetlink.h, linux/if_addr.h,
linux/neighbour.h.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from zonal.errors import ResourceExhaustedError
from zonal.network.netlink import NLM_F_DUMP, Netlink, parse_attributes

MAX_ROUTES: Final = 256
MAX_NEIGHBOURS: Final = 64
_RTM_GETADDR, _RTM_GETROUTE, _RTM_GETNEIGH = 22, 26, 30
_IFADDRMSG = struct.Struct("=BBBBI")
"""Family, length of the prefix, flags, scope, index."""
_RTMSG = struct.Struct("=BBBBBBBBI")
"""Family, lengths of destination and source, TOS, table, protocol, scope, type, flags."""
_NDMSG = struct.Struct("=BBHiHBB")
"""Family, padding, index, state, flags, type."""
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_NDA_DST, _NDA_LLADDR = 1, 2
_SCOPE_LINK = 253
_TABLE_MAIN, _UNICAST = 254, 1
_NUD_PERMANENT = 0x80
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


@dataclass(frozen=True)
class Setup:
    """Of one interface."""

    addresses: tuple[str, ...] = ()
    """In CIDR, but for those of the link alone."""
    routes: tuple[tuple[str, str], ...] = ()
    """Pairs of a destination in CIDR and a gateway, "" for none, which come first: others need them."""
    neighbours: tuple[tuple[str, str], ...] = ()
    """Pairs of an address and a hardware address, which nobody is asked for."""


def read_setup(netlink: Netlink, index: int) -> Setup:
    """Of an interface of the socket's namespace. Raises ``NetlinkError``, and ``ResourceExhaustedError``."""
    routes = _routes(netlink, index)
    if len(routes) > MAX_ROUTES:
        raise ResourceExhaustedError(f"the network has {len(routes)} routes for one zone, and more than {MAX_ROUTES}")
    return Setup(tuple(_addresses(netlink, index)), tuple(routes), tuple(_neighbours(netlink, index)[:MAX_NEIGHBOURS]))


def _addresses(netlink: Netlink, index: int) -> list[str]:
    found: list[str] = []
    for answer in netlink.get(_RTM_GETADDR, bytes(_IFADDRMSG.size), NLM_F_DUMP):
        family, bits, _, scope, of = _IFADDRMSG.unpack_from(answer)
        if of == index and family in _FAMILIES and scope != _SCOPE_LINK:
            values = parse_attributes(answer[_IFADDRMSG.size :])
            found.append(f"{ip_address(values.get(_IFA_LOCAL) or values[_IFA_ADDRESS])}/{bits}")
    return found


def _routes(netlink: Netlink, index: int) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for answer in netlink.get(_RTM_GETROUTE, bytes(_RTMSG.size), NLM_F_DUMP):
        family, bits, _, _, table, _, _, kind, _ = _RTMSG.unpack_from(answer)
        values = parse_attributes(answer[_RTMSG.size :])
        leads = int.from_bytes(values.get(_RTA_OIF, b""), "little")
        if family not in _FAMILIES or table != _TABLE_MAIN or kind != _UNICAST or leads != index:
            continue
        any_address = bytes(4 if family == socket.AF_INET else 16)
        destination = ip_address(values.get(_RTA_DST, any_address))
        if destination.is_link_local and bits == 64 and family == socket.AF_INET6:
            continue  # a zone makes its own
        gateway = values.get(_RTA_GATEWAY)
        found.append((f"{destination}/{bits}", str(ip_address(gateway)) if gateway else ""))
    return sorted(found, key=lambda route: bool(route[1]))


def _neighbours(netlink: Netlink, index: int) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for answer in netlink.get(_RTM_GETNEIGH, bytes(_NDMSG.size), NLM_F_DUMP):
        family, _, _, of, state, _, _ = _NDMSG.unpack_from(answer)
        values = parse_attributes(answer[_NDMSG.size :])
        address, hardware = values.get(_NDA_DST), values.get(_NDA_LLADDR, b"")
        if of == index and family in _FAMILIES and state & _NUD_PERMANENT and address and len(hardware) == 6:
            found.append((str(ip_address(address)), hardware.hex(":")))
    return found
