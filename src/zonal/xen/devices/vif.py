"""Virtual network interfaces (``vif``): one end in the zone, the other an interface ``vifN.M`` of the host.

Served by the host's kernel (xen-netback). Nodes: ``io/netif.h``.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

from zonal.errors import InvalidInputError
from zonal.xen.devices.xenbus import Device, plan_device
from zonal.xen.store import Entry, Nodes

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_XEN_OUI = (0x00, 0x16, 0x3E)  # IEEE's registry: assigned to Xen
_SCRIPT = "/bin/true"
_MTU_RANGE = range(68, 65536)


@dataclass(frozen=True, slots=True)
class Interface:
    """What a zone gets: its ``eth<handle>``.

    ``rate`` bounds what the zone may send: so many bytes in every so many microseconds.
    """

    handle: int
    mac: str
    mtu: int = 1500
    rate: tuple[int, int] | None = None


def random_mac() -> str:
    """A fresh hardware address out of Xen's range."""
    return ":".join(f"{byte:02x}" for byte in (*_XEN_OUI, secrets.randbelow(0x80), *secrets.token_bytes(2)))


def vif(domain_id: int, interface: Interface, *, backend_id: int = 0) -> Device:
    """The device that ``interface`` is to the zone."""
    return Device("vif", domain_id, interface.handle, backend_id)


def host_interface(domain_id: int, interface: Interface) -> str:
    """The name that the host's kernel gives to its end, which is there once the backend has seen its nodes."""
    return f"vif{domain_id}.{interface.handle}"


def plan_vif(domain_id: int, interface: Interface, *, backend_id: int = 0) -> list[Entry]:
    """All nodes of an interface for one zone; raises :class:`InvalidInputError` for impossible values.

    Packets flow only after :func:`mark_ready`. The number of queues is the smaller of what the zone's kernel and the
    host's module xen-netback (its parameter ``max_queues``) want; the store has no say in it.
    """
    if not _MAC.fullmatch(interface.mac) or int(interface.mac[:2], 16) & 1:
        raise InvalidInputError(
            f"{interface.mac!r} cannot be an interface's hardware address",
            hint="six pairs of lower-case hexadecimal digits, the first pair even, such as 00:16:3e:12:34:56",
        )
    if interface.mtu not in _MTU_RANGE:
        raise InvalidInputError(f"an interface cannot have an MTU of {interface.mtu} bytes; it must be 68 to 65535")
    # The backend refuses to start without a script's name, though it is udev that would run it, if a rule said so.
    backend: dict[str, str | int] = {"mac": interface.mac, "handle": interface.handle, "type": "vif", "script": _SCRIPT}
    if interface.rate is not None:
        backend["rate"] = f"{interface.rate[0]},{interface.rate[1]}"
    return plan_device(
        vif(domain_id, interface, backend_id=backend_id),
        frontend={"mac": interface.mac, "handle": interface.handle, "mtu": interface.mtu},
        backend=backend,
    )


async def mark_ready(nodes: Nodes, device: Device) -> None:
    """Tells the backend that the host's end is set up (moved, addressed, filtered): now it may connect."""
    await nodes.write(f"{device.backend}/hotplug-status", "connected")
