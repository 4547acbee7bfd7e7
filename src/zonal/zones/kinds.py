"""Which kinds of zone a machine runs, and which one is meant where nobody says."""

from __future__ import annotations

from zonal.errors import UnavailableError
from zonal.xen.machine import Machine
from zonal.xen.virt import Virt

AUTO = "auto"


def zone_kinds(machine: Machine, preferred: str = AUTO) -> list[Virt]:
    """The kinds that it runs, the one that is meant by default first.

    By itself that is PVH where there is hardware for it: system calls and page faults stay in the zone then. Where the
    hardware is emulated, it costs more than it helps, and ``preferred`` should be PV. Raises ``UnavailableError`` for
    one that the machine does not run.
    """
    able = [kind for kind in (Virt.PVH, Virt.PV) if kind.upper() in machine.kinds]
    if preferred == AUTO:
        return able
    if preferred not in able:
        raise UnavailableError(
            f"this machine runs no {preferred} zones", hint=f"it runs {' and '.join(able) or 'none at all'}"
        )
    return sorted(able, key=lambda kind: kind != preferred)
