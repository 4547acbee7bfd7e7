"""The network of one zone: attached while its domain is built and boots, joined to its vif, and told to its agent.

    attach (CNI) ──────────────┐
                               ├─▶ vif into the namespace, filtered and joined ─▶ agent: addresses, routes, names
    domain, vif's backend ─────┘

Whatever fails, what is under way is waited for and undone. When the workload has ended the way back begins at once,
beside the zone's own end.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from ipaddress import IPv6Address
from typing import TYPE_CHECKING

from zonal.errors import NotFoundError, UnavailableError
from zonal.network import namespaces
from zonal.network.admission import admission_program, link_local
from zonal.network.attachments import INTERFACE, Attachment, Attachments
from zonal.network.links import (
    NO_TRAFFIC,
    Link,
    Traffic,
    find_link,
    move_link,
    read_traffic,
    set_link_up,
    set_mtu,
    silence_link,
    wait_link,
)
from zonal.network.names import upstream_servers
from zonal.network.netlink import Netlink
from zonal.network.networks import BRIDGE_PREFIX, NONE
from zonal.network.path import join
from zonal.xen.devices.vif import Interface, host_interface, mark_ready, plan_vif, vif
from zonal.xen.devices.xenbus import XenbusState, read_state
from zonal.xen.domain import DevicePlan
from zonal.zones.host import XenHost
from zonal.zones.network_spec import GATEWAY, NetworkSpec
from zonal.zones.state import ZoneStore

if TYPE_CHECKING:
    from zonal.agent.protocol.cbor import Value
    from zonal.zones.session import Session
    from zonal.zones.spec import ZoneSpec

log = logging.getLogger(__name__)

TIMEOUT = 60.0
_DEFAULT_MTU = 1500
FILES_FOLDER = "/run/zonal/etc"
"""Where the agent keeps the files in the zone."""
FILES = ("resolv.conf", "hosts", "hostname")
_HOSTS = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


class ZoneNetwork:
    """See the module."""

    def __init__(self, host: XenHost, attachments: Attachments, records: ZoneStore, spec: ZoneSpec) -> None:
        self._host = host
        self._attachments = attachments
        self._records = records
        self._spec = spec
        self._wanted = spec.network
        self._attaching: asyncio.Future[Attachment] | None = None
        self._joining: asyncio.Future[Attachment] | None = None
        self._detaching: asyncio.Future[None] | None = None

    def begin(self, stack: AsyncExitStack, leaving: Callable[[], bool]) -> None:
        """Begins to attach the zone; ``stack`` undoes it, unless the daemon is ``leaving``."""
        if self._wanted.network == NONE:
            return
        spec, wanted = self._spec, self._wanted
        self._attaching = asyncio.ensure_future(
            self._attachments.attach(
                *(spec.id, spec.name, wanted.network, wanted.mac, wanted.ports),
                arguments=dict(wanted.arguments),
                capabilities=wanted.capabilities,
            )
        )
        stack.push_async_callback(self._close, leaving)

    def take_over(self, stack: AsyncExitStack, leaving: Callable[[], bool]) -> None:
        """Of a zone that runs: what there is stays, and ``stack`` undoes it."""
        if self._attachments.get(self._spec.id) is not None:
            stack.push_async_callback(self._close, leaving)

    def plans(self) -> list[DevicePlan]:
        """The vif's nodes in the store."""
        return [] if self._attaching is None else [partial(plan_vif, interface=self._interface)]

    async def domain_made(self, domain_id: int) -> None:
        """Begins to join the vif, whose backend is there now. Raises what has failed of the attaching till now."""
        if self._attaching is None:
            return
        if self._attaching.done():
            self._attaching.result()
        self._joining = asyncio.ensure_future(self._join(domain_id))

    async def configure(self, session: Session) -> None:
        """Tells the agent, when all is ready. Raises ``ZonalError``."""
        attachment = await asyncio.shield(self._joining) if self._joining is not None else None
        if attachment is not None:
            addresses = tuple(str(address) for address in attachment.addresses)
            with suppress(NotFoundError):
                self._records.update(self._spec.id, addresses=addresses, mac=attachment.mac, ports=attachment.ports)
        await session.call("network", network_parameters(self._spec, attachment, self._gateways(attachment)), TIMEOUT)

    def read_traffic(self, domain_id: int) -> Traffic:
        """What the zone has received and sent; zeros without a network. Blocks for a moment."""
        attachment = self._attachments.get(self._spec.id)
        if attachment is None:
            return NO_TRAFFIC
        with suppress(OSError), self._attachments.netlink(attachment) as netlink:  # the namespace goes at its end
            # What the host receives is what the zone has sent.
            return read_traffic(netlink, host_interface(domain_id, self._interface)).of_peer
        return NO_TRAFFIC

    def begin_end(self) -> None:
        """The workload has ended: the network goes, beside what else there is to be done."""
        if self._detaching is None and self._attachments.get(self._spec.id) is not None:
            # The namespace stays for as long as the vif may be in it: in the host's own a vif has no business.
            self._detaching = asyncio.ensure_future(self._attachments.detach(self._spec.id, keep_namespace=True))

    @staticmethod
    def oci_mounts() -> list[dict[str, object]]:
        """``mounts`` of the OCI configuration."""
        return [
            {
                "destination": f"/etc/{name}",
                "type": "bind",
                "source": f"{FILES_FOLDER}/{name}",
                "options": ["rbind", "rprivate", "rw"],
            }
            for name in FILES
        ]

    @property
    def _interface(self) -> Interface:
        return Interface(0, self._wanted.mac)

    def _gateways(self, attachment: Attachment | None) -> tuple[str, ...]:
        if attachment is None:
            return ()
        ips = (attachment.result or {}).get("ips") or ()
        return tuple(str(ip["gateway"]) for ip in ips if ip.get("gateway"))

    async def _join(self, domain_id: int) -> Attachment:
        assert self._attaching is not None
        device = vif(domain_id, self._interface)
        interface = host_interface(domain_id, self._interface)
        link = await _wait_for_interface(self._host, device.backend, interface)
        attachment = await asyncio.shield(self._attaching)
        try:
            self._connect(link, attachment)
        except OSError as error:
            raise UnavailableError(
                f"zone {self._spec.name} cannot be joined to its network: {error}",
                hint="the host's kernel needs act_mirred, cls_bpf, cls_matchall and sch_ingress",
            ) from error
        await mark_ready(self._host.store, device)
        return attachment

    def _connect(self, link: Link, attachment: Attachment) -> None:
        with Netlink() as netlink:
            descriptor = os.open(namespaces.path_of(attachment.namespace), os.O_RDONLY | os.O_CLOEXEC)
            try:
                move_link(netlink, link.index, descriptor)
            finally:
                os.close(descriptor)
        with self._attachments.netlink(attachment) as netlink:
            inner, outer = find_link(netlink, link.name), find_link(netlink, INTERFACE)
            if inner is None or outer is None:
                raise OSError("an interface has gone")
            addresses = [address.ip for address in attachment.addresses]
            # What the kernel of any zone makes for itself.
            own: IPv6Address = link_local(attachment.mac)
            join(netlink, inner.index, outer.index, admission_program(attachment.mac, [*addresses, own]))
            if attachment.mtu < _DEFAULT_MTU:
                set_mtu(netlink, inner.index, attachment.mtu)
            silence_link(netlink, inner.index)
            set_link_up(netlink, inner.index)

    async def _close(self, leaving: Callable[[], bool]) -> None:
        pending = [task for task in (self._joining, self._attaching) if task is not None and not task.done()]
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending)
        for task in (self._joining, self._attaching):
            if task is not None and not task.cancelled():
                task.exception()  # it was told to whoever waited, or there is nobody to tell
        if leaving() and not pending:
            return
        self.begin_end()
        if self._detaching is not None:
            await self._detaching
            self._attachments.remove_namespace(self._spec.id)


