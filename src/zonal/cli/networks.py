"""A zone's network as people write it: ``-p``, ``--network``, ``--dns`` and the like, with docker's syntax."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from zonal.errors import InvalidInputError

if TYPE_CHECKING:
    from zonal.api import control_pb2 as pb

_F = TypeVar("_F", bound=Callable[..., object])

_MAX_PORT = 65535
_PORT_HINT = "such as -p 8080:80, -p 127.0.0.1:8080:80/udp or -p 8000-8009:8000-8009"


def network_options(command: _F) -> _F:
    """The options of ``run``; pass their values to ``parse_network``."""
    for decorate in reversed(
        (
            click.option(
                *("--network", "--net"),
                envvar="ZONAL_NETWORK",
                default="",
                metavar="NAME|none",
                help="$ZONAL_NETWORK, or zonal, by default.",
            ),
            click.option(
                "-p", "--publish", multiple=True, metavar="[[IP:]HOST:]ZONE[/udp]", help="A port, or a range of ports."
            ),
            click.option("--dns", multiple=True, metavar="ADDRESS", help="Name servers instead of the network's."),
            click.option("--dns-search", multiple=True, metavar="DOMAIN", help="Domains to search names in."),
            click.option("--dns-option", multiple=True, metavar="OPTION", help="Such as ndots:2 (resolv.conf(5))."),
            click.option(
                "--add-host", "hosts", multiple=True, metavar="NAME:ADDRESS", help="For /etc/hosts; or :host-gateway."
            ),
            click.option("--mac-address", "mac", default="", metavar="MAC", help="Of the zone's interface."),
        )
    ):
        command = decorate(command)
    return command


def parse_network(
    *,
    network: str = "",
    publish: Iterable[str] = (),
    dns: Iterable[str] = (),
    dns_search: Iterable[str] = (),
    dns_option: Iterable[str] = (),
    hosts: Iterable[str] = (),
    mac: str = "",
) -> pb.NetworkOptions:
    """What ``network_options`` have given. Raises ``InvalidInputError``."""
    from zonal.api import control_pb2 as pb

    for text in (network, mac, *publish, *dns, *dns_search, *dns_option, *hosts):
        _check_unicode(text)
    wanted = pb.NetworkOptions(network=network, mac=mac, dns=dns, dns_search=dns_search, dns_options=dns_option)
    for text in publish:
        wanted.ports.extend(parse_ports(text))
    for text in hosts:
        # As docker: a colon or an equals sign, whichever comes first; an IPv6 address may have brackets.
        at = min((place for place in (text.find(":"), text.find("=")) if place >= 0), default=-1)
        if at <= 0:
            raise InvalidInputError(f"{text[:80]!r} is not a host and its address", hint="--add-host NAME:ADDRESS")
        wanted.hosts.add(name=text[:at], address=text[at + 1 :].strip("[]"))
    return wanted


def parse_ports(text: str) -> list[pb.Port]:
    """One ``-p``: a pair of ports for each of its range. Raises ``InvalidInputError``."""
    from zonal.api import control_pb2 as pb

    whole, _, protocol = text.partition("/")
    protocol = protocol.lower() or "tcp"
    if protocol not in ("tcp", "udp"):
        raise InvalidInputError(f"{text[:80]!r}: only tcp and udp ports can be published", hint=_PORT_HINT)
    rest, _, inner = whole.rpartition(":")
    if rest.startswith("["):  # an IPv6 address
        address, bracket, outer = rest[1:].partition("]")
        if not bracket or (outer and not outer.startswith(":")):
            raise _bad(text)
        outer = outer.removeprefix(":")
    else:
        address, colon, outer = rest.rpartition(":")
        if colon and ":" in address:
            raise InvalidInputError(f"{text[:80]!r}: put an IPv6 address in brackets", hint="-p [::1]:8080:80")
    zone = _range(inner, text)
    host = _range(outer, text) if outer else [0] * len(zone)
    if len(host) != len(zone):
        raise InvalidInputError(f"{text[:80]!r}: there are {len(host)} ports for {len(zone)}", hint=_PORT_HINT)
    return [
        pb.Port(host_ip=address, host_port=outside, zone_port=inside, protocol=protocol)
        for outside, inside in zip(host, zone, strict=True)
    ]


def show_port(port: pb.Port) -> str:
    """As docker shows it: ``127.0.0.1:8080->80/tcp``."""
    address = f"[{port.host_ip}]" if ":" in port.host_ip else port.host_ip
    outside = f"{address or '0.0.0.0'}:{port.host_port}->" if port.host_port else ""
    return f"{outside}{port.zone_port}/{port.protocol}"


def port_document(port: pb.Port) -> dict[str, Any]:
    """One port for programs."""
    return {
        "host_ip": port.host_ip,
        "host_port": port.host_port,
        "zone_port": port.zone_port,
        "protocol": port.protocol,
    }


def _range(text: str, whole: str) -> list[int]:
    first, dash, last = text.partition("-")
    ends = (first, last if dash else first)
    if not all(end.isascii() and end.isdecimal() and len(end) <= 5 for end in ends):
        raise _bad(whole)
    low, high = map(int, ends)
    if not 1 <= low <= high <= _MAX_PORT:
        raise InvalidInputError(f"{whole[:80]!r}: ports are 1 to {_MAX_PORT}", hint=_PORT_HINT)
    return list(range(low, high + 1))


def _bad(text: str) -> InvalidInputError:
    return InvalidInputError(f"{text[:80]!r} cannot be published", hint=_PORT_HINT)


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"{text[:80]!r} is not valid UTF-8", hint="use UTF-8") from error
