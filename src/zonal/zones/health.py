"""The health of a workload, as docker counts it: what the results of its probes make of it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from zonal.images.healthcheck import HealthCheck

DEFAULT_INTERVAL_NS = 30 * 10**9
DEFAULT_TIMEOUT_NS = 30 * 10**9
DEFAULT_START_INTERVAL_NS = 5 * 10**9
DEFAULT_RETRIES = 3
MIN_INTERVAL_NS = 100 * 10**6
"""However short an interval is asked for: each probe is work for the host as well."""
MAX_INTERVAL_NS = 365 * 24 * 3600 * 10**9
MAX_RESULTS = 5
MAX_OUTPUT = 4096
"""Bytes that are kept of a probe's output."""
FAILED = -1
"""Exit status of a probe that could not be started, or was not done in time."""


class HealthStatus(enum.StrEnum):
    """What is thought of a workload."""

    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True)
class ProbeResult:
    """One probe; times are wall clock, in ns since the epoch."""

    start_ns: int
    end_ns: int
    exit_status: int
    output: str


@dataclass(frozen=True)
class Health:
    """The state, how many probes have failed in a row, and the last results."""

    status: HealthStatus = HealthStatus.STARTING
    failing_streak: int = 0
    results: tuple[ProbeResult, ...] = ()

    def after(self, check: HealthCheck, result: ProbeResult, *, started_ns: int) -> Health:
        """With one more result, of a workload that was started at ``started_ns``."""
        results = (*self.results, result)[-MAX_RESULTS:]
        if result.exit_status == 0:
            return Health(HealthStatus.HEALTHY, 0, results)
        starting = self.status is HealthStatus.STARTING
        if starting and max(result.start_ns - started_ns, 0) < check.start_period_ns:
            return replace(self, results=results)
        streak = self.failing_streak + 1
        status = HealthStatus.UNHEALTHY if streak >= (check.retries or DEFAULT_RETRIES) else self.status
        return Health(status, streak, results)

    def next_ns(self, check: HealthCheck, now_ns: int, *, started_ns: int) -> int:
        """How long from now the next probe begins: an interval after the last one's end, or after the start."""
        interval = check.interval_ns or DEFAULT_INTERVAL_NS
        if self.status is HealthStatus.STARTING and max(now_ns - started_ns, 0) < check.start_period_ns:
            interval = check.start_interval_ns or DEFAULT_START_INTERVAL_NS
        interval = min(max(interval, MIN_INTERVAL_NS), MAX_INTERVAL_NS)
        last = self.results[-1].end_ns if self.results else started_ns
        # Clocks may have been set meanwhile.
        return min(max(last + interval - now_ns, 0), interval)


def timeout_ns(check: HealthCheck) -> int:
    """How long a probe may take."""
    return min(max(check.timeout_ns or DEFAULT_TIMEOUT_NS, MIN_INTERVAL_NS), MAX_INTERVAL_NS)


def check_from(data: Mapping[str, Any] | None) -> HealthCheck | None:
    """The health check of a record's JSON."""
    if data is None:
        return None
    said: dict[str, Any] = {**data, "test": tuple(data["test"]), "shell": tuple(data["shell"])}
    return HealthCheck(**said)


def health_from(data: Mapping[str, Any] | None) -> Health | None:
    """The health of a record's JSON."""
    if data is None:
        return None
    results = tuple(ProbeResult(**each) for each in data["results"])
    return Health(HealthStatus(data["status"]), data["failing_streak"], results)
