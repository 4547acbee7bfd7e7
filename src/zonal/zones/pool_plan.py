"""What a pool of booted zones is to hold, and what is told of it: plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from zonal.errors import InvalidInputError
from zonal.zones.resources import Resources

MAX_COUNT = 64
"""Machines in a pool."""


@dataclass(frozen=True)
class PoolSize:
    """So many machines of one size."""

    resources: Resources
    count: int


@dataclass(frozen=True)
class PoolPlan:
    """What a pool is to hold; ``budget``: bytes of memory that all of it may take."""

    sizes: tuple[PoolSize, ...] = ()
    budget: int = 0


def check_plan(plan: PoolPlan) -> PoolPlan:
    """The same. Raises ``InvalidInputError`` for one that cannot be."""
    if any(size.count < 1 for size in plan.sizes):
        raise InvalidInputError("a pool cannot have less than one zone of a size", hint="leave the size out")
    count = sum(size.count for size in plan.sizes)
    if count > MAX_COUNT:
        raise InvalidInputError(f"a pool cannot have {count} zones", hint=f"{MAX_COUNT} at most")
    need = sum(size.count * size.resources.memory for size in plan.sizes)
    if plan.budget and need > plan.budget:
        raise InvalidInputError(
            f"such a pool takes {need >> 20} MiB, more than its {plan.budget >> 20} MiB", hint="give it more, or fewer"
        )
    return plan


@dataclass
class PoolCounts:
    """What has happened to a pool so far."""

    taken: int = 0
    missed: int = 0
    """Runs that would have had one, had there been one."""
    lost: int = 0
    """Machines that ended by themselves."""
    ready_ns: list[int] = field(default_factory=list[int])


class PoolView(Protocol):
    """What can be seen of a pool."""

    plan: PoolPlan
    counts: PoolCounts

    @property
    def warm(self) -> Sequence[Resources]:
        """The sizes of those that are there."""
        ...
