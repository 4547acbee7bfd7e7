"""``zonal zone``: what goes on with zones that were made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from zonal.cli.connect import host_option, lab_option, zonald
from zonal.cli.each import each
from zonal.cli.errors import warn
from zonal.cli.exec import attach_command, exec_command
from zonal.cli.format import parse_time, shorten, show_age, show_size, show_table
from zonal.cli.measures import stats, top
from zonal.cli.mounts import mount_options, parse_mounts, publish_directories
from zonal.cli.networks import show_port
from zonal.cli.published import forget_ended
from zonal.cli.timeline import timeline
from zonal.cli.update import update
from zonal.cli.verbs import pause, rename, restart_zones, start_zones, unpause
from zonal.cli.zone_create import create_zone
from zonal.errors import InvalidInputError

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from zonal.api import control_pb2 as pb

_LISTED_COMMAND = 30
_SHORT_ID = 12


@click.group()
def zone() -> None:
    """List zones, look into them, stop and remove them."""


@zone.command("ls")
@click.option("-a", "--all", "all_zones", is_flag=True, help="Also those that have ended.")
@click.option("-n", "--last", type=click.IntRange(1), metavar="N", help="The last N that were made, also ended ones.")
@click.option("-l", "--latest", is_flag=True, help="The last one.")
@click.option(
    "-f",
    "--filter",
    "filters",
    multiple=True,
    metavar="NAME=VALUE",
    help="id, name, zone, image, status, exited, health.",
)
@click.option("-q", "--quiet", is_flag=True, help="Ids only.")
@click.option("--no-trunc", is_flag=True, help="Whole ids and commands.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--format", "layout", type=click.Choice(["table", "json"]), default="table", help="json is --json.")
@host_option
@lab_option
def list_zones(
    all_zones: bool,
    last: int | None,
    latest: bool,
    filters: tuple[str, ...],
    quiet: bool,
    no_trunc: bool,
    as_json: bool,
    layout: str,
    host: str | None,
    lab: str | None,
) -> None:
    """List zones."""
    from zonal.api import control_pb2 as pb
    from zonal.cli.documents import parse_filters, passes

    wanted = parse_filters(filters)
    last = 1 if latest else last
    # As for docker, who asks for ended ones gets them.
    everything = all_zones or last is not None or not wanted.keys().isdisjoint({"status", "exited"})
    with zonald(host, lab) as control:
        zones = control.call("ListZones", pb.ListZonesRequest(all=everything), pb.ListZonesReply).zones
    zones = [item for item in zones if passes(item, wanted)][-last if last else 0 :]
    if as_json or layout == "json":
        from zonal.cli.documents import zone_line

        for item in zones:
            click.echo(zone_line(item))
        return
    id_length = 64 if no_trunc else _SHORT_ID
    if quiet:
        for item in zones:
            click.echo(item.id[:id_length])
        return
    header = ["ID", "NAME", "ZONE", "IMAGE", "COMMAND", "CREATED", "STATUS", "MEMORY", "DOMAIN", "PORTS"]
    click.echo(show_table(header, [_row(item, whole=no_trunc) for item in zones]))


zone.add_command(create_zone)


@zone.command("inspect")
@click.option("-f", "--format", "template", default="", metavar="TEMPLATE", help="Such as {{.State.Status}}.")
@click.argument("zones", nargs=-1, required=True, metavar="ZONE…")
@host_option
@lab_option
def inspect(template: str, zones: tuple[str, ...], host: str | None, lab: str | None) -> None:
    """Show all that is known of zones, as JSON."""
    from zonal.api import control_pb2 as pb
    from zonal.cli.documents import inspect_document, pretty

    with zonald(host, lab) as control:
        found = [control.call("InspectZone", pb.ZoneRef(zone=ref), pb.Zone) for ref in zones]
    documents = [inspect_document(item) for item in found]
    if template and template != "json":
        from zonal.cli.template import render

        for document in documents:
            click.echo(render(template, document))
    else:
        click.echo(pretty(documents))


@zone.command("logs")
@click.option("-f", "--follow", is_flag=True, help="Go on until the workload has ended.")
@click.option("-n", "--tail", default="all", metavar="LINES", help="Only the last lines; all by default.")
@click.option("--since", default="", metavar="TIME", help="Only from then on: 2026-01-02T15:04:05Z, or 10m ago.")
@click.option("--until", default="", metavar="TIME", help="Only until then.")
@click.option("-t", "--timestamps", is_flag=True, help="Put its time before each line.")
@click.argument("ref", metavar="ZONE")
@host_option
@lab_option
def logs(
    follow: bool, tail: str, since: str, until: str, timestamps: bool, ref: str, host: str | None, lab: str | None
) -> None:
    """Show a workload's output so far."""
    from zonal.api import control_pb2 as pb

    request = pb.ZoneLogsRequest(
        zone=ref,
        follow=follow,
        since_ns=parse_time(since) if since else 0,
        until_ns=parse_time(until) if until else 0,
        timestamps=timestamps,
    )
    # As for docker, what is below zero means all of it.
    if tail != "all" and not tail.startswith("-"):
        if not (tail.isascii() and tail.isdecimal() and len(tail) < 10):
            raise click.BadParameter(f"{tail!r} is not a number of lines", param_hint="--tail")
        request.tail = int(tail)
    _copy_output("ZoneLogs", request, host, lab)


