"""``zonal start``, ``restart``, ``pause``, ``unpause`` and ``rename``: of zones that are there."""

from __future__ import annotations

import os

import click

from zonal.cli.connect import host_option, lab_option, zonald
from zonal.cli.each import each
from zonal.cli.errors import warn
from zonal.cli.published import publish_again
from zonal.cli.terminal import detach_keys_option, parse_detach_keys
from zonal.errors import InvalidInputError, WrongStateError

_zones = click.argument("zones", nargs=-1, required=True, metavar="ZONE…")


@click.command("start")
@click.option("-a", "--attach", "attached", is_flag=True, help="Take part in its workload, to its end.")
@click.option("-i", "--interactive", is_flag=True, help="And pass standard input on.")
@detach_keys_option
@_zones
@host_option
@lab_option
def start_zones(
    attached: bool, interactive: bool, detach_keys: str, zones: tuple[str, ...], host: str | None, lab: str | None
) -> int:
    """Start zones that have ended, as they were: with their names, scratch disks and mounts."""
    from zonal.api import control_pb2 as pb

    keys = parse_detach_keys(detach_keys)
    attached = attached or interactive
    if attached and len(zones) > 1:
        raise InvalidInputError("only one zone can be taken part in at once", hint="leave out -a and -i")
    with zonald(host, lab) as control:
        if not attached:

            def start(ref: str) -> None:
                control.call("StartZone", pb.ZoneRef(zone=ref), pb.StartZoneReply)
                publish_again(control, ref, host, lab)

            each(zones, start)
            return 0
        from zonal.cli.attach import Manner, attach

        ref = next(iter(zones))
        found = control.call("InspectZone", pb.ZoneRef(zone=ref), pb.Zone)
        config = found.config
        stdin = interactive and config.stdin
        if stdin and config.terminal and not os.isatty(0):
            raise WrongStateError("the workload has a terminal, and standard input is none", hint="leave out -i")
        manner = Manner(terminal=config.terminal, stdin=stdin, keys=keys, signals=not config.terminal)
        outcome = attach(control, pb.AttachSpec(zone=found.id, stdin=stdin, start=True), manner)
    if outcome.reason:
        warn(outcome.reason)
    return outcome.status


@click.command("restart")
@click.option("-t", "--time", "timeout", type=click.IntRange(0, 86400), help="Seconds before SIGKILL; 10 by default.")
@_zones
@host_option
@lab_option
def restart_zones(timeout: int | None, zones: tuple[str, ...], host: str | None, lab: str | None) -> None:
    """Stop zones, if they run, and start them."""
    from zonal.api import control_pb2 as pb

    with zonald(host, lab) as control:

        def restart(ref: str) -> None:
            control.call("RestartZone", pb.StopZoneRequest(zone=ref, timeout_seconds=timeout), pb.StartZoneReply)
            publish_again(control, ref, host, lab)

        each(zones, restart)


@click.command("pause")
@_zones
@host_option
@lab_option
def pause(zones: tuple[str, ...], host: str | None, lab: str | None) -> None:
    """Hold zones' domains as they are: nothing in them runs."""
    from zonal.api import control_pb2 as pb

    with zonald(host, lab) as control:
        each(zones, lambda ref: control.call("PauseZone", pb.ZoneRef(zone=ref), pb.PauseZoneReply))


@click.command("unpause")
@_zones
@host_option
@lab_option
def unpause(zones: tuple[str, ...], host: str | None, lab: str | None) -> None:
    """Let zones that were paused go on."""
    from zonal.api import control_pb2 as pb

    with zonald(host, lab) as control:
        each(zones, lambda ref: control.call("UnpauseZone", pb.ZoneRef(zone=ref), pb.PauseZoneReply))


@click.command("rename")
@click.argument("ref", metavar="ZONE")
@click.argument("name")
@host_option
@lab_option
def rename(ref: str, name: str, host: str | None, lab: str | None) -> None:
    """Give a zone another name."""
    from zonal.api import control_pb2 as pb

    with zonald(host, lab) as control:
        control.call("RenameZone", pb.RenameZoneRequest(zone=ref, name=name), pb.RenameZoneReply)