def network_parameters(spec: ZoneSpec, attachment: Attachment | None, gateways: tuple[str, ...]) -> dict[str, Value]:
    """Parameters of the agent's ``network``: the interface, and the files that containers see in /etc."""
    files: dict[str, Value] = {
        "resolv.conf": resolv_conf(spec.network, attachment, gateways),
        "hosts": hosts_file(spec, attachment, gateways),
        "hostname": f"{spec.hostname}\n",
    }
    if attachment is None:
        return {"files": files}
    interface: dict[str, Value] = {"interface": INTERFACE, "mac": attachment.mac, "mtu": attachment.mtu}
    if attachment.setup is not None:
        setup = attachment.setup
        return {
            "files": files,
            **interface,
            "addresses": [*setup.addresses],
            "routes": [f"{destination} {gateway}" for destination, gateway in setup.routes],
            "neighbours": [f"{address} {hardware}" for address, hardware in setup.neighbours],
            "exact": True,
        }
    return {
        "files": files,
        **interface,
        "addresses": [str(address) for address in attachment.addresses],
        "routes": [f"{destination} {gateway}" for destination, gateway in attachment.routes],
    }


def resolv_conf(wanted: NetworkSpec, attachment: Attachment | None, gateways: tuple[str, ...]) -> str:
    """What was asked for, else what the network's plugins say, else the gateway, where Zonal's own networks answer."""
    servers, search, options = list(wanted.dns), list(wanted.dns_search), list(wanted.dns_options)
    if attachment is not None:
        given = attachment.dns
        own = attachment.configuration.get("plugins", [{}])[0].get("bridge", "").startswith(BRIDGE_PREFIX)
        servers = servers or given["nameservers"] or (list(gateways) if own else upstream_servers())
        search = search or given["search"]
        options = options or given["options"]
    lines = [f"nameserver {server}" for server in servers]
    lines += [f"search {' '.join(search)}"] if search else []
    lines += [f"options {' '.join(options)}"] if options else []
    return "".join(f"{line}\n" for line in lines)


def hosts_file(spec: ZoneSpec, attachment: Attachment | None, gateways: tuple[str, ...]) -> str:
    """As docker makes it: the usual names, those that were given, and the zone's own."""
    lines = [_HOSTS]
    for name, address in spec.network.hosts:
        addresses = gateways if address == GATEWAY else (address,)
        lines += [f"{each}\t{name}\n" for each in addresses]
    names = f"{spec.hostname.partition('.')[0]}"
    names = names if names == spec.hostname else f"{spec.hostname} {names}"
    addresses = [str(each.ip) for each in attachment.addresses] if attachment is not None else ["127.0.1.1"]
    lines += [f"{address}\t{names}\n" for address in addresses]
    return "".join(lines)


async def _wait_for_interface(host: XenHost, backend: str, name: str) -> Link:
    """The interface that the kernel's backend makes, which it does before the zone's driver has done anything.

    The backend says first that it waits, and makes the interface then.
    """
    try:
        async with asyncio.timeout(TIMEOUT), host.store.watch(f"{backend}/state") as watch:
            async for _ in watch:
                state = await read_state(host.store, backend)
                if state >= XenbusState.INIT_WAIT:
                    break
            return await wait_link(name)
    except TimeoutError as error:
        raise UnavailableError(
            f"the host's kernel makes no interface for {backend} within {TIMEOUT:g} s",
            hint="is xen-netback loaded? modprobe xen-netback",
        ) from error
