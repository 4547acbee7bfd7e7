"""``zonal events``: what happens to zones."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from zonal.cli.connect import host_option, lab_option, zonald
from zonal.cli.errors import printable
from zonal.cli.format import parse_time
from zonal.errors import InvalidInputError

if TYPE_CHECKING:
    from zonal.api import control_pb2 as pb

_FILTERS = ("event", "image", "type", "zone", "container")
_TYPES = {"zone", "container"}
"""Of events there are only those of zones, which docker's users call containers."""


@click.command("events")
@click.option("--since", default="", metavar="TIME", help="Also those since then: 2026-01-02T15:04:05Z, or 10m ago.")
@click.option("--until", default="", metavar="TIME", help="End with that time.")
@click.option("-f", "--filter", "filters", multiple=True, metavar="NAME=VALUE", help="event, zone, image; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--format", "layout", default="", metavar="TEMPLATE", help="json is --json; or such as {{.Action}}.")
@host_option
@lab_option
def events(
    since: str,
    until: str,
    filters: tuple[str, ...],
    as_json: bool,
    layout: str,
    host: str | None,
    lab: str | None,
) -> None:
    """Show what happens to zones, as it happens."""
    from zonal.api import control_pb2 as pb

    wanted = parse_filters(filters)
    show = _shower("json" if as_json else layout)
    request = pb.EventsRequest(since_ns=parse_time(since) if since else 0, until_ns=parse_time(until) if until else 0)
    # What was is wanted, when only an end is named that has passed.
    if until and not since:
        request.since_ns = 1
    with zonald(host, lab) as control:
        for event in control.stream("Events", request, pb.Event):
            if is_wanted(event, wanted):
                click.echo(show(event))
                sys.stdout.flush()


def _shower(layout: str) -> Callable[[pb.Event], str]:
    """What makes a line of an event. Raises ``InvalidInputError`` for a template that is none."""
    if not layout:
        return _line
    if layout in ("json", "{{json .}}"):
        return lambda event: json.dumps(_document(event), ensure_ascii=False)
    from zonal.cli.template import render

    render(layout, {})  # a bad one is told of before anything has happened
    return lambda event: printable(render(layout, _document(event)))


def parse_filters(filters: tuple[str, ...]) -> dict[str, set[str]]:
    """``event=die`` and the like, by name. Raises ``InvalidInputError``."""
    wanted: dict[str, set[str]] = {}
    for text in filters:
        name, equals, value = text.partition("=")
        if not equals or not value or name not in _FILTERS:
            raise InvalidInputError(f"the filter {text!r} is unknown", hint="event=…, zone=… or image=…")
        if name == "type" and value not in _TYPES:
            raise InvalidInputError(f"there are no events of type {value!r}", hint="only type=zone")
        wanted.setdefault("zone" if name == "container" else name, set()).add(value)
    return wanted


def is_wanted(event: pb.Event, wanted: dict[str, set[str]]) -> bool:
    """Whether it fulfils one filter of each name."""
    zones = wanted.get("zone")
    return (
        (not (actions := wanted.get("event")) or not actions.isdisjoint({event.action, event.action.partition(":")[0]}))
        and (not (images := wanted.get("image")) or not images.isdisjoint({event.image, _without_tag(event.image)}))
        and (not zones or event.name in zones or any(event.zone_id.startswith(zone) for zone in zones))
    )


def _without_tag(image: str) -> str:
    """``debian`` of ``debian:13``, which docker's filter takes too."""
    name, colon, tag = image.partition("@")[0].rpartition(":")
    return name if colon and "/" not in tag else image.partition("@")[0]


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
