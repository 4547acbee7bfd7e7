"""What the host's netfilter does for networks of Zonal's own: one table, ``inet zonal``, that is replaced as a whole.

- Packets from one network's bridge do not go to another's.
- Packets that leave a network for elsewhere get the host's address (masquerading); an internal network's do not leave.
- Published ports of the host lead to zones. CNI's plugin portmap does so too, by some twenty runs of iptables for a
  zone, which took an emulated host more than a minute where one `nft` takes a fraction of a second.

Starting a zone that publishes nothing changes nothing here.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from zonal.errors import UnavailableError
from zonal.network.networks import BRIDGE_PREFIX, Network
from zonal.network.ports import Port

log = logging.getLogger(__name__)

TABLE = "zonal"
_TIMEOUT = 120.0
_ANY = f'"{BRIDGE_PREFIX}*"'


@dataclass(frozen=True, slots=True)
class Publication:
    """A published port, and an address of the zone that it leads to."""

    port: Port
    address: str


def ruleset(networks: Sequence[Network], publications: Sequence[Publication] = ()) -> str:
    """The table for these networks, as `nft -f` takes it: what was there before is replaced in one step."""
    bridges = ", ".join(f'"{network.bridge}" . "{network.bridge}"' for network in networks)
    internal = ", ".join(f'"{network.bridge}"' for network in networks if network.internal)
    forward = [f"iifname {_ANY} oifname {_ANY} iifname . oifname != {{ {bridges} }} drop"] if bridges else []
    if internal:
        for this, other in (("iifname", "oifname"), ("oifname", "iifname")):
            forward.append(f"{this} {{ {internal} }} {other} != {_ANY} drop")
    # The host's own connections to its loopback, and a zone's to a port of the host that leads back into its network.
    leaving = [f"ip saddr 127.0.0.0/8 oifname {_ANY} masquerade"] if publications else []
    for network in networks:
        for subnet in network.subnets:
            family = _family(subnet.partition("/")[0])
            if publications:
                leaving.append(f"{family} saddr {subnet} {family} daddr {subnet} ct status dnat masquerade")
            if not network.internal:
                leaving.append(f"{family} saddr {subnet} oifname != {_ANY} masquerade")
    arriving = [rule for each in publications if (rule := _translation(each))]
    chains = [
        # Only because the way from the host's own loopback to zones is open may a packet to it come from one.
        _chain("guard", "filter hook prerouting priority raw", [f"iifname {_ANY} ip daddr 127.0.0.0/8 drop"]),
        _chain("forward", "filter hook forward priority filter - 1", forward),
        _chain("postrouting", "nat hook postrouting priority srcnat", leaving),
        _chain("prerouting", "nat hook prerouting priority dstnat", arriving),
        _chain("output", "nat hook output priority -100", arriving),
    ]
    return f"table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n{''.join(chains)}}}\n"


async def apply(networks: Sequence[Network], publications: Sequence[Publication] = ()) -> None:
    """Puts the table for these networks in place. Raises ``UnavailableError``."""
    await _run("nft", ("-f", "-"), ruleset(networks, publications).encode())


def open_loopback(bridge: str) -> None:
    """Lets the host's connections to its own loopback be led to zones (Linux, ip-sysctl.rst: route_localnet)."""
    with suppress(FileNotFoundError):
        Path(f"/proc/sys/net/ipv4/conf/{bridge}/route_localnet").write_text("1")


def _chain(name: str, hook: str, rules: Sequence[str]) -> str:
    lines = "".join(f"    {rule}\n" for rule in rules)
    return f"  chain {name} {{\n    type {hook}; policy accept;\n{lines}  }}\n"


def _translation(publication: Publication) -> str:
    port, family = publication.port, _family(publication.address)
    if port.host_ip and _family(port.host_ip) != family:
        return ""
    where = "fib daddr type local"
    if port.host_ip and not ip_address(port.host_ip).is_unspecified:
        where = f"{family} daddr {port.host_ip}"
    address = f"[{publication.address}]" if family == "ip6" else publication.address
    version = "ipv6" if family == "ip6" else "ipv4"
    return (
        f"meta nfproto {version} {where} {port.protocol} dport {port.host_port} "
        f"dnat {family} to {address}:{port.zone_port}"
    )


def _family(address: str) -> str:
    return "ip" if ip_address(address).version == 4 else "ip6"


async def let_through(bridge: str) -> None:
    """Has a host that by default forwards nothing (as docker sets it up) forward a network's packets all the same.

    Docker's rules are iptables' and so in a chain of their own, in which only a rule beside them counts. Nothing is
    done where that chain lets packets through by default. Raises ``UnavailableError``.
    """
    for program in ("iptables", "ip6tables"):
        if shutil.which(program) is None:
            continue
        policy = await _run(program, ("-w", "-S", "FORWARD"))
        if b"-P FORWARD DROP" not in policy:
            continue
        for way in (
            ("-i", bridge),
            ("-o", bridge, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED,DNAT"),
        ):
            rule = ("FORWARD", *way, "-m", "comment", "--comment", TABLE, "-j", "ACCEPT")
            if " ".join(rule[1:3]).encode() not in policy:
                await _run(program, ("-w", "-I", *rule))


async def stop_letting_through(bridge: str) -> None:
    """Undoes ``let_through``, as far as it was done."""
    for program in ("iptables", "ip6tables"):
        if shutil.which(program) is None:
            continue
        for line in (await _run(program, ("-w", "-S", "FORWARD"))).decode().splitlines():
            words = line.split()
            if words[:2] == ["-A", "FORWARD"] and bridge in words and TABLE in words:
                await _run(program, ("-w", "-D", *words[1:]))


async def _run(program: str, arguments: Sequence[str], data: bytes = b"") -> bytes:
    if shutil.which(program) is None:
        raise UnavailableError(f"{program} is not installed, and networks need it", hint="apt-get install nftables")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(program, *arguments, stdin=pipe, stdout=pipe, stderr=pipe)
    try:
        async with asyncio.timeout(_TIMEOUT):
            printed, said = await process.communicate(data)
    except TimeoutError as error:
        raise UnavailableError(f"{program} did not end within {_TIMEOUT:g} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise UnavailableError(f"{program} failed: {said.decode(errors='replace').strip()[:1000]}")
    return printed