@zone.command("console")
@click.option("-f", "--follow", is_flag=True, help="Go on until the zone is gone.")
@click.argument("ref", metavar="ZONE")
@host_option
@lab_option
def console(follow: bool, ref: str, host: str | None, lab: str | None) -> None:
    """Show what the zone's kernel wrote on its console."""
    from zonal.api import control_pb2 as pb

    _copy_output("ZoneConsole", pb.ZoneConsoleRequest(zone=ref, follow=follow), host, lab)


@zone.command("stop")
@click.option("-t", "--time", "timeout", type=click.IntRange(0, 86400), help="Seconds before SIGKILL; 10 by default.")
@click.argument("zones", nargs=-1, required=True, metavar="ZONE…")
@host_option
@lab_option
def stop(timeout: int | None, zones: tuple[str, ...], host: str | None, lab: str | None) -> None:
    """Stop zones: their stop signal first, SIGKILL when that does not help."""
    from zonal.api import control_pb2 as pb

    with zonald(host, lab) as control:
        try:
            each(
                zones,
                lambda ref: control.call(
                    "StopZone", pb.StopZoneRequest(zone=ref, timeout_seconds=timeout), pb.StopZoneReply
                ),
            )
        finally:
            forget_ended(control, host, lab)


@zone.command("kill")
@click.option("-s", "--signal", "signal_name", default="KILL", metavar="SIGNAL", help="KILL by default.")
@click.argument("zones", nargs=-1, required=True, metavar="ZONE…")
@host_option
@lab_option
def kill(signal_name: str, zones: tuple[str, ...], host: str | None, lab: str | None) -> None:
    """Send a signal to zones' workloads."""
    from zonal.api import control_pb2 as pb
    from zonal.api.signals import parse_signal

    number = parse_signal(signal_name)
    with zonald(host, lab) as control:
        each(zones, lambda ref: control.call("KillZone", pb.KillZoneRequest(zone=ref, signal=number), pb.KillZoneReply))


@zone.command("wait")
@click.argument("zones", nargs=-1, required=True, metavar="ZONE…")
@host_option
@lab_option
def wait(zones: tuple[str, ...], host: str | None, lab: str | None) -> None:
    """Wait until zones have ended, and print their exit statuses."""
    from zonal.api import control_pb2 as pb

    with zonald(host, lab) as control:

        def wait_for(ref: str) -> int:
            ended = control.call("WaitZone", pb.ZoneRef(zone=ref), pb.WaitZoneReply)
            if ended.reason:
                warn(f"{ref}: {ended.reason}")
            return ended.status

        each(zones, wait_for)


