"""What the host's netfilter does for networks of Zonal's own: one table, ``inet zonal``, that is replaced as a whole.

- Packets from one network's bridge do not go to another's.
- Packets that leave a network for elsewhere get the host's address (masquerading); an internal network's do not leave.

No rule is of a single zone, so that starting one costs no change here. `nft` reads the table; pyroute2's part for
netfilter could do little of it, and a table is better read than built of netlink messages.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Sequence
from ipaddress import ip_network

from zonal.errors import UnavailableError
from zonal.network.networks import BRIDGE_PREFIX, Network

log = logging.getLogger(__name__)

TABLE = "zonal"
_TIMEOUT = 60.0
_ANY = f'"{BRIDGE_PREFIX}*"'


def ruleset(networks: Sequence[Network]) -> str:
    """The table for these networks, as `nft -f` takes it: what was there before is replaced in one step."""
    bridges = ", ".join(f'"{network.bridge}" . "{network.bridge}"' for network in networks)
    internal = ", ".join(f'"{network.bridge}"' for network in networks if network.internal)
    forward = [f"iifname {_ANY} oifname {_ANY} iifname . oifname != {{ {bridges} }} drop"] if bridges else []
    if internal:
        forward += [
            f"iifname {{ {internal} }} oifname != {_ANY} drop",
            f"oifname {{ {internal} }} iifname != {_ANY} drop",
        ]
    leaving: list[str] = []
    for network in networks:
        for subnet in () if network.internal else network.subnets:
            family = "ip" if ip_network(subnet).version == 4 else "ip6"
            leaving.append(f"{family} saddr {subnet} oifname != {_ANY} masquerade")
    return "\n".join(
        (
            f"table inet {TABLE}",
            f"delete table inet {TABLE}",
            f"table inet {TABLE} {{",
            "  chain forward {",
            "    type filter hook forward priority filter - 1; policy accept;",
            *(f"    {rule}" for rule in forward),
            "  }",
            "  chain postrouting {",
            "    type nat hook postrouting priority srcnat; policy accept;",
            *(f"    {rule}" for rule in leaving),
            "  }",
            "}",
            "",
        )
    )


async def apply(networks: Sequence[Network]) -> None:
    """Puts the table for these networks in place. Raises ``UnavailableError``."""
    await _run("nft", ("-f", "-"), ruleset(networks).encode())


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
