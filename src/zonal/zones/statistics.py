"""What a zone uses now: CPU by the hypervisor's word, memory by its agent's, disks and network by the host's kernel."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from string import ascii_lowercase
from typing import TYPE_CHECKING

from zonal.errors import WrongStateError, ZonalError
from zonal.network.links import Traffic
from zonal.xen import domctl
from zonal.xen.abi.privcmd import PAGE_SIZE
from zonal.xen.devices.vbd import disk_number
from zonal.zones.channel_health import ChannelHealth
from zonal.zones.spec import ZoneStatistics

if TYPE_CHECKING:
    from zonal.zones.host import XenHost
    from zonal.zones.session import Session

ASK_TIMEOUT = 5.0
"""Seconds for the agent; one that does not answer leaves the hypervisor's word for its memory."""
_SECTOR = 512
"""Bytes in which the backend counts (Linux, drivers/block/xen-blkback/xenbus.c)."""
_BACKENDS = Path("/sys/bus/xen-backend/devices")
_DISK_NUMBERS = tuple(disk_number(f"xvd{letter}") for letter in ascii_lowercase)
_MAX = (1 << 63) - 1


async def read_statistics(
    host: XenHost,
    domain_id: int,
    session: Session | None,
    container: str,
    *,
    ceiling: int,
    network: Callable[[int], Traffic],
    shared_disks: Iterable[str] = (),
) -> ZoneStatistics:
    """Of a domain, which may have ``ceiling`` bytes, and the agent in it, if there is one to be asked.

    ``shared_disks`` are names of those that it has besides ``xvda`` to ``xvdz``. ``network`` gives what the domain
    has received and sent, and may block.

    Raises ``WrongStateError`` when it is gone.
    """
    info = domctl.domain_info(host.hypervisor, domain_id)
    now_ns = time.monotonic_ns()
    if info is None or info.dying:
        raise WrongStateError("its domain is gone")
    total = info.total_pages * PAGE_SIZE
    used, processes = total, 0
    channel: ChannelHealth | None = None
    if session is not None:
        answer_ns = 0
        with suppress(ZonalError):
            said = await session.call("statistics", {"container": container}, ASK_TIMEOUT)
            if isinstance(said, dict):
                # The zone's word, within what it can have.
                available = _number(said.get("memory_available"), total)
                used, processes = total - available, _number(said.get("processes"), 1 << 22)
            answer_ns = time.monotonic_ns() - now_ns
        channel = ChannelHealth(
            up=session.end_reason is None and answer_ns > 0,
            answer_ns=answer_ns,
            pending_calls=session.pending_calls,
            received_bytes=session.received_bytes,
            sent_bytes=session.sent_bytes,
            held_ns=int(session.frames_allowed.held_seconds * 1e9),
        )
    numbers = [*_DISK_NUMBERS, *map(disk_number, shared_disks)]
    read, written = await asyncio.to_thread(_block_bytes, domain_id, numbers)
    traffic = await asyncio.to_thread(network, domain_id)
    return ZoneStatistics(
        time_ns=now_ns,
        cpu_time_ns=info.cpu_time_ns,
        memory_bytes=used,
        memory_limit_bytes=max(total, ceiling),
        memory_held_bytes=total,
        cpus=info.online_vcpus,
        block_read_bytes=read,
        block_written_bytes=written,
        traffic=traffic,
        processes=processes,
        channel=channel,
    )


def _block_bytes(domain_id: int, numbers: Iterable[int]) -> tuple[int, int]:
    # By name: the folder has those of all zones, and each would go through all of it.
    places = (_BACKENDS / f"vbd-{domain_id}-{number}" / "statistics" for number in numbers)
    folders = [place for place in places if place.exists()]
    return _sum(folders, "rd_sect") * _SECTOR, _sum(folders, "wr_sect") * _SECTOR


def _sum(folders: Iterable[Path], name: str) -> int:
    total = 0
    for folder in folders:
        with suppress(OSError, ValueError):  # a device that has just gone
            total += int((folder / name).read_text())
    return total


def _number(value: object, most: int) -> int:
    return min(max(value, 0), most) if isinstance(value, int) else 0
