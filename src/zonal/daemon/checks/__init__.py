"""What is wrong with this host, and what to do about it: ``examine`` looks at all that Zonal needs of it.

It runs in zonald, and without it as well, since a zonald that does not start is when it is needed most.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from zonal.daemon.checks import linux, network, xen
from zonal.daemon.checks.finding import Finding, Level, Place, guarded

__all__ = ["Finding", "Level", "Place", "examine"]


async def examine(place: Place | None = None, *, state: Path | None = None) -> list[Finding]:
    """Looks at everything, and changes nothing. Never raises: what cannot be looked at is a finding."""
    place = place or Place(state=state or Place().state)
    findings = await xen.examine(place)
    for check in (*linux.CHECKS, *network.CHECKS):
        findings += await asyncio.to_thread(guarded, check, place)
    return findings
