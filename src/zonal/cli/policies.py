"""What becomes of a zone that ends, and how its health is asked after, as docker has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from zonal.duration import parse_duration
from zonal.errors import InvalidInputError

if TYPE_CHECKING:
    from zonal.api import control_pb2 as pb

_F = TypeVar("_F", bound=Callable[..., object])

_POLICIES = ("no", "on-failure", "always", "unless-stopped")
_HINT = "no, on-failure, on-failure:N, always or unless-stopped"
_MAX_RETRIES = (1 << 31) - 1
_NAMES = (
    "restart",
    "health_cmd",
    "health_interval",
    "health_timeout",
    "health_retries",
    "health_start_period",
    "health_start_interval",
    "no_healthcheck",
)


def policy_options(command: _F) -> _F:
    """The options of ``run``; pass their values to ``set_policies``."""
    for decorate in reversed(
        (
            click.option(
                "--restart",
                default="",
                metavar="POLICY",
                help="no (the default), on-failure[:N], always, unless-stopped.",
            ),
            click.option("--health-cmd", default="", metavar="LINE", help="For the shell; 0 says that all is well."),
            click.option("--health-interval", default="", metavar="TIME", help="Between checks, such as 10s."),
            click.option("--health-timeout", default="", metavar="TIME", help="After which a check has failed."),
            click.option(
                "--health-retries",
                type=click.IntRange(0, _MAX_RETRIES),
                help="Failures in a row until it is unhealthy.",
            ),
            click.option("--health-start-period", default="", metavar="TIME", help="In which failures do not count."),
            click.option("--health-start-interval", default="", metavar="TIME", help="Between checks in that period."),
            click.option("--no-healthcheck", is_flag=True, help="No health check, whatever the image says."),
        )
    ):
        command = decorate(command)
    return command


def take_policies(options: dict[str, Any]) -> dict[str, Any]:
    """Takes the values of ``policy_options`` out of those of a command."""
    return {name: options.pop(name) for name in _NAMES}


def set_policies(
    spec: pb.RunSpec,
    *,
    restart: str = "",
    health_cmd: str = "",
    health_interval: str = "",
    health_timeout: str = "",
    health_retries: int | None = None,
    health_start_period: str = "",
    health_start_interval: str = "",
    no_healthcheck: bool = False,
) -> None:
    """What ``policy_options`` have given, into a spec. Raises ``InvalidInputError``."""
    if restart:
        spec.restart.CopyFrom(parse_restart(restart))
        if spec.remove and spec.restart.name != "no":
            raise InvalidInputError("--restart and --rm cannot go together", hint="leave out one of them")
    times = {
        "interval_ns": health_interval,
        "timeout_ns": health_timeout,
        "start_period_ns": health_start_period,
        "start_interval_ns": health_start_interval,
    }
    if no_healthcheck:
        if health_cmd or health_retries is not None or any(times.values()):
            raise InvalidInputError("--no-healthcheck and --health-… cannot go together", hint="leave out one of them")
        spec.health.test.append("NONE")
        return
    if health_cmd:
        _check_unicode(health_cmd)
        spec.health.test.extend(("CMD-SHELL", health_cmd))
    for name, text in times.items():
        if text:
            setattr(spec.health, name, _duration(text))
    if health_retries is not None:
        spec.health.retries = health_retries


def parse_restart(text: str) -> pb.RestartPolicy:
    """``on-failure:3`` and the like. Raises ``InvalidInputError``."""
    from zonal.api import control_pb2 as pb

    name, colon, number = text.partition(":")
    if name not in _POLICIES:
        raise InvalidInputError(f"there is no restart policy {text[:64]!r}", hint=_HINT)
    if not colon:
        return pb.RestartPolicy(name=name)
    if not (number.isascii() and number.isdecimal() and len(number) <= 10 and int(number) <= _MAX_RETRIES):
        raise InvalidInputError(f"{number[:64]!r} is not a number of retries", hint=_HINT)
    if name != "on-failure":
        raise InvalidInputError(f"the restart policy {name} has no number of retries", hint=_HINT)
    return pb.RestartPolicy(name=name, maximum_retries=int(number))


def show_policy(policy: pb.RestartPolicy) -> dict[str, Any]:
    """In docker's words."""
    return {"Name": policy.name or "no", "MaximumRetryCount": policy.maximum_retries}


def show_check(check: pb.HealthCheck) -> dict[str, Any]:
    """In docker's words; what was not said is left out there as well."""
    said = {
        "Test": list(check.test),
        "Interval": check.interval_ns,
        "Timeout": check.timeout_ns,
        "StartPeriod": check.start_period_ns,
        "StartInterval": check.start_interval_ns,
        "Retries": check.retries,
    }
    return {name: value for name, value in said.items() if value}


def show_health(health: pb.Health) -> dict[str, Any]:
    """In docker's words."""
    from zonal.cli.documents import time_text

    return {
        "Status": health.status,
        "FailingStreak": health.failing_streak,
        "Log": [
            {
                "Start": time_text(each.start_ns),
                "End": time_text(each.end_ns),
                "ExitCode": each.exit_status,
                "Output": each.output,
            }
            for each in health.log
        ],
    }


def health_words(zone: pb.Zone) -> str:
    """What a list says of a zone's health, as docker has it; empty for nothing."""
    status = zone.health.status
    return "" if not status else " (health: starting)" if status == "starting" else f" ({status})"


def _duration(text: str) -> int:
    nanoseconds = parse_duration("0s" if text == "0" else text)
    if nanoseconds >= 1 << 63:
        raise InvalidInputError(f"{text[:64]!r} is too long", hint="such as 30s or 5m")
    return nanoseconds


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"{text[:80]!r} is not valid UTF-8", hint="use UTF-8") from error
