"""The ``zonald`` command: the daemon, with a kubelet's socket beside the control API's."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from zonal.daemon import main as daemon

if TYPE_CHECKING:
    from zonal.daemon.control import Services


def main() -> None:
    """See ``zonal.daemon.main.main``."""
    daemon.main(beside=_beside)


@asynccontextmanager
async def _beside(services: Services, config: daemon.Config) -> AsyncGenerator[None]:
    if config.cri is None:
        yield
        return
    from zonal.cri.routes import RoutingRule, parse_handlers
    from zonal.cri.server import serving_cri

    rule = RoutingRule(parse_handlers(config.cri_handlers))
    network = config.cri_network
    async with serving_cri(services, config.cri, config.state, config.cri_fallback, rule, network=network):
        yield


if __name__ == "__main__":
    main()
