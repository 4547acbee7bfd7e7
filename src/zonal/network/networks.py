"""The networks of this host: which there are, and how CNI's plugins make them.

A network of Zonal's own is a bridge, with addresses from the plugin host-local, and the way out through the host's
address translation (``zonal.network.firewall``). ``zonal`` is always there. Besides, a zone may use any network that
the operator has configured in /etc/cni/net.d, by the name in its file.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Final

from zonal.errors import (
    AlreadyExistsError,
    InvalidInputError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
    WrongStateError,
    ZonalError,
)
from zonal.network import cni

DEFAULT: Final = "zonal"
NONE: Final = "none"
BRIDGE_PREFIX: Final = "zn-"
CONFIGURATIONS: Final = Path("/etc/cni/net.d")
MAX_NETWORKS: Final = 256
CNI_VERSION: Final = "1.0.0"

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9]")
_RESERVED = frozenset({NONE, "host", "bridge", "default", "container"})
"""What docker's command line, or ours, means something else by."""
_POOL = ip_network("10.187.0.0/16")
"""Apart from what docker (172.17 to 172.31, 192.168) and podman (10.88, 10.89) take for themselves."""
_POOL_PREFIX = 22
"""1,021 zones a network."""
_SMALLEST = {4: 29, 6: 124}
_LARGEST = {4: 8, 6: 48}

AnyNetwork = IPv4Network | IPv6Network


@dataclass(frozen=True)
class Network:
    """A network; ``subnets`` in CIDR, at most one of each family. With ``source``, the path of an operator's file, the
    other fields but the name are empty."""

    name: str
    id: str = ""
    subnets: tuple[str, ...] = ()
    internal: bool = False
    """Whether there is no way out of it."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    created_ns: int = 0
    source: str = ""

    @property
    def bridge(self) -> str:
        """Its interface in the host; empty when the operator's plugins decide."""
        if self.source:
            return ""
        return BRIDGE_PREFIX + (DEFAULT if self.name == DEFAULT else self.id)

    @property
    def gateways(self) -> tuple[str, ...]:
        """The host's own address in each subnet: the first."""
        return tuple(str(ip_network(subnet)[1]) for subnet in self.subnets)


class NetworkStore:
    """Keeps networks as files. ``folder`` is made; ``leases``: where addresses in use are noted, gone with a boot."""

    def __init__(
        self,
        folder: Path,
        leases: Path,
        *,
        configurations: Path = CONFIGURATIONS,
        routes: Callable[[], Sequence[IPv4Network]] | None = None,
    ) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._leases = leases
        self._configurations = configurations
        self._routes = routes or host_routes

    def list(self) -> list[Network]:
        """All networks by name; of the operator's those that can be read."""
        return sorted([*self._own().values(), *self._foreign()], key=lambda network: network.name)

    def find(self, name: str) -> Network:
        """By its name. Raises ``NotFoundError``, and ``InvalidInputError`` when two have this name."""
        found = [network for network in self.list() if network.name == name]
        if name == DEFAULT and not any(not network.source for network in found):
            found.append(self._make(DEFAULT, (), internal=False, labels={}))
        if not found:
            names = ", ".join(network.name for network in self.list()) or DEFAULT
            raise NotFoundError(f"there is no network {name!r}", hint=f"there is: {names}; or zonal network create")
        if len(found) > 1:
            places = ", ".join(network.source or "Zonal's own" for network in found)
            raise InvalidInputError(f"several networks are called {name!r}: {places}", hint="rename all but one")
        return found[0]

    def first(self) -> Network:
        """Of the operator's the first by the name of its file, which is the cluster's. Raises ``UnavailableError``."""
        found = self._foreign()
        if found:
            return found[0]
        unusable = [path.name for path in _configuration_files(self._configurations)]
        there = f"none of its files can be used: {', '.join(unusable[:8])}" if unusable else "there is none"
        raise UnavailableError(
            f"no network configuration in {self._configurations}: {there}",
            hint="the cluster's network plugin writes one; `zonal k8s install` does where there is none",
        )

    def own(self) -> list[Network]:
        """Those with a bridge of ours."""
        return list(self._own().values())

    def create(
        self, name: str, *, subnets: Sequence[str] = (), internal: bool = False, labels: Mapping[str, str] | None = None
    ) -> Network:
        """Makes one. Raises ``AlreadyExistsError``, ``InvalidInputError``, ``ResourceExhaustedError``."""
        check_name(name)
        if name == DEFAULT or any(network.name == name for network in self.list()):
            raise AlreadyExistsError(f"there is a network {name!r} already", hint="choose another name")
        return self._make(name, subnets, internal=internal, labels=labels or {})

    def find_removable(self, name: str) -> Network:
        """By its name. Raises ``NotFoundError``, and ``WrongStateError`` for one that is not to be removed."""
        network = self.find(name)
        if network.source:
            raise WrongStateError(f"the network {name} is the operator's", hint=f"remove {network.source}")
        if name == DEFAULT:
            raise WrongStateError(f"the network {DEFAULT} is always there, and cannot be removed")
        return network

    def remove(self, name: str) -> Network:
        """Forgets one that nobody uses. Raises as ``find_removable``."""
        network = self.find_removable(name)
        self._path(name).unlink()
        shutil.rmtree(self._leases / name, ignore_errors=True)
        return network

    def configuration(self, network: Network) -> cni.Configuration:
        """What plugins make it. Raises ``InvalidInputError`` for an operator's file that cannot be used."""
        if network.source:
            return cni.parse_configuration(_read_json(Path(network.source)), network.source)
        bridge: dict[str, Any] = {
            "type": "bridge",
            "bridge": network.bridge,
            "isGateway": True,
            "isDefaultGateway": not network.internal,
            "capabilities": {"mac": True},
            "ipam": {
                "type": "host-local",
                "dataDir": str(self._leases),
                "ranges": [[{"subnet": subnet}] for subnet in network.subnets],
            },
        }
        return cni.Configuration(network.name, CNI_VERSION, (bridge,))

    def _make(self, name: str, subnets: Sequence[str], *, internal: bool, labels: Mapping[str, str]) -> Network:
        networks = self._own()
        if len(networks) >= MAX_NETWORKS:
            raise ResourceExhaustedError(f"there are {MAX_NETWORKS} networks, and no more can be made")
        taken = [ip_network(subnet) for network in networks.values() for subnet in network.subnets]
        chosen: list[AnyNetwork] = [parse_subnet(subnet) for subnet in subnets]
        if len({subnet.version for subnet in chosen}) < len(chosen):
            raise InvalidInputError(
                f"a network has one range of each family, and these are more: {', '.join(subnets)}",
                hint="give one of IPv4 and one of IPv6",
            )
        for subnet in chosen:
            for other in taken:
                if _overlap(subnet, other):
                    raise AlreadyExistsError(f"the range {subnet} overlaps with {other}, which another network has")
            for route in self._routes():
                if _overlap(subnet, route):
                    raise AlreadyExistsError(f"the range {subnet} overlaps with {route}, to which this host has a way")
        if not chosen:
            chosen = [self._free_range(taken)]
            if Path("/proc/net/if_inet6").exists():
                chosen.append(_local_range())
        network = Network(
            name, secrets.token_hex(4), tuple(map(str, chosen)), internal, dict(labels), created_ns=time.time_ns()
        )
        path = self._path(name)
        new = path.with_suffix(".new")
        new.write_text(json.dumps({key: value for key, value in asdict(network).items() if key != "source"}))
        new.replace(path)
        return network

    def _free_range(self, taken: Sequence[AnyNetwork]) -> IPv4Network:
        assert isinstance(_POOL, IPv4Network)
        others = [*taken, *self._routes()]
        for subnet in _POOL.subnets(new_prefix=_POOL_PREFIX):
            if not any(_overlap(subnet, other) for other in others):
                return subnet
        raise ResourceExhaustedError(f"all ranges in {_POOL} are taken", hint="give one with --subnet")

    def _own(self) -> dict[str, Network]:
        found: dict[str, Network] = {}
        for path in sorted(self._folder.glob("*.json")):
            values = _read_json(path)
            values["subnets"] = tuple(values["subnets"])
            network = Network(**values)
            found[network.name] = network
        return found

    def _foreign(self) -> list[Network]:
        found: list[Network] = []
        for path in _configuration_files(self._configurations):
            try:
                name = cni.parse_configuration(_read_json(path), str(path)).name
            except ZonalError:
                continue
            found.append(Network(name, source=str(path)))
        return found

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"


