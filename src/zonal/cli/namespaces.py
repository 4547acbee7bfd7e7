"""``--ipc``, ``--pid``, ``--uts``, ``--cgroupns``, ``--userns``: what a workload shares with its zone, and with nobody
else. Docker's words, and podman's for the maps of ids.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from zonal.errors import InvalidInputError

if TYPE_CHECKING:
    from zonal.api import control_pb2 as pb

NAMESPACE_OPTIONS = (
    click.option("--ipc", default="", metavar="private|host|none", help="host: the zone's; none: no /dev/shm."),
    click.option(
        "--pid",
        default="",
        metavar="private|host",
        help="host: the zone's processes are seen; container:NAME: those of another workload in the same zone.",
    ),
    click.option("--uts", default="", metavar="private|host", help="host: the zone's own name."),
    click.option("--cgroupns", default="", metavar="private|host", help="host: the zone's control groups are seen."),
    click.option("--userns", default="", metavar="host|auto", help="auto: root inside is not root of the zone."),
    click.option("--uidmap", "uidmaps", multiple=True, metavar="CONTAINER:ZONE:SIZE", help="Users, one range a time."),
    click.option("--gidmap", "gidmaps", multiple=True, metavar="CONTAINER:ZONE:SIZE", help="Groups; as users if none."),
    click.option("--domainname", default="", metavar="NAME", help="The NIS domain (getdomainname(2))."),
    click.option("--init", is_flag=True, help="A small init as process 1, which reaps and passes signals on."),
)
_MAP = re.compile(r"([0-9]{1,10}):([0-9]{1,10}):([0-9]{1,10})", re.ASCII)


def parse_namespaces(values: Mapping[str, Any]) -> pb.Namespaces:
    """What `NAMESPACE_OPTIONS` have given. Raises ``InvalidInputError``."""
    from zonal.api import control_pb2 as pb

    return pb.Namespaces(
        ipc=values["ipc"],
        pid=values["pid"],
        uts=values["uts"],
        cgroup=values["cgroupns"],
        user=values["userns"],
        uids=[_id_map("--uidmap", text) for text in values["uidmaps"]],
        gids=[_id_map("--gidmap", text) for text in values["gidmaps"]],
    )


def _id_map(option: str, text: str) -> pb.IdMap:
    from zonal.api import control_pb2 as pb

    match = _MAP.fullmatch(text)
    numbers = [int(part) for part in match.groups()] if match else []
    if not numbers or max(numbers) > 0xFFFFFFFF:
        raise InvalidInputError(f"{option} {text[:64]!r} is no map of ids", hint=f"such as {option} 0:100000:65536")
    return pb.IdMap(container=numbers[0], zone=numbers[1], size=numbers[2])
