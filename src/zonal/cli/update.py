"""``zonal update``: what zones are to be is changed while they are there."""

from __future__ import annotations

from typing import Any

import click

from zonal.cli.connect import host_option, lab_option, zonald
from zonal.cli.each import each
from zonal.cli.policies import parse_restart
from zonal.cli.resources import MAX_CPUS, parse_memory, parse_resources, resource_options
from zonal.errors import InvalidInputError


@click.command("update")
@click.option("--restart", default="", metavar="POLICY", help="no, on-failure[:N], always or unless-stopped.")
@click.option("-m", "--memory", metavar="SIZE", help="That it has in any case.")
@click.option("--cpus", type=click.IntRange(1, MAX_CPUS), help="That are online.")
@resource_options
@click.argument("zones", nargs=-1, required=True, metavar="ZONE…")
@host_option
@lab_option
def update(
    restart: str,
    memory: str | None,
    cpus: int | None,
    zones: tuple[str, ...],
    host: str | None,
    lab: str | None,
    **resources: Any,
) -> None:
    """Change zones: at once if they run, and for their next start."""
    from zonal.api import control_pb2 as pb

    wanted = parse_resources(resources)
    if (size := parse_memory("--memory", memory)) is not None:
        wanted.memory_bytes = size
    if cpus is not None:
        wanted.cpus = cpus
    policy = parse_restart(restart) if restart else None
    if policy is None and wanted == pb.Resources():
        raise InvalidInputError("nothing is to be changed", hint="such as --restart always, or --memory-max 1G")
    with zonald(host, lab) as control:
        each(
            zones,
            lambda ref: control.call(
                "UpdateZone",
                pb.UpdateZoneRequest(zone=ref, restart=policy, resources=wanted),
                pb.UpdateZoneReply,
            ),
        )
