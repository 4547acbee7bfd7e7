"""Published ports where the zone is in a lab: they are ports of this machine, on its loopback if no address is given.

In the lab's host the same port, on all of its addresses, leads on to the zone.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from zonal.cli.connect import socket_path
from zonal.errors import ZonalError

if TYPE_CHECKING:
    from zonal.api import control_pb2 as pb
    from zonal.cli.client import Control


@contextmanager
def published(control: Control, spec: pb.RunSpec, host: str | None, lab: str | None) -> Generator[None]:
    """Within the block, and after it for as long as their zone lives, the ports of ``spec`` are this machine's.

    Raises ``AlreadyExistsError`` for a port that is taken.
    """
    if not spec.network.ports or socket_path(host, lab) is not None:
        yield
        return
    from zonal.lab import default_name, ports

    name = lab or default_name()
    forwards: list[ports.Forward] = []
    _forget_ended(control, name)
    for port in spec.network.ports:
        address = port.host_ip or ports.LOOPBACK
        port.host_port = port.host_port or ports.free_port(address, port.protocol)
        forwards.append(ports.Forward(port.protocol, address, port.host_port, port.host_port))
        port.host_ip = ""
    ports.add(name, forwards)
    try:
        yield
    finally:
        with suppress(ZonalError):
            _forget_ended(control, name)


def leave_to_start(spec: pb.RunSpec, host: str | None, lab: str | None) -> None:
    """Of a zone that is only written down: its ports are published when it is started."""
    if socket_path(host, lab) is None:
        for port in spec.network.ports:
            port.host_ip = ""  # of this machine, not of the lab's host


def publish_again(control: Control, ref: str, host: str | None, lab: str | None) -> None:
    """The ports of a zone that was started again are this machine's again, on its loopback.

    Raises ``AlreadyExistsError`` for a port that somebody has taken meanwhile: the zone runs without it.
    """
    if socket_path(host, lab) is not None:
        return
    from zonal.api import control_pb2 as pb

    zone = control.call("InspectZone", pb.ZoneRef(zone=ref), pb.Zone)
    if not zone.ports:
        return
    from zonal.lab import default_name, ports

    wanted = [ports.Forward(port.protocol, ports.LOOPBACK, port.host_port, port.host_port) for port in zone.ports]
    ports.add(lab or default_name(), wanted)


def forget_ended(control: Control, host: str | None, lab: str | None) -> None:
    """Gives up the ports of zones that have ended."""
    if socket_path(host, lab) is None:
        from zonal.lab import default_name

        with suppress(ZonalError):
            _forget_ended(control, lab or default_name())


def _forget_ended(control: Control, name: str) -> None:
    from zonal.lab import ports

    if not ports.any_forwards(name):
        return
    from zonal.api import control_pb2 as pb

    zones = control.call("ListZones", pb.ListZonesRequest(), pb.ListZonesReply).zones
    ports.keep(name, ports.living_ports(zones))
