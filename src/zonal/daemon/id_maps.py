"""Maps of user and group ids, from how podman writes them to checked ones."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Final

from zonal.api import control_pb2 as pb
from zonal.errors import InvalidInputError
from zonal.zones.runtime_options import IdMap

AUTO_BASE: Final = 1 << 20
"""The zone's first id for ``auto``: above all that an image's files have."""
AUTO_SIZE: Final = 1 << 16
MAX_MAPS: Final = 340
"""UID_GID_MAP_MAX_EXTENTS of Linux's include/linux/user_namespace.h."""
_END: Final = 0xFFFFFFFF
"""(uid_t)-1 is nobody's id."""
_AUTO: Final = re.compile(r"auto(?::size=([0-9]{1,10}))?", re.ASCII)


def resolve_id_maps(request: pb.Namespaces) -> tuple[tuple[IdMap, ...], tuple[IdMap, ...]]:
    """The maps of users and groups, in order; empty for no user namespace. Raises ``InvalidInputError``."""
    mode = request.user
    if request.uids or request.gids:
        if mode not in ("", "private"):
            raise InvalidInputError(f"--userns={mode[:64]} has no maps of ids", hint="leave out one of them")
        uids = request.uids or request.gids
        return _checked("user", uids), _checked("group", request.gids or uids)
    if mode in ("", "host"):
        return (), ()
    match = _AUTO.fullmatch(mode)
    if not match:
        known = "host, auto, auto:size=65536, or --uidmap and --gidmap"
        raise InvalidInputError(f"there is no user namespace {mode[:64]!r}", hint=known)
    auto = _checked("user", [pb.IdMap(container=0, zone=AUTO_BASE, size=min(int(match[1] or AUTO_SIZE), _END))])
    return auto, auto


def _checked(what: str, messages: Iterable[pb.IdMap]) -> tuple[IdMap, ...]:
    maps = sorted((IdMap(each.container, each.zone, each.size) for each in messages), key=lambda each: each.container)
    if len(maps) > MAX_MAPS:
        raise InvalidInputError(f"{len(maps)} maps of {what} ids are too many", hint=f"{MAX_MAPS} at most")
    for each in maps:
        if not each.size or max(each.container, each.zone) + each.size > _END:
            raise InvalidInputError(
                f"{_text(each)} maps no {what} ids", hint="CONTAINER:ZONE:SIZE, such as 0:100000:65536"
            )
    for first, second in pairwise(maps):
        if first.container + first.size > second.container:
            raise _twice(what, first, second)
    for first, second in pairwise(sorted(maps, key=lambda each: each.zone)):
        if first.zone + first.size > second.zone:
            raise _twice(what, first, second)
    if maps[0].container:
        raise InvalidInputError(f"{what} id 0 is not mapped, and a container begins as that", hint="map it as well")
    return tuple(maps)


def _twice(what: str, first: IdMap, second: IdMap) -> InvalidInputError:
    return InvalidInputError(
        f"{_text(first)} and {_text(second)} map some {what} id twice", hint="let them not overlap on either side"
    )


def _text(each: IdMap) -> str:
    return f"{each.container}:{each.zone}:{each.size}"
