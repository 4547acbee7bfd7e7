"""What a zone's network is to be, as users say it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

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
    arguments: tuple[tuple[str, str], ...] = ()
    """CNI_ARGS for the network's plugins, beyond those that every zone has."""
    capabilities: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Likewise for those plugins that say that they take it (CNI's conventions, "Dynamic Plugin specific Fields")."""


NO_NETWORK: Final = NetworkSpec()
"""Of a zone without any."""
