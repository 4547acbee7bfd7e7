"""Restart policies, as docker has them: whether a zone that has ended is started again, and after how long."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from zonal.errors import InvalidInputError

FIRST_DELAY_MS = 100
MAX_DELAY_MS = 60_000
STEADY_NS = 10 * 10**9
"""A run of so long makes the next delay the first one again."""
MAX_RETRIES = (1 << 31) - 1
_SIGINT, _SIGQUIT, _SIGABRT, _SIGKILL, _SIGTERM = 2, 3, 6, 9, 15  # asm/signal.h
_ENDING = {_SIGINT, _SIGQUIT, _SIGABRT, _SIGKILL, _SIGTERM}


class RestartKind(enum.StrEnum):
    """When a zone is started again."""

    NO = "no"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"
    UNLESS_STOPPED = "unless-stopped"


@dataclass(frozen=True)
class RestartPolicy:
    """A kind, and for ``on-failure`` how often at most; 0 is without a bound."""

    kind: RestartKind = RestartKind.NO
    max_retries: int = 0

    def __str__(self) -> str:
        return f"{self.kind}:{self.max_retries}" if self.max_retries else str(self.kind)


NO_RESTART = RestartPolicy()


@dataclass(frozen=True)
class Restarts:
    """What is known of a zone's restarts by its policy."""

    count: int = 0
    """Since it was last started by hand."""
    delay_ms: int = 0
    """Before the last one, or the one that is due."""
    by_hand: bool = False
    """Whether somebody has stopped it since."""
    crashed: bool = False
    """How it had ended before the one that is due."""


NO_RESTARTS_YET = Restarts()


def after_end(
    policy: RestartPolicy, before: Restarts, *, status: int, ran_ns: int, crashed: bool = False
) -> Restarts | None:
    """The restart that is due after a run of ``ran_ns`` that ended with ``status``; ``None`` for none."""
    if before.by_hand:
        return None
    match policy.kind:
        case RestartKind.NO:
            return None
        case RestartKind.ON_FAILURE:
            if not status or (policy.max_retries and before.count >= policy.max_retries):
                return None
        case RestartKind.ALWAYS | RestartKind.UNLESS_STOPPED:
            pass
    delay_ms = 0 if ran_ns >= STEADY_NS else before.delay_ms
    delay_ms = min(2 * delay_ms, MAX_DELAY_MS) if delay_ms else FIRST_DELAY_MS
    return replace(before, count=before.count + 1, delay_ms=delay_ms, crashed=crashed)


def with_daemon(policy: RestartPolicy, before: Restarts) -> bool:
    """Whether a zone that has ended is started when the daemon starts; ``always`` means also one stopped by hand."""
    match policy.kind:
        case RestartKind.ALWAYS:
            return True
        case RestartKind.UNLESS_STOPPED:
            return not before.by_hand
        case _:
            return False


def stops(signal: int, stop_signal: int) -> bool:
    """Whether who sends a workload this signal wants it to end.

    Docker takes it so of every signal, if the image names no stop signal; a SIGHUP that has a server read its
    configuration again would there be the end of its policy.
    """
    return signal == stop_signal or signal in _ENDING


def check_restart(policy: RestartPolicy, *, remove: bool) -> None:
    """Raises ``InvalidInputError`` for what cannot be: numbers where they mean nothing, or a zone that is to go."""
    if policy.max_retries and policy.kind is not RestartKind.ON_FAILURE:
        raise InvalidInputError(
            f"the restart policy {policy.kind} has no number of retries", hint="only on-failure:N has one"
        )
    if not 0 <= policy.max_retries <= MAX_RETRIES:
        raise InvalidInputError(f"{policy.max_retries} retries cannot be", hint=f"0 to {MAX_RETRIES}")
    if remove and policy.kind is not RestartKind.NO:
        raise InvalidInputError(
            f"a zone that is removed at its end (--rm) cannot have the restart policy {policy}",
            hint="leave out --rm, or --restart",
        )


def policy_from(data: Mapping[str, Any]) -> RestartPolicy:
    """The policy of a record's JSON."""
    return RestartPolicy(RestartKind(data.get("kind", RestartKind.NO)), data.get("max_retries", 0))
