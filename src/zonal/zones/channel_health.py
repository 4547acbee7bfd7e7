"""How the channel to a zone's agent does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ChannelHealth:
    """Counts are of this session: a daemon that takes a zone over begins at zero."""

    up: bool
    """Whether the session is open and the agent has answered just now."""
    answer_ns: int
    """How long the answer took; 0 when none came."""
    pending_calls: int
    """Calls without an answer, those included that were given up on."""
    received_bytes: int
    sent_bytes: int
    held_ns: int = 0
    """For how long it was not read, since it sent more than it may."""
