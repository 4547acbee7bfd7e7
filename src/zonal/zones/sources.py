"""Where what zones boot comes from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from zonal.zones.boot_files import BootFiles


class BootSource(Protocol):
    """Where the files come from that zones boot."""

    async def boot_files(
        self, kernel: str, drivers: Sequence[str] = (), virt: str = "", modaliases: Sequence[str] = ()
    ) -> BootFiles:
        """For a kernel by name; empty for the default, or for one with these ``drivers`` where the default lacks them.

        ``modaliases``: of devices that it should have drivers for as well, if one of the kernels has.
        ``virt``: as ``ZoneSpec`` has it. Raises ``NotFoundError``, ``InvalidInputError``, and ``UnavailableError`` for
        what this machine does not run.
        """
        ...

    def modules(self, release: str) -> Path | None:
        """The folder of a kernel's modules; ``None`` when it is not known to have any."""
        ...
