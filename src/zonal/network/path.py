"""The straight path between two interfaces of a namespace: what comes in at one goes out at the other.

Traffic control does that in the kernel (tc-mirred(8)), before any stack of protocols sees a frame, so whatever plugin
has made the one interface, the other one, a zone's vif, stands for it. The inner interface is where hostile frames come
in: what ``zonal.network.admission`` refuses is dropped and counted there. Numbers: linux/rtnetlink.h,
linux/pkt_sched.h, linux/pkt_cls.h, linux/tc_act/tc_mirred.h, tc_gact.h.
"""

from __future__ import annotations

import errno
import socket
import struct

from zonal.network.netlink import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    Netlink,
    NetlinkError,
    attribute,
    nested,
    parse_attributes,
    text,
)

_RTM_NEWQDISC, _RTM_DELQDISC, _RTM_NEWTFILTER, _RTM_GETTFILTER = 36, 37, 44, 46
_MESSAGE = struct.Struct("=BxxxiIII")
"""struct tcmsg: family, interface, handle, parent, info."""
_INGRESS, _INGRESS_HANDLE = 0xFFFFFFF1, 0xFFFF0000
_KIND, _OPTIONS = 1, 2
_ACT_KIND, _ACT_OPTIONS, _ACT_STATS = 1, 2, 4
_BPF_ACT, _BPF_OPS_LEN, _BPF_OPS = 1, 4, 5
_MATCHALL_ACT = 2
_MIRRED_PARMS = _GACT_PARMS = 2
_EGRESS_REDIR = 1
_TC_ACT_SHOT, _TC_ACT_STOLEN = 2, 4
_STATS_QUEUE = 3
_ETH_P_ALL = 3
_FIRST, _LAST = 1, 2
"""Priorities: the lower is asked first."""
_SOCK_FILTER_SIZE = 8


def join(netlink: Netlink, inner: int, outer: int, admitted: bytes) -> None:
    """Joins two interfaces by their indexes; from ``inner`` only what the program ``admitted`` accepts.

    What there was before is replaced. Raises ``NetlinkError``.
    """
    for index in (inner, outer):
        _restart(netlink, index)
    # The one that refuses first: at no moment does anything get through that should not.
    _add(netlink, inner, _LAST, "matchall", nested(_MATCHALL_ACT, _action("gact", _GACT_PARMS, _gact())))
    program = attribute(_BPF_OPS_LEN, struct.pack("=H", len(admitted) // _SOCK_FILTER_SIZE)) + attribute(
        _BPF_OPS, admitted
    )
    _add(netlink, inner, _FIRST, "bpf", program + nested(_BPF_ACT, _redirect(outer)))
    _add(netlink, outer, _FIRST, "matchall", nested(_MATCHALL_ACT, _redirect(inner)))


def refused(netlink: Netlink, inner: int) -> int:
    """How many frames from ``inner`` were dropped, of those that ``join`` joined. Raises ``NetlinkError``."""
    answers = netlink.get(_RTM_GETTFILTER, _MESSAGE.pack(socket.AF_UNSPEC, inner, 0, _INGRESS_HANDLE, 0), NLM_F_DUMP)
    for answer in answers:
        values = parse_attributes(answer[_MESSAGE.size :])
        if values.get(_KIND) != b"matchall\0" or _OPTIONS not in values:
            continue
        actions = parse_attributes(parse_attributes(values[_OPTIONS]).get(_MATCHALL_ACT, b""))
        statistics = parse_attributes(parse_attributes(actions.get(1, b"")).get(_ACT_STATS, b""))
        if _STATS_QUEUE in statistics:
            # struct gnet_stats_queue of linux/gen_stats.h: length, backlog, drops, …
            return struct.unpack_from("=3I", statistics[_STATS_QUEUE])[2]
    return 0


def _restart(netlink: Netlink, index: int) -> None:
    message = _MESSAGE.pack(socket.AF_UNSPEC, index, _INGRESS_HANDLE, _INGRESS, 0)
    try:
        netlink.request(_RTM_DELQDISC, message + text(_KIND, "ingress"))
    except NetlinkError as error:
        if error.errno not in (errno.ENOENT, errno.EINVAL):  # there was none
            raise
    netlink.request(_RTM_NEWQDISC, message + text(_KIND, "ingress"), NLM_F_CREATE | NLM_F_EXCL)


def _add(netlink: Netlink, index: int, priority: int, kind: str, options: bytes) -> None:
    info = priority << 16 | socket.htons(_ETH_P_ALL)
    message = _MESSAGE.pack(socket.AF_UNSPEC, index, 0, _INGRESS_HANDLE, info)
    netlink.request(_RTM_NEWTFILTER, message + text(_KIND, kind) + nested(_OPTIONS, options), NLM_F_CREATE | NLM_F_EXCL)


def _redirect(index: int) -> bytes:
    return _action("mirred", _MIRRED_PARMS, _gact(_TC_ACT_STOLEN) + struct.pack("=iI", _EGRESS_REDIR, index))


def _action(kind: str, parameters: int, data: bytes) -> bytes:
    return nested(1, text(_ACT_KIND, kind), nested(_ACT_OPTIONS, attribute(parameters, data)))


def _gact(action: int = _TC_ACT_SHOT) -> bytes:
    # tc_gen of linux/pkt_cls.h: index, capabilities, action, reference counts
    return struct.pack("=IIiii", 0, 0, action, 0, 0)
