"""``zonal commit``: an image of an image and what a zone has changed of it."""

from __future__ import annotations

import click

from zonal.cli.connect import host_option, lab_option, zonald


@click.command("commit")
@click.option("-a", "--author", default="", help="Who made the image.")
@click.option("-m", "--message", default="", help="What it is.")
@click.option(
    "-c",
    "--change",
    "changes",
    multiple=True,
    metavar="INSTRUCTION",
    help="As in a Dockerfile: 'CMD [\"sh\"]'.",
)
@click.option("-p", "--pause/--no-pause", default=True, help="The workload stands still meanwhile (the default).")
@click.argument("zone", metavar="ZONE")
@click.argument("name", metavar="[NAME[:TAG]]", default="")
@host_option
@lab_option
def commit(
    author: str,
    message: str,
    changes: tuple[str, ...],
    pause: bool,
    zone: str,
    name: str,
    host: str | None,
    lab: str | None,
) -> None:
    """Make an image of a zone's image and what the zone has changed, running or not; volumes are not part of it.

    The settings are the image's, with each --change applied.
    """
    from zonal.api import control_pb2 as pb

    request = pb.CommitZoneRequest(zone=zone, name=name, author=author, comment=message, changes=changes, pause=pause)
    with zonald(host, lab) as control:
        click.echo(control.call("CommitZone", request, pb.Image).id)
