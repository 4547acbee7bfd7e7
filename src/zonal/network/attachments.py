"""Zones on networks: a namespace for each, what CNI's plugins have made in it, and all of it undone again.

An attachment is written down, in a file of the zone's, before anything is made, and forgotten after all is undone; so
whatever a killed daemon has left is found. The files are in a folder that is gone with the next boot, as is all that
they tell of.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from pathlib import Path
from typing import Any, Final

from zonal.errors import DeadlineError, UnavailableError, WrongStateError, ZonalError
from zonal.network import cni, firewall, namespaces
from zonal.network.links import delete_link, find_link
from zonal.network.names import Names, NetworkNames
from zonal.network.netlink import Netlink
from zonal.network.networks import Network, NetworkStore
from zonal.network.ports import HeldPorts, Port
from zonal.network.setup import Setup, read_setup

log = logging.getLogger(__name__)

INTERFACE: Final = "eth0"
"""What plugins call theirs, and the zone its own."""
_SHORT = 12


@dataclass(frozen=True)
class Attachment:
    """What is known of one zone's network. ``mac``: of the zone's interface."""

    zone: str
    """Its id."""
    name: str
    network: str
    mac: str
    ports: tuple[Port, ...] = ()
    configuration: dict[str, Any] = field(default_factory=dict[str, Any])
    """As the plugins were given it, and will be when it is undone."""
    result: cni.Result | None = None
    """What the plugins gave; ``None`` while they work."""
    mtu: int = 1500
    arguments: Mapping[str, str] = field(default_factory=dict[str, str])
    """CNI_ARGS beyond those that every zone has."""
    capabilities: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Likewise for plugins that take them."""
    setup: Setup | None = None
    """Where an operator's plugins decide: how they have left their interface."""

    @property
    def namespace(self) -> str:
        """The name of its network namespace."""
        return namespace_of(self.zone)

    @property
    def addresses(self) -> tuple[IPv4Interface | IPv6Interface, ...]:
        """The zone's addresses, with the lengths of their prefixes."""
        result = self.result or {}
        return tuple(ip_interface(str(ip["address"])) for ip in result.get("ips") or ())

    @property
    def routes(self) -> tuple[tuple[str, str], ...]:
        """Pairs of a destination, in CIDR, and the gateway that leads there; empty for none."""
        result = self.result or {}
        gateways = {
            ip_interface(str(ip["address"])).version: str(ip.get("gateway") or "") for ip in result.get("ips") or ()
        }
        found: list[tuple[str, str]] = []
        for route in result.get("routes") or ():
            destination = ip_interface(str(route["dst"])).network
            found.append((str(destination), str(route.get("gw") or gateways.get(destination.version, ""))))
        return tuple(found)

    @property
    def dns(self) -> dict[str, list[str]]:
        """What the plugins say of DNS: ``nameservers``, ``search``, ``options``."""
        given: dict[str, Any] = (self.result or {}).get("dns") or {}
        return {key: [str(each) for each in given.get(key) or ()] for key in ("nameservers", "search", "options")}


def namespace_of(zone_id: str) -> str:
    """The name of the network namespace of a zone."""
    return f"{namespaces.PREFIX}{zone_id[:_SHORT]}"


