"""Network interfaces of the namespace of a ``Netlink``: looked up, brought up, moved. Numbers: linux/if_link.h."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from dataclasses import dataclass
from typing import Final

from zonal.network.netlink import Netlink, NetlinkError, attribute, nested, parse_attributes, text, u32

_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_MESSAGE = struct.Struct("=BBHiII")
"""struct ifinfomsg: family, padding, type, index, flags, mask of the flags to change."""
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_NET_NS_FD = 1, 3, 4, 28
_IFLA_AF_SPEC, _IFLA_INET6_ADDR_GEN_MODE = 26, 8
_IFLA_STATS64 = 23
_TRAFFIC = struct.Struct("=8Q")
"""The beginning of struct rtnl_link_stats64: packets, bytes, errors, drops; of each received, then sent."""
_IFF_UP = 1
_RTMGRP_LINK = 1
_NEWS = 1 << 16
"""Bytes read at once of what is told about interfaces; what it says does not matter."""


@dataclass(frozen=True, slots=True)
class Flow:
    """What went one way."""

    packets: int = 0
    bytes: int = 0
    errors: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class Traffic:
    """What an interface has carried, as it sees it."""

    received: Flow = Flow()
    sent: Flow = Flow()

    @property
    def of_peer(self) -> Traffic:
        """As whoever is at its other end sees it."""
        return Traffic(self.sent, self.received)


NO_TRAFFIC: Final = Traffic()


@dataclass(frozen=True)
class Link:
    """An interface; ``mtu`` in bytes."""

    index: int
    name: str
    mac: str
    mtu: int


def find_link(netlink: Netlink, name: str) -> Link | None:
    """The interface with this name; ``None`` when there is none."""
    try:
        (answer,) = netlink.get(_RTM_GETLINK, _message(0) + text(_IFLA_IFNAME, name))[:1]
    except NetlinkError as error:
        if error.errno == errno.ENODEV:
            return None
        raise
    _, _, _, index, _, _ = _MESSAGE.unpack_from(answer)
    values = parse_attributes(answer[_MESSAGE.size :])
    (mtu,) = struct.unpack("=I", values[_IFLA_MTU])
    return Link(index, name, values.get(_IFLA_ADDRESS, b"").hex(":"), mtu)


def read_traffic(netlink: Netlink, name: str) -> Traffic:
    """What an interface has carried; zeros when there is none. Raises ``NetlinkError``."""
    try:
        (answer,) = netlink.get(_RTM_GETLINK, _message(0) + text(_IFLA_IFNAME, name))[:1]
    except NetlinkError as error:
        if error.errno == errno.ENODEV:
            return NO_TRAFFIC
        raise
    values = _TRAFFIC.unpack_from(parse_attributes(answer[_MESSAGE.size :])[_IFLA_STATS64])
    return Traffic(*(Flow(*values[way::2]) for way in (0, 1)))


async def wait_link(name: str) -> Link:
    """The interface of this process's own namespace with this name, as soon as it is there."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as news:
        news.setblocking(False)
        news.bind((0, _RTMGRP_LINK))
        while True:
            with Netlink() as netlink:
                found = find_link(netlink, name)
            if found is not None:
                return found
            try:
                await asyncio.get_running_loop().sock_recv(news, _NEWS)
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # more was told than kept: look again
                    raise


def set_link_up(netlink: Netlink, index: int) -> None:
    """Brings it up. Raises ``NetlinkError``."""
    netlink.request(_RTM_NEWLINK, _message(index, _IFF_UP, _IFF_UP))


def set_mtu(netlink: Netlink, index: int, mtu: int) -> None:
    """Bytes. Raises ``NetlinkError``."""
    netlink.request(_RTM_NEWLINK, _message(index) + u32(_IFLA_MTU, mtu))


def silence_link(netlink: Netlink, index: int) -> None:
    """Has the kernel give it no address of its own, and so say nothing by it."""
    mode = nested(_IFLA_AF_SPEC, nested(socket.AF_INET6, attribute(_IFLA_INET6_ADDR_GEN_MODE, b"\1")))
    try:
        netlink.request(_RTM_NEWLINK, _message(index) + mode)
    except NetlinkError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP):  # a kernel without IPv6 says nothing anyway
            raise


def move_link(netlink: Netlink, index: int, namespace: int) -> None:
    """Puts it into the namespace that is open as ``namespace``. Raises ``NetlinkError``."""
    netlink.request(_RTM_NEWLINK, _message(index) + u32(_IFLA_NET_NS_FD, namespace))


def delete_link(netlink: Netlink, name: str) -> None:
    """Removes it; one that is not there is fine. Raises ``NetlinkError``."""
    try:
        netlink.request(_RTM_DELLINK, _message(0) + text(_IFLA_IFNAME, name))
    except NetlinkError as error:
        if error.errno != errno.ENODEV:
            raise


def mac_bytes(mac: str) -> bytes:
    """The six bytes of ``00:16:3e:…``."""
    return bytes.fromhex(mac.replace(":", ""))


def _message(index: int, flags: int = 0, change: int = 0) -> bytes:
    return _MESSAGE.pack(socket.AF_UNSPEC, 0, 0, index, flags, change)
