"""What answers at the control API: versions, the machine, and zonald itself."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from functools import cache
from pathlib import Path

import zonal
from zonal.api import control_pb2 as pb
from zonal.daemon.rpc import Context
from zonal.zones.spec import ZoneService


class InfoCall:
    """The info call of the control service."""

    def __init__(self, zones: ZoneService) -> None:
        self._zones = zones

    async def __call__(self, _request: pb.InfoRequest, _context: Context) -> pb.InfoReply:
        """Answers it."""
        host = await self._zones.host()
        return pb.InfoReply(
            version=zonal.__version__,
            source_digest=source_digest(),
            xen_version=host.xen_version,
            xen_capabilities=host.xen_capabilities,
            host_kernel=platform.release(),
            cpus=host.cpus,
            memory_bytes=host.memory_bytes,
            free_bytes=host.free_bytes,
            resident_bytes=resident_bytes(),
            wall_clock_ns=time.time_ns(),
        )


@cache
def source_digest(package: Path = Path(zonal.__file__).parent) -> str:
    """SHA-256 over the package's files as they were when first asked for, hexadecimal.

    Over each file but compiled ones and type stubs, in the order of the paths: ``N:PATH:M:DATA``, with the path
    relative to the package's parent, and N and M the lengths of path and data in decimal.
    """
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*")):
        if "__pycache__" in path.parts or path.suffix in (".pyc", ".pyi") or not path.is_file():
            continue
        name, data = str(path.relative_to(package.parent)), path.read_bytes()
        digest.update(f"{len(name)}:{name}:{len(data)}:".encode())
        digest.update(data)
    return digest.hexdigest()


def resident_bytes() -> int:
    """Resident memory of this process, in bytes (proc(5), ``/proc/pid/statm``)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
