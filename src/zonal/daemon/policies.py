"""Restart policies and health checks between the control API's messages and the words of zones."""

from __future__ import annotations

from dataclasses import replace

from zonal.api import control_pb2 as pb
from zonal.errors import InvalidInputError
from zonal.images.healthcheck import COMMAND, NONE, SHELL_COMMAND, HealthCheck
from zonal.zones.health import MAX_INTERVAL_NS, Health
from zonal.zones.restart import RestartKind, RestartPolicy, check_restart

MIN_TIME_NS = 10**6
"""The shortest time that docker takes for a health check; zero is its default."""
MAX_TEST = 128 << 10
"""Bytes of a test's words, which the kernel bounds as well (MAX_ARG_STRLEN of linux/binfmts.h)."""
_TIMES = ("interval_ns", "timeout_ns", "start_period_ns", "start_interval_ns")


def resolve_restart(message: pb.RestartPolicy, *, remove: bool) -> RestartPolicy:
    """The policy, if there is one like it and it goes with ``remove``. Raises ``InvalidInputError``."""
    try:
        kind = RestartKind(message.name or RestartKind.NO)
    except ValueError:
        known = ", ".join(RestartKind)
        raise InvalidInputError(
            f"there is no restart policy {message.name[:64]!r}", hint=f"there are {known}"
        ) from None
    policy = RestartPolicy(kind, message.maximum_retries)
    check_restart(policy, remove=remove)
    return policy


def resolve_health(message: pb.HealthCheck, image: HealthCheck | None) -> HealthCheck | None:
    """What is asked for, the rest as the image has it; ``None`` for no health check.

    Raises ``InvalidInputError`` for a time or a test that cannot be, and for times without any test.
    """
    given = HealthCheck(
        test=tuple(message.test),
        interval_ns=message.interval_ns,
        timeout_ns=message.timeout_ns,
        start_period_ns=message.start_period_ns,
        start_interval_ns=message.start_interval_ns,
        retries=message.retries,
    )
    if given.test == (NONE,):
        return None
    _check(given)
    base = image or HealthCheck()
    merged = HealthCheck(
        test=given.test or base.test,
        interval_ns=given.interval_ns or base.interval_ns,
        timeout_ns=given.timeout_ns or base.timeout_ns,
        start_period_ns=given.start_period_ns or base.start_period_ns,
        start_interval_ns=given.start_interval_ns or base.start_interval_ns,
        retries=given.retries or base.retries,
        shell=base.shell,
    )
    if merged.command:
        return merged
    if replace(given, test=()) != HealthCheck():
        raise InvalidInputError(
            "there is no health check that this could be said of: the image has none", hint="give one with --health-cmd"
        )
    return None


def check_message(check: HealthCheck) -> pb.HealthCheck:
    """A health check as it was resolved."""
    return pb.HealthCheck(
        test=check.test,
        interval_ns=check.interval_ns,
        timeout_ns=check.timeout_ns,
        start_period_ns=check.start_period_ns,
        start_interval_ns=check.start_interval_ns,
        retries=min(check.retries, (1 << 32) - 1),
    )


def health_message(health: Health) -> pb.Health:
    """A state of health, without the results."""
    return pb.Health(status=health.status, failing_streak=health.failing_streak)


def probe_messages(health: Health) -> list[pb.HealthProbe]:
    """The results."""
    return [
        pb.HealthProbe(start_ns=each.start_ns, end_ns=each.end_ns, exit_status=each.exit_status, output=each.output)
        for each in health.results
    ]


def _check(check: HealthCheck) -> None:
    for name in _TIMES:
        value, said = getattr(check, name), name.removesuffix("_ns").replace("_", " ")
        if value and not MIN_TIME_NS <= value <= MAX_INTERVAL_NS:
            raise InvalidInputError(
                f"a health check's {said} of {value} ns cannot be", hint="1ms to 8760h, or 0 for the default"
            )
    if check.test and not check.command:
        raise InvalidInputError(
            f"the health check {' '.join(check.test)[:80]!r} says nothing to run",
            hint=f"{COMMAND} and a command, {SHELL_COMMAND} and a line for the shell, or {NONE}",
        )
    if any("\0" in word for word in check.test) or sum(len(word.encode()) for word in check.test) > MAX_TEST:
        raise InvalidInputError("the health check's command has a NUL in it, or is too long", hint="shorten it")
