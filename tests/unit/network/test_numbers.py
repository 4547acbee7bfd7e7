"""The numbers of netlink, traffic control and filters, here and in the agent, against the headers of Linux."""

from __future__ import annotations

from typing import Any

from tests.unit.xen.c_layout import c_values
from zonal.agent import network as agent
from zonal.network import admission, links, namespaces, netlink, path, resolver

HEADERS = [
    *("sys/socket.h", "linux/netlink.h", "linux/rtnetlink.h", "linux/if_link.h", "linux/if_addr.h", "linux/if.h"),
    *("linux/pkt_sched.h", "linux/pkt_cls.h", "linux/tc_act/tc_mirred.h", "linux/tc_act/tc_gact.h", "linux/filter.h"),
    *("linux/if_ether.h", "linux/gen_stats.h", "linux/in.h", "linux/in6.h", "linux/inotify.h", "linux/capability.h"),
    *("linux/prctl.h", "linux/sched.h", "linux/mount.h"),
]
MODULES: dict[Any, dict[str, str]] = {
    netlink: {
        **{name: name for name in ("NLM_F_REQUEST", "NLM_F_ACK", "NLM_F_DUMP", "NLM_F_REPLACE", "NLM_F_EXCL")},
        "NLM_F_CREATE": "NLM_F_CREATE",
        "_NETLINK_ROUTE": "NETLINK_ROUTE",
        "_NLMSG_ERROR": "NLMSG_ERROR",
        "_NLMSG_DONE": "NLMSG_DONE",
        "_NLA_F_NESTED": "NLA_F_NESTED",
        "_NLA_TYPE_MASK": "NLA_TYPE_MASK & 0xffff",
        "_SOL_NETLINK": "SOL_NETLINK",
        "_NETLINK_CAP_ACK": "NETLINK_CAP_ACK",
        "_NETLINK_EXT_ACK": "NETLINK_EXT_ACK",
        "_NLM_F_ACK_TLVS": "NLM_F_ACK_TLVS",
        "_NLMSGERR_ATTR_MSG": "NLMSGERR_ATTR_MSG",
    },
    links: {
        "_RTM_NEWLINK": "RTM_NEWLINK",
        "_RTM_DELLINK": "RTM_DELLINK",
        "_RTM_GETLINK": "RTM_GETLINK",
        "_IFLA_ADDRESS": "IFLA_ADDRESS",
        "_IFLA_IFNAME": "IFLA_IFNAME",
        "_IFLA_MTU": "IFLA_MTU",
        "_IFLA_NET_NS_FD": "IFLA_NET_NS_FD",
        "_IFLA_AF_SPEC": "IFLA_AF_SPEC",
        "_IFLA_INET6_ADDR_GEN_MODE": "IFLA_INET6_ADDR_GEN_MODE",
        "_IFF_UP": "IFF_UP",
        "_RTMGRP_LINK": "RTMGRP_LINK",
    },
    path: {
        "_RTM_NEWQDISC": "RTM_NEWQDISC",
        "_RTM_DELQDISC": "RTM_DELQDISC",
        "_RTM_NEWTFILTER": "RTM_NEWTFILTER",
        "_RTM_GETTFILTER": "RTM_GETTFILTER",
        "_INGRESS": "TC_H_INGRESS",
        "_KIND": "TCA_KIND",
        "_OPTIONS": "TCA_OPTIONS",
        "_ACT_KIND": "TCA_ACT_KIND",
        "_ACT_OPTIONS": "TCA_ACT_OPTIONS",
        "_ACT_STATS": "TCA_ACT_STATS",
        "_BPF_ACT": "TCA_BPF_ACT",
        "_BPF_OPS_LEN": "TCA_BPF_OPS_LEN",
        "_BPF_OPS": "TCA_BPF_OPS",
        "_MATCHALL_ACT": "TCA_MATCHALL_ACT",
        "_MIRRED_PARMS": "TCA_MIRRED_PARMS",
        "_GACT_PARMS": "TCA_GACT_PARMS",
        "_EGRESS_REDIR": "TCA_EGRESS_REDIR",
        "_TC_ACT_SHOT": "TC_ACT_SHOT",
        "_TC_ACT_STOLEN": "TC_ACT_STOLEN",
        "_STATS_QUEUE": "TCA_STATS_QUEUE",
        "_ETH_P_ALL": "ETH_P_ALL",
        "_SOCK_FILTER_SIZE": "sizeof(struct sock_filter)",
    },
    admission: {
        "_LOAD": "BPF_LD | BPF_W | BPF_ABS",
        "_LOAD_HALF": "BPF_LD | BPF_H | BPF_ABS",
        "_LOAD_BYTE": "BPF_LD | BPF_B | BPF_ABS",
        "_RETURN": "BPF_RET | BPF_K",
        "_JUMP": "BPF_JMP | BPF_JA",
        "_EQUAL": "BPF_JMP | BPF_JEQ | BPF_K",
        "_VLAN_TAG_PRESENT": "(uint32_t)(SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT)",
        "_IPV4": "ETH_P_IP",
        "_ARP": "ETH_P_ARP",
        "_IPV6": "ETH_P_IPV6",
    },
    resolver: {
        "_IP_FREEBIND": "IP_FREEBIND",
        "_IPV6_FREEBIND": "IPV6_FREEBIND",
        "_CAP_NET_BIND_SERVICE": "CAP_NET_BIND_SERVICE",
        "_PR_CAPBSET_DROP": "PR_CAPBSET_DROP",
        "_PR_SET_NO_NEW_PRIVS": "PR_SET_NO_NEW_PRIVS",
        "_CAP_VERSION_3": "_LINUX_CAPABILITY_VERSION_3",
        "_IN_MOVED_TO": "IN_MOVED_TO",
        "_IN_DELETE": "IN_DELETE",
    },
    namespaces: {"_CLONE_NEWNET": "CLONE_NEWNET", "_MS_BIND": "MS_BIND"},
    agent: {
        "_NEWLINK": "RTM_NEWLINK",
        "_NEWADDR": "RTM_NEWADDR",
        "_NEWROUTE": "RTM_NEWROUTE",
        "_IFLA_ADDRESS": "IFLA_ADDRESS",
        "_IFLA_MTU": "IFLA_MTU",
        "_IFA_ADDRESS": "IFA_ADDRESS",
        "_IFA_LOCAL": "IFA_LOCAL",
        "_IFA_BROADCAST": "IFA_BROADCAST",
        "_IFA_FLAGS": "IFA_FLAGS",
        "_IFA_F_NODAD": "IFA_F_NODAD",
        "_RTA_DST": "RTA_DST",
        "_RTA_OIF": "RTA_OIF",
        "_RTA_GATEWAY": "RTA_GATEWAY",
        "_RTNH_F_ONLINK": "RTNH_F_ONLINK",
        "_RT_TABLE_MAIN": "RT_TABLE_MAIN",
        "_RTPROT_BOOT": "RTPROT_BOOT",
        "_RTN_UNICAST": "RTN_UNICAST",
        "_SCOPE_LINK": "RT_SCOPE_LINK",
        "_NETLINK_KOBJECT_UEVENT": "NETLINK_KOBJECT_UEVENT",
    },
}
SIZES = {
    "sizeof(struct nlmsghdr)": netlink._HEADER.size,  # pyright: ignore[reportPrivateUsage]
    "sizeof(struct ifinfomsg)": links._MESSAGE.size,  # pyright: ignore[reportPrivateUsage]
    "sizeof(struct tcmsg)": path._MESSAGE.size,  # pyright: ignore[reportPrivateUsage]
    "sizeof(struct ifaddrmsg)": 8,
    "sizeof(struct rtmsg)": 12,
    "offsetof(struct tc_mirred, eaction)": 20,
    "sizeof(struct tc_mirred)": 28,
    "offsetof(struct gnet_stats_queue, drops)": 8,
}


def test_numbers_and_sizes_are_those_of_the_headers() -> None:
    ours = [(getattr(module, name), there) for module, names in MODULES.items() for name, there in names.items()]
    found = c_values(HEADERS, [*dict.fromkeys(there for _, there in ours), *SIZES])
    assert {there: value for value, there in ours} == {there: found[there] for _, there in ours}
    assert all(value == found[there] for value, there in ours)
    assert {name: found[name] for name in SIZES} == SIZES
