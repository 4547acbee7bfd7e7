"""Options for memory and CPUs of zones, for ``zonal run`` and ``zonal update``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from zonal.cli.format import parse_size
from zonal.errors import InvalidInputError

if TYPE_CHECKING:
    from zonal.api import control_pb2 as pb

_Command = TypeVar("_Command", bound=Callable[..., Any])

MAX_CPUS = 64
_SHARES_PER_WEIGHT = 4
"""Docker's default of 1024 shares is credit2's of 256."""
_NAMES = ("memory_max", "cpus_max", "cpu_weight", "cpu_shares", "cpu_cap", "cpuset_cpus")


def resource_options(command: _Command) -> _Command:
    """Those that ``parse_resources`` reads."""
    options = (
        click.option("--memory-max", metavar="SIZE", help="That it may grow to; as much as --memory by default."),
        click.option("--cpus-max", type=click.IntRange(1, MAX_CPUS), help="That it may get by zonal update."),
        click.option("--cpu-weight", "--weight", type=int, help="1 to 65535, beside other zones; 256 by default."),
        click.option("-c", "--cpu-shares", type=int, help="The same in docker's measure; 1024 by default."),
        click.option("--cpu-cap", type=int, metavar="PERCENT", help="Of one CPU, that all of its CPUs may use."),
        click.option("--cpuset-cpus", metavar="LIST", help="Physical CPUs to run on, such as 0-1,3."),
    )
    for option in reversed(options):
        command = option(command)
    return command


virt_option = click.option(
    "--virt",
    type=click.Choice(["pv", "pvh"]),
    envvar="ZONAL_VIRT",
    show_envvar=True,
    help="How it is virtualised; what suits the host by default.",
)


def parse_resources(options: dict[str, Any]) -> pb.Resources:
    """Takes what the options of ``resource_options`` said out of ``options``. Raises ``InvalidInputError``."""
    from zonal.api import control_pb2 as pb

    said: dict[str, Any] = {name: options.pop(name) for name in _NAMES}
    if said["cpu_weight"] is not None and said["cpu_shares"] is not None:
        raise InvalidInputError("--cpu-weight and --cpu-shares are the same", hint="leave one of them out")
    weight = said["cpu_weight"]
    if said["cpu_shares"] is not None:
        # As docker has it, 0 is the default.
        weight = (
            min(max(1, (said["cpu_shares"] or 1024) // _SHARES_PER_WEIGHT), 65535) if said["cpu_shares"] >= 0 else -1
        )
    for name, value in (("--cpu-weight", weight), ("--cpu-cap", said["cpu_cap"])):
        if value is not None and not 0 <= value < 1 << 32:
            raise InvalidInputError(f"{name} {value} cannot be", hint="give a number that is not negative")
    return pb.Resources(
        memory_max_bytes=parse_memory("--memory-max", said["memory_max"]),
        cpus_max=said["cpus_max"],
        cpu_weight=weight,
        cpu_cap=said["cpu_cap"],
        cpuset_cpus=said["cpuset_cpus"],
    )


def parse_memory(option: str, text: str | None) -> int | None:
    """A size of memory, if it was given; there is none of 0 bytes. Raises ``InvalidInputError``."""
    if text is None:
        return None
    size = parse_size(text)
    if not 0 < size < 1 << 63:
        raise InvalidInputError(f"{option} {text}: a zone cannot have no memory", hint=f"such as {option} 256M")
    return size
