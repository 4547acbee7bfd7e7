"""``zonal volume``: named volumes, which outlive the zones that write to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from zonal.cli.connect import host_option, lab_option, zonald
from zonal.cli.each import each
from zonal.cli.format import parse_size, show_age, show_size, show_table
from zonal.errors import InvalidInputError

if TYPE_CHECKING:
    from zonal.api import control_pb2 as pb


@click.group()
def volume() -> None:
    """Make, list and remove volumes."""


@volume.command("create")
@click.option("-s", "--size", default="", metavar="SIZE", help="That it may grow to; 10G by default.")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="For your own use.")
@click.argument("name", default="")
@host_option
@lab_option
def create(size: str, labels: tuple[str, ...], name: str, host: str | None, lab: str | None) -> None:
    """Make a volume and print its name; without NAME one is made up."""
    from zonal.api import control_pb2 as pb

    size_bytes = parse_size(size) if size else 0
    if size and not size_bytes:
        raise InvalidInputError("a volume cannot have no room", hint="such as --size 1G")
    request = pb.CreateVolumeRequest(name=name or _make_name(), size_bytes=size_bytes)
    for label in labels:
        key, _, value = label.partition("=")
        request.labels[key] = value
    with zonald(host, lab) as control:
        made = control.call("CreateVolume", request, pb.Volume)
    click.echo(made.name)


@volume.command("ls")
@click.option("-q", "--quiet", is_flag=True, help="Names only.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@host_option
@lab_option
def list_volumes(quiet: bool, as_json: bool, host: str | None, lab: str | None) -> None:
    """List volumes."""
    import json

    from zonal.api import control_pb2 as pb

    with zonald(host, lab) as control:
        volumes = control.call("ListVolumes", pb.ListVolumesRequest(), pb.ListVolumesReply).volumes
    if as_json or quiet:
        for item in volumes:
            click.echo(item.name if quiet else json.dumps(_document(item), ensure_ascii=False))
        return
    rows = [
        [item.name, show_size(item.size_bytes), show_size(item.used_bytes), show_age(item.created_ns), _users(item)]
        for item in volumes
    ]
    click.echo(show_table(["NAME", "SIZE", "ON DISK", "CREATED", "USED BY"], rows))


@volume.command("inspect")
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@host_option
@lab_option
def inspect(names: tuple[str, ...], host: str | None, lab: str | None) -> None:
    """Show all that is known of volumes, as JSON."""
    from zonal.api import control_pb2 as pb
    from zonal.cli.documents import pretty

    with zonald(host, lab) as control:
        found = [control.call("InspectVolume", pb.VolumeRef(name=name), pb.Volume) for name in names]
    click.echo(pretty([_document(item) for item in found]))


@volume.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@host_option
@lab_option
def remove(names: tuple[str, ...], host: str | None, lab: str | None) -> None:
    """Remove volumes with all that is in them."""
    from zonal.api import control_pb2 as pb

    def remove_one(name: str) -> str:
        control.call("RemoveVolume", pb.VolumeRef(name=name), pb.RemoveVolumeReply)
        return name

    with zonald(host, lab) as control:
        each(names, remove_one)


@volume.command("prune")
@click.option("-a", "--all", "everything", is_flag=True, help="Also those with a name of their own.")
@host_option
@lab_option
def prune(everything: bool, host: str | None, lab: str | None) -> None:
    """Remove volumes that no zone uses and nobody has named."""
    from zonal.api import control_pb2 as pb

    with zonald(host, lab) as control:
        reply = control.call("PruneVolumes", pb.PruneVolumesRequest(all=everything), pb.PruneVolumesReply)
    for name in reply.deleted:
        click.echo(f"deleted {name}")
    click.echo(f"{show_size(reply.freed_bytes)} are free again")


def _make_name() -> str:
    import secrets

    return secrets.token_hex(32)


def _users(item: pb.Volume) -> str:
    return ", ".join(item.used_by)


def _document(item: pb.Volume) -> dict[str, Any]:
    from zonal.cli.documents import time_text

    return {
        "name": item.name,
        "size_bytes": item.size_bytes,
        "used_bytes": item.used_bytes,
        "created": time_text(item.created_ns),
        "anonymous": item.anonymous,
        "labels": dict(item.labels),
        "used_by": list(item.used_by),
    }