@zone.command("rm")
@click.option("-f", "--force", is_flag=True, help="Kill those that run first.")
@click.option("-v", "--volumes", is_flag=True, help="Also the volumes that were made for them alone.")
@click.argument("zones", nargs=-1, required=True, metavar="ZONE…")
@host_option
@lab_option
def remove(force: bool, volumes: bool, zones: tuple[str, ...], host: str | None, lab: str | None) -> None:
    """Remove zones that have ended, with their logs and what they wrote outside volumes."""
    from zonal.api import control_pb2 as pb

    with zonald(host, lab) as control:
        try:
            each(
                zones,
                lambda ref: control.call(
                    "RemoveZone", pb.RemoveZoneRequest(zone=ref, force=force, volumes=volumes), pb.RemoveZoneReply
                ),
            )
        finally:
            forget_ended(control, host, lab)


@zone.command("mount")
@mount_options
@click.argument("ref", metavar="ZONE")
@host_option
@lab_option
def mount(
    volumes: tuple[str, ...],
    mounts: tuple[str, ...],
    memory_mounts: tuple[str, ...],
    devices: tuple[str, ...],
    ref: str,
    host: str | None,
    lab: str | None,
) -> None:
    """Give a running zone more mounts, with the options of `zonal run`."""
    from zonal.api import control_pb2 as pb

    wanted = parse_mounts(volumes, mounts, memory_mounts, devices)
    if not wanted:
        raise InvalidInputError("no mount is given", hint="such as -v name:/data")
    with zonald(host, lab) as control:
        publish_directories(wanted, host, lab)
        for item in wanted:
            control.call("MountInZone", pb.MountInZoneRequest(zone=ref, mount=item), pb.MountInZoneReply)


@zone.command("unmount")
@click.argument("ref", metavar="ZONE")
@click.argument("targets", nargs=-1, required=True, metavar="PATH…")
@host_option
@lab_option
def unmount(ref: str, targets: tuple[str, ...], host: str | None, lab: str | None) -> None:
    """Take mounts away from a running zone, busy or not."""
    from zonal.api import control_pb2 as pb

    with zonald(host, lab) as control:
        for target in targets:
            control.call("UnmountInZone", pb.UnmountInZoneRequest(zone=ref, target=target), pb.UnmountInZoneReply)


for each_command in (start_zones, restart_zones, pause, unpause, rename, update, top, stats):
    zone.add_command(each_command)
zone.add_command(exec_command)
zone.add_command(attach_command)
zone.add_command(timeline)


def _copy_output(name: str, request: Message, host: str | None, lab: str | None) -> None:
    from zonal.api import control_pb2 as pb
    from zonal.cli.attach import write_all

    with zonald(host, lab) as control:
        for chunk in control.stream(name, request, pb.OutputChunk):
            write_all(1, chunk.stdout)
            write_all(2, chunk.stderr)


def _row(item: pb.Zone, *, whole: bool) -> list[str]:
    command = " ".join(item.command)
    return [
        item.id if whole else item.id[:_SHORT_ID],
        item.name,
        item.zone_name,
        item.image,
        command if whole else shorten(command, _LISTED_COMMAND),
        show_age(item.created_ns),
        _status(item),
        _memory(item),
        str(item.domain_id or ""),
        ", ".join(map(show_port, item.ports)) if item.domain_id else "",
    ]


def _memory(item: pb.Zone) -> str:
    if item.zone_id and not item.memory_bytes:
        return "its zone's"
    floor, most = show_size(item.memory_bytes), show_size(item.resources.memory_max_bytes)
    return f"{floor} to {most}" if item.resources.memory_max_bytes > item.memory_bytes else floor


def _status(item: pb.Zone) -> str:
    from zonal.cli.documents import state_name
    from zonal.cli.policies import health_words

    state = state_name(item.state)
    if state == "exited":
        return f"exited ({item.exit_status}) {show_age(item.finished_ns)}"
    if state == "crashed":
        return f"crashed {show_age(item.finished_ns)}"
    if state in ("running", "paused"):
        paused = " (paused)" if state == "paused" else ""
        return f"up since {show_age(item.started_ns).removesuffix(' ago')}{paused}{health_words(item)}"
    if state == "created":
        return state
    if state == "restarting":
        return f"restarting ({item.exit_status}) {show_age(item.finished_ns)}"
    return state
