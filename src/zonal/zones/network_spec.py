"""What a zone's network is to be, as users say it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from zonal.network.networks import NONE
from zonal.network.ports import Port

GATEWAY: Final = "host-gateway"
"""As an address for ``--add-host``: the host, as the zone reaches it."""


@dataclass(frozen=True)
class NetworkSpec:
    """What a zone's network is to be; every value is checked."""

    network: str = NONE
    mac: str = ""
    """Of the zone's interface."""
    ports: tuple[Port, ...] = ()
    dns: tuple[str, ...] = ()
    """Name servers instead of the network's."""
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    hosts: tuple[tuple[str, str], ...] = ()
    """Further lines of /etc/hosts, pairs of a name and an address or ``host-gateway``."""


NO_NETWORK: Final = NetworkSpec()
"""Of a zone without any."""
