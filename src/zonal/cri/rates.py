"""Processor time per time, from one measurement to the next."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

SHORTEST_NS: Final = 1_000_000_000
"""Between two samples that a rate is made of: two who ask at the same time are told the same."""
_SECOND: Final = 1_000_000_000


@dataclass(slots=True)
class _Sample:
    time_ns: int
    cpu_ns: int
    rate: int | None


class Rates:
    """Nanocores (ns of CPU time in a second) by what uses them."""

    def __init__(self) -> None:
        self._samples: dict[str, _Sample] = {}

    def take(self, key: str, time_ns: int, cpu_ns: int) -> int | None:
        """The rate since an earlier measurement, at least ``SHORTEST_NS`` ago; None when there was none.

        ``time_ns`` is of a monotonic clock. A count that has gone back, as after a restart, begins anew.
        """
        last = self._samples.get(key)
        if last is None or cpu_ns < last.cpu_ns or time_ns < last.time_ns:
            self._samples[key] = _Sample(time_ns, cpu_ns, None)
            return None
        passed = time_ns - last.time_ns
        if passed < SHORTEST_NS:
            return last.rate
        rate = (cpu_ns - last.cpu_ns) * _SECOND // passed
        self._samples[key] = _Sample(time_ns, cpu_ns, rate)
        return rate

    def keep_only(self, keys: AbstractSet[str]) -> None:
        """Forgets all others."""
        for key in self._samples.keys() - keys:
            del self._samples[key]

    def __len__(self) -> int:
        return len(self._samples)