class Attachments:
    """Attaches zones and detaches them; one for a daemon."""

    def __init__(self, networks: NetworkStore, folder: Path, client: cni.Client | None = None) -> None:
        """``folder``: gone with the host's next boot; it is made."""
        self.networks = networks
        self._folder = folder / "attachments"
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._client = client or cni.Client()
        self._names = Names(folder / "names")
        self._held = HeldPorts()
        self._known: dict[str, Attachment] = {}
        self._preparing = asyncio.Lock()
        self._applying = asyncio.Lock()
        self._prepared: set[str] = set()

    def close(self) -> None:
        """Lets go, and leaves all as it is."""
        self._held.close()

    def all(self) -> list[Attachment]:
        """Every attachment, by the zones' names."""
        return sorted(self._known.values(), key=lambda attachment: attachment.name)

    def get(self, zone_id: str) -> Attachment | None:
        """A zone's; ``None`` when it has none."""
        return self._known.get(zone_id)

    async def attach(
        self,
        zone_id: str,
        name: str,
        network: str,
        mac: str,
        ports: Sequence[Port],
        *,
        arguments: Mapping[str, str] | None = None,
        capabilities: Mapping[str, Any] | None = None,
    ) -> Attachment:
        """Makes a zone's namespace and attaches it. Raises ``ZonalError``; then nothing is left of it."""
        wanted = self.networks.find(network)
        configuration = self.networks.configuration(wanted)
        if ports and wanted.source and not configuration.takes("portMappings"):
            raise WrongStateError(
                f"the network {network} cannot publish ports", hint="its configuration lacks the plugin portmap"
            )
        held = self._held.hold(f"zone {name}", ports)
        attachment = Attachment(zone_id, name, network, mac, held, asdict(configuration))
        attachment = replace(attachment, arguments=arguments or {}, capabilities=capabilities or {})
        self._write(attachment)
        try:
            return await self._make(attachment, wanted)
        except BaseException as error:
            await self._undo(attachment)
            if isinstance(error, OSError):
                raise UnavailableError(f"the network of zone {name} cannot be made: {error}") from error
            raise

    async def detach(self, zone_id: str, *, keep_namespace: bool = False) -> None:
        """Undoes it; a zone that has no network is fine. Never raises for what plugins say: that is logged.

        ``keep_namespace``: whether the caller removes that by ``remove_namespace`` later.
        """
        attachment = self._known.get(zone_id)
        if attachment is not None:
            await self._undo(attachment, keep_namespace=keep_namespace)

    @staticmethod
    def remove_namespace(zone_id: str) -> None:
        """Removes a zone's namespace; an interface in it that is not virtual goes back to the host's."""
        namespaces.delete(namespace_of(zone_id))

    async def recover(self, alive: Collection[str]) -> None:
        """After a start: takes back what belongs to the zones ``alive``, by their ids, and undoes the rest."""
        for path in sorted(self._folder.glob("*.json")):
            try:
                attachment = decode(json.loads(path.read_bytes()))
            except (ValueError, KeyError, TypeError) as error:
                log.error("the record of an attachment cannot be read, and is removed: %s: %s", path, error)
                path.unlink(missing_ok=True)
                continue
            self._known[attachment.zone] = attachment
            if attachment.zone not in alive or attachment.result is None:
                await self._undo(attachment)
                continue
            try:
                self._held.hold(f"zone {attachment.name}", attachment.ports)
            except ZonalError as error:
                log.warning("zone %s: %s", attachment.name, error)
        self._names.restart()
        kept = {attachment.namespace for attachment in self._known.values()}
        for name in namespaces.ours():
            if name not in kept:
                namespaces.delete(name)
        for path in self._folder.glob("*.new"):
            path.unlink(missing_ok=True)
        if self._known:
            await self._apply()
        self._tell_names()

    async def check(self, zone_id: str) -> None:
        """Raises ``ZonalError`` when a zone's network is not as it was left; of one that has none there is nothing."""
        attachment = self._known.get(zone_id)
        if attachment is None or attachment.result is None:
            return
        if not self.is_there(zone_id):
            raise WrongStateError(f"the network namespace {attachment.namespace} is gone")
        path = str(namespaces.path_of(attachment.namespace))
        await self._client.check(_configuration(attachment), _target(attachment, path), attachment.result)

    def is_there(self, zone_id: str) -> bool:
        """Whether a zone's namespace is there, if it should be; costs next to nothing."""
        attachment = self._known.get(zone_id)
        return attachment is None or attachment.result is None or namespaces.is_there(attachment.namespace)

    async def status(self, network: Network) -> None:
        """Raises ``ZonalError`` when the plugins of a network cannot attach anything now, or are not there."""
        configuration = self.networks.configuration(network)
        self._client.find_all(configuration)
        await self._client.status(configuration)

    async def collect(self, network: Network, others: Sequence[tuple[str, str]] = ()) -> None:
        """Has the plugins of a network give up what no zone of ours has, nor any of ``others``: container, interface.

        Raises ``ZonalError``.
        """
        valid = [(each.zone, INTERFACE) for each in self.all() if each.network == network.name]
        await self._client.collect(self.networks.configuration(network), [*valid, *others])

    def users(self, network: str) -> list[str]:
        """The names of the zones that are on a network."""
        return [attachment.name for attachment in self.all() if attachment.network == network]

    def netlink(self, attachment: Attachment) -> Netlink:
        """A socket in the zone's namespace. Raises ``OSError``."""
        return namespaces.within(namespaces.path_of(attachment.namespace), Netlink)

    async def remove_network(self, name: str) -> None:
        """Removes a network with its bridge. Raises ``NotFoundError``, and ``WrongStateError`` when it is in use."""
        network = self.networks.find_removable(name)
        if users := self.users(name):
            raise WrongStateError(
                f"the network {name} is in use by {', '.join(users[:8])}", hint="remove these zones first: zonal rm"
            )
        async with self._preparing:
            self.networks.remove(name)
            self._prepared.discard(network.bridge)
            with Netlink() as netlink:
                delete_link(netlink, network.bridge)
            with suppress(UnavailableError):
                await self._apply()
                await firewall.stop_letting_through(network.bridge)

    async def _make(self, attachment: Attachment, network: Network) -> Attachment:
        namespace = namespaces.create(attachment.namespace)
        configuration = _configuration(attachment)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._prepare(network))
                adding = group.create_task(self._client.add(configuration, _target(attachment, str(namespace))))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        attachment = replace(attachment, result=adding.result())
        if not attachment.addresses:
            raise UnavailableError(f"the network {attachment.network} gave zone {attachment.name} no address")
        with self.netlink(attachment) as netlink:
            link = find_link(netlink, INTERFACE)
            if link is None:
                raise UnavailableError(f"the network {attachment.network} made no interface {INTERFACE}")
            setup = read_setup(netlink, link.index) if network.source else None
        # The plugins' own address counts: what is beyond it may have learnt it.
        attachment = replace(attachment, mac=link.mac, mtu=link.mtu, setup=setup)
        self._write(attachment)
        self._tell_names()
        if attachment.ports and network.bridge:
            firewall.open_loopback(network.bridge)
            await self._apply()
        return attachment

    async def _apply(self) -> None:
        """The table of netfilter, for all that is known now."""
        own = {network.name for network in self.networks.own()}
        publications = [
            firewall.Publication(port, str(address.ip))
            for attachment in self.all()
            if attachment.network in own
            for port in attachment.ports
            for address in attachment.addresses
        ]
        async with self._applying:
            await firewall.apply(self.networks.own(), publications)

    async def _prepare(self, network: Network) -> None:
        """What a network needs in the host besides the plugins' doing, once in a daemon's life."""
        if not network.bridge or network.bridge in self._prepared:
            return
        async with self._preparing:
            if network.bridge not in self._prepared:
                await self._apply()
                await firewall.let_through(network.bridge)
                self._prepared.add(network.bridge)

    async def _undo(self, attachment: Attachment, *, keep_namespace: bool = False) -> None:
        self._held.release(f"zone {attachment.name}")
        undone = True  # else the record stays, and the next daemon tries again
        namespace = namespaces.path_of(attachment.namespace)
        path = str(namespace) if namespace.exists() else ""
        task = asyncio.ensure_future(
            self._client.delete(_configuration(attachment), _target(attachment, path), attachment.result)
        )
        try:
            await asyncio.shield(task)
        except ZonalError as error:
            undone = not isinstance(error, cni.PluginError | DeadlineError)
            log.warning("zone %s: not all of its network is undone: %s", attachment.name, error)
        except asyncio.CancelledError:
            # Half undone is worse than late.
            await asyncio.wait([task])
            raise
        finally:
            if not keep_namespace:
                namespaces.delete(attachment.namespace)
            self._known.pop(attachment.zone, None)
            if undone:
                (self._folder / f"{attachment.zone}.json").unlink(missing_ok=True)
            self._tell_names()
        if attachment.ports:
            try:
                await self._apply()
            except ZonalError as error:
                log.warning("zone %s: its ports are still published: %s", attachment.name, error)

    def _write(self, attachment: Attachment) -> None:
        path = self._folder / f"{attachment.zone}.json"
        new = path.with_suffix(".new")
        new.write_text(json.dumps(asdict(attachment)))
        new.replace(path)
        self._known[attachment.zone] = attachment

    def _tell_names(self) -> None:
        networks: dict[str, NetworkNames] = {}
        for network in self.networks.own():
            zones = {
                name: [str(address.ip) for address in attachment.addresses]
                for attachment in self._known.values()
                if attachment.network == network.name
                for name in (attachment.name, attachment.zone[:_SHORT])
            }
            if zones:
                networks[network.name] = NetworkNames(
                    network.gateways, network.subnets, zones, forward=not network.internal
                )
        self._names.tell(networks)


def decode(values: dict[str, Any]) -> Attachment:
    """The attachment of what was written down."""
    ports = tuple(Port(**port) for port in values.pop("ports"))
    if values.get("setup") is not None:
        setup = values["setup"]
        pairs = {name: tuple((first, second) for first, second in setup[name]) for name in ("routes", "neighbours")}
        values["setup"] = Setup(addresses=tuple(setup["addresses"]), **pairs)
    return Attachment(**values, ports=ports)


def _configuration(attachment: Attachment) -> cni.Configuration:
    values = dict(attachment.configuration)
    plugins = tuple(values.pop("plugins"))
    return cni.Configuration(**values, plugins=plugins)


def _target(attachment: Attachment, namespace: str) -> cni.Target:
    capabilities: dict[str, Any] = {"mac": attachment.mac, **attachment.capabilities}
    if attachment.ports:
        capabilities["portMappings"] = [port.mapping() for port in attachment.ports]
    # Some plugins take it by the one way, some by the other.
    arguments = {"IgnoreUnknown": "1", "MAC": attachment.mac, **attachment.arguments}
    return cni.Target(attachment.zone, namespace, INTERFACE, arguments, capabilities)
