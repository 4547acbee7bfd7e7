"""The tokens in streaming URLs: each works once, and not for long."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from zonal.errors import ResourceExhaustedError

T = TypeVar("T")

LIFETIME = 60.0
"""Seconds, as with Kubernetes' own servers."""
MAX_OUTSTANDING = 1000


class Tokens(Generic[T]):
    """What is handed out, and what each stands for."""

    def __init__(
        self,
        *,
        lifetime: float = LIFETIME,
        limit: int = MAX_OUTSTANDING,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lifetime = lifetime
        self._limit = limit
        self._clock = clock
        self._entries: dict[str, tuple[float, T]] = {}  # in the order in which they expire

    def make(self, value: T) -> str:
        """A token for ``value``: 128 random bits. Raises ``ResourceExhaustedError``."""
        self._expire()
        if len(self._entries) >= self._limit:
            raise ResourceExhaustedError(
                f"{self._limit} streaming URLs are outstanding", hint=f"each is given up after {self._lifetime:g} s"
            )
        token = secrets.token_urlsafe(16)
        self._entries[token] = (self._clock() + self._lifetime, value)
        return token

    def take(self, token: str) -> T | None:
        """What it stands for; ``None`` if it was never made, was used, or is too old."""
        self._expire()
        entry = self._entries.pop(token, None)
        return None if entry is None else entry[1]

    def _expire(self) -> None:
        now = self._clock()
        for token, (end, _) in tuple(self._entries.items()):
            if end > now:
                break
            del self._entries[token]