def _configuration_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix in (".conf", ".conflist", ".json"))


def check_name(name: str) -> None:
    """Raises ``InvalidInputError`` for what cannot be a network's name."""
    if not _NAME.fullmatch(name):
        raise InvalidInputError(
            f"{name[:80]!r} cannot be a network's name",
            hint="2 to 63 letters, digits, '_', '.' and '-', the first and last a letter or digit",
        )
    if name in _RESERVED:
        raise InvalidInputError(f"{name!r} means something else than a network of that name", hint="choose another")


def parse_subnet(text: str) -> AnyNetwork:
    """A range that can be a network's. Raises ``InvalidInputError``."""
    try:
        subnet = ip_network(text)
    except ValueError as error:
        raise InvalidInputError(
            f"{text[:80]!r} is not a range of addresses: {error}", hint="such as 10.50.0.0/24 or fd12:3456::/64"
        ) from error
    smallest, largest = _SMALLEST[subnet.version], _LARGEST[subnet.version]
    if not largest <= subnet.prefixlen <= smallest:
        raise InvalidInputError(f"the range {subnet} cannot be a network's: give /{largest} to /{smallest}")
    if subnet.is_loopback or subnet.is_multicast or subnet.is_link_local or subnet.is_unspecified or subnet.is_reserved:
        raise InvalidInputError(f"the range {subnet} has another use, and cannot be a network's")
    return subnet


def host_routes() -> list[IPv4Network]:
    """Where this host has a way to of its own, but for the default route (proc(5): /proc/net/route)."""
    found: list[IPv4Network] = []
    try:
        lines = Path("/proc/net/route").read_text().splitlines()[1:]
    except OSError:
        return found
    for line in lines:
        words = line.split()
        destination, mask = (int.from_bytes(bytes.fromhex(words[place]), "little") for place in (1, 7))
        if mask and not words[0].startswith(BRIDGE_PREFIX):
            found.append(IPv4Network((destination, mask.bit_count())))
    return found


def _local_range() -> IPv6Network:
    """A range of unique local addresses (RFC 4193), at random as it asks for."""
    return IPv6Network((b"\xfd" + secrets.token_bytes(5) + bytes(10), 64))


def _overlap(one: AnyNetwork, other: AnyNetwork) -> bool:
    return one.version == other.version and one.overlaps(other)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"the network configuration {path} cannot be read: {error}") from error
