"""A zonald without Xen: ``python -m tests.unit.daemon.local_zonald SOCKET STATE``."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.unit.daemon.local_zones import open_local_services
from zonal.daemon.main import Config, serve
from zonal.service import log_to_stderr

if __name__ == "__main__":
    log_to_stderr("info")
    local = Config(socket=Path(sys.argv[1]), state=Path(sys.argv[2]))
    asyncio.run(serve(local, lambda config: open_local_services(config.state)))
