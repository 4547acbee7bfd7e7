"""What a workload may have of the zone that it shares: docker's ``--memory`` and ``--cpus``, by its control group."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from zonal.errors import InvalidInputError
from zonal.zones.resources import MAX_CPUS, MAX_MEMORY, ResourceChange
from zonal.zones.runtime_options import Limits

MIN_MEMORY: Final = 6 << 20
"""Bytes that a workload needs to be started at all, as docker has it."""
CPU_PERIOD_US: Final = 100_000


def limits_of(change: ResourceChange, before: Limits) -> Limits:
    """The outcome, checked. Raises ``InvalidInputError`` for what belongs to the zone."""
    zones = [name for name, value in vars(change).items() if value is not None and name not in ("memory", "cpus")]
    if zones:
        raise InvalidInputError(
            f"{zones[0].replace('_', '-')} is for a zone as a whole, and this workload shares one",
            hint="zonal update ZONE, for the zone",
        )
    limits = before
    if change.memory is not None:
        if not MIN_MEMORY <= change.memory <= MAX_MEMORY:
            raise InvalidInputError(
                f"a workload cannot have {change.memory} bytes of memory", hint=f"{MIN_MEMORY >> 20}M to 1T"
            )
        reserved = min(before.memory_reservation_bytes, change.memory)
        limits = replace(limits, memory_bytes=change.memory, memory_reservation_bytes=reserved)
    if change.cpus is not None:
        if not 1 <= change.cpus <= MAX_CPUS:
            raise InvalidInputError(f"a workload cannot have {change.cpus} CPUs", hint=f"1 to {MAX_CPUS}")
        limits = replace(limits, cpu_quota_us=change.cpus * CPU_PERIOD_US, cpu_period_us=CPU_PERIOD_US)
    return limits
