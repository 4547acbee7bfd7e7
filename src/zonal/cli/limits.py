"""``--ulimit``, ``--pids-limit``, ``--shm-size`` and the like: what a workload may use of its zone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from zonal.cli.errors import warn
from zonal.cli.format import parse_size
from zonal.errors import InvalidInputError

if TYPE_CHECKING:
    from zonal.api import control_pb2 as pb

LIMIT_OPTIONS = (
    click.option("--ulimit", "ulimits", multiple=True, metavar="NAME=SOFT[:HARD]", help="Such as nofile=1024:4096."),
    click.option("--pids-limit", type=int, default=0, metavar="N", help="Processes and threads; -1 for no bound."),
    click.option("--memory-reservation", default="", metavar="SIZE", help="What the kernel takes from it last."),
    click.option("--memory-swap", default="", metavar="SIZE", help="For docker's sake: a zone has no swap."),
    click.option("--oom-score-adj", type=click.IntRange(-1000, 1000), default=0, help="-1000 to 1000."),
    click.option("--shm-size", default="", metavar="SIZE", help="Of /dev/shm; 64M by default."),
    click.option("--sysctl", "sysctls", multiple=True, metavar="NAME=VALUE", help="A parameter of the zone's kernel."),
)
_NUMBER = re.compile(r"-1|[0-9]{1,18}", re.ASCII)


def parse_limits(values: Mapping[str, Any]) -> pb.WorkloadLimits:
    """What `LIMIT_OPTIONS` have given, but for /dev/shm and the parameters. Raises ``InvalidInputError``."""
    from zonal.api import control_pb2 as pb

    if values["pids_limit"] < -1:
        raise InvalidInputError(f"--pids-limit {values['pids_limit']}: there is no such number", hint="-1 for no bound")
    reserved = values["memory_reservation"]
    _check_swap(values["memory_swap"])
    return pb.WorkloadLimits(
        ulimits=[parse_ulimit(text) for text in values["ulimits"]],
        pids=max(0, values["pids_limit"]),
        memory_reservation_bytes=parse_size(reserved) if reserved else 0,
        oom_score_adj=values["oom_score_adj"],
    )


def parse_ulimit(text: str) -> pb.Ulimit:
    """``nofile=1024``, ``nofile=1024:4096``, ``core=-1`` or ``memlock=unlimited``. Raises ``InvalidInputError``."""
    from zonal.api import control_pb2 as pb

    name, equals, rest = text.partition("=")
    soft, colon, hard = rest.partition(":")
    numbers = [each.replace("unlimited", "-1") for each in (soft, hard if colon else soft)]
    if not equals or not all(map(_NUMBER.fullmatch, numbers)):
        raise InvalidInputError(f"--ulimit {text[:80]!r} is no limit", hint="such as nofile=1024:4096 or core=-1")
    return pb.Ulimit(name=name.lower(), soft=int(numbers[0]), hard=int(numbers[1]))


def parse_shm(text: str) -> int:
    """The size of /dev/shm in bytes, 0 for the usual. Raises ``InvalidInputError``."""
    size = parse_size(text) if text else 0
    if text and not size:
        raise InvalidInputError("/dev/shm cannot have no room", hint="such as --shm-size 256M, or --ipc none")
    return size


def _check_swap(text: str) -> None:
    if not text:
        return
    if text != "-1":
        parse_size(text)
    warn("a zone has no swap, so --memory-swap changes nothing")
