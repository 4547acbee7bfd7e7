"""Modules for the kernel of a zone that runs: handed to its agent, those that it has not got yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from zonal.zones.modules import load_order
from zonal.zones.session import Session

TIMEOUT = 60.0

ModuleSource = Callable[[str], Path | None]
"""From a kernel's release to the folder of its modules; ``None`` for a kernel that is not known to have any."""


async def supply_modules(session: Session, folder: Path | None, names: Sequence[str]) -> None:
    """Has the zone's kernel load these, with what they need, from ``folder``.

    Without one, all is built in, or else what needs them will say that they are missing. Raises ``InvalidInputError``
    when the kernel does not have them, and ``CallRefusedError``.
    """
    if folder is None or not names:
        return
    if not await session.call("missing_modules", {"names": list(names)}, TIMEOUT):
        return
    for module in await asyncio.to_thread(load_order, folder, names):
        await session.call("load_module", {"name": module.name, "data": module.data}, TIMEOUT)
