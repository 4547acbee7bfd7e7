"""The promise that something stays while somebody uses it."""

from __future__ import annotations

from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Lease(Generic[T]):
    """Stands in its store's set of leases until it is released. Also a context manager."""

    def __init__(self, leases: set[Lease[T]], held: T, user: str, *, read_only: bool = True) -> None:
        self.held = held
        self.user = user
        """For people: ``zone web``."""
        self.read_only = read_only
        self._leases = leases
        leases.add(self)

    def release(self) -> None:
        """Gives it free; doing so again changes nothing."""
        self._leases.discard(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
