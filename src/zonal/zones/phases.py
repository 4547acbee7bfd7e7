"""Where a zone's time goes: named stretches of the monotonic clock, counted from the arrival of the request."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager

from zonal.zones.spec import Phase


class PhaseClock:
    """Collects phases; ``arrived_ns`` is their zero, of ``time.monotonic_ns()``."""

    def __init__(self, arrived_ns: int) -> None:
        self._arrived_ns = arrived_ns
        self._phases: list[Phase] = []

    def now(self) -> int:
        """Nanoseconds since the arrival."""
        return time.monotonic_ns() - self._arrived_ns

    def add(self, name: str, begin_ns: int, end_ns: int) -> None:
        """Notes a phase whose times are known."""
        self._phases.append(Phase(name, begin_ns, max(begin_ns, end_ns)))

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        """Notes the block as a phase, also when it fails."""
        begin = self.now()
        try:
            yield
        finally:
            self.add(name, begin, self.now())

    def all(self) -> tuple[Phase, ...]:
        """What was noted, in order of begin."""
        return tuple(sorted(self._phases, key=lambda phase: (phase.begin_ns, phase.end_ns)))
