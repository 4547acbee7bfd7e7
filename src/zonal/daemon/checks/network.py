"""Checks of what zones' networks need: plugins, nftables, forwarding."""

from __future__ import annotations

from collections.abc import Iterator

from zonal.daemon.checks.finding import Check, Finding, Place, error, ok, warning
from zonal.daemon.checks.linux import found_program
from zonal.network.cni import PLUGIN_FOLDERS
from zonal.network.networks import BRIDGE_PREFIX

_NEEDED = ("bridge", "host-local")
"""For networks of Zonal's own."""
_FOR_PODS = ("loopback", "portmap")


def plugins(place: Place) -> Iterator[Finding]:
    """CNI's plugins."""
    folders = [place.root / str(folder).lstrip("/") for folder in PLUGIN_FOLDERS]
    missing = {name for name in (*_NEEDED, *_FOR_PODS) if not any((folder / name).is_file() for folder in folders)}
    advice = "apt-get install containernetworking-plugins"
    if missing.intersection(_NEEDED):
        names = ", ".join(sorted(missing.intersection(_NEEDED)))
        yield error("plugins", f"zones get no network: of CNI's plugins, {names} is missing", advice)
    elif missing:
        yield warning("plugins", f"pods need more of CNI's plugins: {', '.join(sorted(missing))}", advice)
    else:
        yield ok("plugins", f"CNI's {', '.join((*_NEEDED, *_FOR_PODS))} are there")


def filters(place: Place) -> Iterator[Finding]:
    """What keeps networks apart and publishes ports."""
    if not found_program("nft"):
        yield error("filters", "nft is missing: networks cannot be kept apart", "apt-get install nftables")
    elif not found_program("iptables"):
        yield warning(
            "filters",
            "iptables is missing, which it takes where another tool's rules drop what is forwarded",
            "apt-get install iptables",
        )
    else:
        yield ok("filters", "nft and iptables are there")


def forwarding(place: Place) -> Iterator[Finding]:
    """Whether packets go from zones to elsewhere."""
    on = place.read("proc/sys/net/ipv4/ip_forward") == "1"
    bridges = [path.name for path in (place.root / "sys/class/net").glob(f"{BRIDGE_PREFIX}*")]
    if not on and bridges:
        yield error(
            "forwarding",
            "zones have networks, but the host forwards nothing: something has switched it off",
            "sysctl -w net.ipv4.ip_forward=1",
        )
    elif on:
        yield ok("forwarding", "the host forwards IPv4 packets")
    else:
        yield ok("forwarding", "off as yet: the first zone with a network switches it on")


CHECKS: tuple[Check, ...] = (plugins, filters, forwarding)
