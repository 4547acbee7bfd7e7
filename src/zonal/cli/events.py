"""``zonal events``: what happens to zones."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from zonal.cli.connect import host_option, lab_option, zonald
from zonal.cli.errors import printable
from zonal.cli.format import parse_time
from zonal.errors import InvalidInputError

if TYPE_CHECKING:
    from zonal.api import control_pb2 as pb

_FILTERS = ("event", "image", "zone", "container")


@click.command("events")
@click.option("--since", default="", metavar="TIME", help="Also those since then: 2026-01-02T15:04:05Z, or 10m ago.")
@click.option("--until", default="", metavar="TIME", help="End with that time.")
@click.option("-f", "--filter", "filters", multiple=True, metavar="NAME=VALUE", help="event, zone, image; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@host_option
@lab_option
def events(since: str, until: str, filters: tuple[str, ...], as_json: bool, host: str | None, lab: str | None) -> None:
    """Show what happens to zones, as it happens."""
    from zonal.api import control_pb2 as pb

    wanted = parse_filters(filters)
    request = pb.EventsRequest(since_ns=parse_time(since) if since else 0, until_ns=parse_time(until) if until else 0)
    # What was is wanted, when only an end is named that has passed.
    if until and not since:
        request.since_ns = 1
    with zonald(host, lab) as control:
        for event in control.stream("Events", request, pb.Event):
            if is_wanted(event, wanted):
                click.echo(json.dumps(_document(event), ensure_ascii=False) if as_json else _line(event))
                sys.stdout.flush()


def parse_filters(filters: tuple[str, ...]) -> dict[str, set[str]]:
    """``event=die`` and the like, by name. Raises ``InvalidInputError``."""
    wanted: dict[str, set[str]] = {}
    for text in filters:
        name, equals, value = text.partition("=")
        if not equals or not value or name not in _FILTERS:
            raise InvalidInputError(f"the filter {text!r} is unknown", hint="event=…, zone=… or image=…")
        wanted.setdefault("zone" if name == "container" else name, set()).add(value)
    return wanted


def is_wanted(event: pb.Event, wanted: dict[str, set[str]]) -> bool:
    """Whether it fulfils one filter of each name."""
    zones = wanted.get("zone")
    return (
        (not (actions := wanted.get("event")) or event.action in actions)
        and (not (images := wanted.get("image")) or event.image in images)
        and (not zones or event.name in zones or any(event.zone_id.startswith(zone) for zone in zones))
    )


def _document(event: pb.Event) -> dict[str, Any]:
    attributes = {**event.attributes, "image": event.image, "name": event.name}
    return {
        "Type": "zone",
        "Action": event.action,
        "Actor": {"ID": event.zone_id, "Attributes": attributes},
        "time": event.time_ns // 1_000_000_000,
        "timeNano": event.time_ns,
    }


def _line(event: pb.Event) -> str:
    from zonal.cli.documents import time_text

    attributes = {**event.attributes, "image": event.image, "name": event.name}
    shown = ", ".join(f"{name}={value}" for name, value in sorted(attributes.items()))
    return printable(f"{time_text(event.time_ns)} zone {event.action} {event.zone_id} ({shown})").replace("\n", " ")
