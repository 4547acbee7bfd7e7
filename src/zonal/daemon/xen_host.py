"""The machine that zonald runs on, as the control API asks after it."""

from __future__ import annotations

from pathlib import Path

from zonal.daemon.checks import Finding, examine
from zonal.xen.hypercall import Hypervisor
from zonal.xen.machine import LogPart, Machine, read_log, read_machine


class XenMachine:
    """Fulfils ``zonal.daemon.services.HostService``."""

    def __init__(self, hypervisor: Hypervisor, state: Path) -> None:
        """``state``: zonald's folder, whose disk is looked at."""
        self._hypervisor = hypervisor
        self._state = state

    def machine(self) -> Machine:
        """See ``HostService``."""
        return read_machine(self._hypervisor)

    def log(self, *, index: int | None, clear: bool) -> LogPart:
        """See ``HostService``."""
        return read_log(self._hypervisor, index=index, clear=clear)

    async def examine(self) -> list[Finding]:
        """See ``HostService``."""
        return await examine(state=self._state)
