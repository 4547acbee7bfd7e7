"""What belongs to one zone and only one of its workloads may have: names of disks and mounts, numbers of streams."""

from __future__ import annotations

from collections.abc import Iterable


class Allotments:
    """See the module; everything has a name that is unique among all kinds, such as ``xvde`` or ``m0``."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, names: Iterable[str]) -> str | None:
        """The first of them that is free, and from now on is not; ``None`` when all are taken."""
        for name in names:
            if name not in self._taken:
                self._taken.add(name)
                return name
        return None

    def claim(self, name: str) -> None:
        """Of a workload that had it before this daemon came."""
        self._taken.add(name)

    def give_back(self, name: str) -> None:
        """It is free again; so it may have been before."""
        self._taken.discard(name)
