"""From what a client asks of a zone's network to a checked ``NetworkSpec``."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from zonal.api import control_pb2 as pb
from zonal.errors import InvalidInputError, WrongStateError
from zonal.network.networks import DEFAULT, NONE, NetworkStore
from zonal.network.ports import Port, check_ports
from zonal.xen.devices.vif import random_mac
from zonal.zones.network_spec import GATEWAY, NetworkSpec

MAX_SERVERS = 3
"""resolv.conf(5): MAXNS"""
MAX_SEARCH = 6
MAX_OPTIONS = 32
MAX_HOSTS = 256
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_HOST_NAME = re.compile(r"[a-zA-Z0-9_]([a-zA-Z0-9_.-]{0,251}[a-zA-Z0-9])?", re.ASCII)
_OPTION = re.compile(r"[a-z0-9-]+(:[0-9]+)?", re.ASCII)


def resolve_network(request: pb.NetworkOptions, networks: NetworkStore) -> NetworkSpec:
    """Checks what is asked for, and fills in the default network and a hardware address.

    Raises ``InvalidInputError``, and ``NotFoundError`` for an unknown network.
    """
    name = request.network or DEFAULT
    ports = tuple(Port(each.zone_port, each.host_port, each.host_ip, each.protocol or "tcp") for each in request.ports)
    check_ports(ports)
    hosts = tuple((entry.name, _host_address(entry)) for entry in request.hosts)
    if len(hosts) > MAX_HOSTS:
        raise InvalidInputError(f"{len(hosts)} further hosts are too many", hint=f"at most {MAX_HOSTS}")
    spec = NetworkSpec(
        network=name,
        mac=_mac(request.mac) if request.mac else random_mac(),
        ports=ports,
        dns=_servers(request.dns),
        dns_search=_domains(request.dns_search),
        dns_options=_options(request.dns_options),
        hosts=hosts,
    )
    if name == "host":
        raise InvalidInputError(
            "a zone cannot have the host's network: it has a kernel of its own",
            hint="publish ports with -p, or reach the host as host-gateway (--add-host NAME:host-gateway)",
        )
    if name != NONE:
        networks.find(name)
        return spec
    if ports or request.mac:
        raise WrongStateError("a zone without a network publishes no ports, and has no interface", hint="leave out -p")
    if any(address == GATEWAY for _, address in hosts):
        raise WrongStateError("a zone without a network has no way to the host", hint="leave out host-gateway")
    return spec


def _mac(text: str) -> str:
    mac = text.lower().replace("-", ":")
    if not _MAC.fullmatch(mac) or int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise InvalidInputError(
            f"{text[:40]!r} cannot be an interface's hardware address",
            hint="six pairs of hexadecimal digits, the first pair even, such as 00:16:3e:12:34:56",
        )
    return mac


def _servers(texts: Iterable[str]) -> tuple[str, ...]:
    servers = tuple(_address(text, "a name server's address") for text in texts)
    if len(servers) > MAX_SERVERS:
        raise InvalidInputError(f"{len(servers)} name servers are too many", hint=f"resolvers ask {MAX_SERVERS}")
    return servers


def _domains(texts: Iterable[str]) -> tuple[str, ...]:
    domains = tuple(texts)
    for domain in domains:
        if domain != "." and not _HOST_NAME.fullmatch(domain):
            raise InvalidInputError(f"{domain[:80]!r} is not a domain to search")
    if len(domains) > MAX_SEARCH:
        raise InvalidInputError(f"{len(domains)} domains to search are too many", hint=f"at most {MAX_SEARCH}")
    return domains


def _options(texts: Iterable[str]) -> tuple[str, ...]:
    options = tuple(texts)
    for option in options:
        if not _OPTION.fullmatch(option):
            raise InvalidInputError(f"{option[:80]!r} is not an option of resolv.conf", hint="such as ndots:2")
    if len(options) > MAX_OPTIONS:
        raise InvalidInputError(f"{len(options)} options of resolv.conf are too many", hint=f"at most {MAX_OPTIONS}")
    return options


def _host_address(entry: pb.HostEntry) -> str:
    if not _HOST_NAME.fullmatch(entry.name):
        raise InvalidInputError(f"{entry.name[:80]!r} cannot be a host's name", hint="such as --add-host db:10.0.0.7")
    return entry.address if entry.address == GATEWAY else _address(entry.address, f"the address of {entry.name}")


def _address(text: str, what: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as error:
        raise InvalidInputError(f"{text[:80]!r} cannot be {what}", hint="such as 10.0.0.7 or fd00::7") from error
