"""Grants: structures and request numbers against the headers."""

from __future__ import annotations

import pytest

from tests.unit.xen.c_layout import c_struct, c_values
from zonal.xen import grants

_GNTDEV = ["xen/xen.h", "xen/grant_table.h", "xen/gntdev.h"]
_GNTALLOC = ["xen/xen.h", "xen/gntalloc.h"]


def test_numbers_are_those_of_the_headers() -> None:
    mapping = {
        "IOCTL_GNTDEV_MAP_GRANT_REF": grants.MAP_GRANT_REF,
        "IOCTL_GNTDEV_UNMAP_GRANT_REF": grants.UNMAP_GRANT_REF,
        "IOCTL_GNTDEV_SET_UNMAP_NOTIFY": grants.SET_UNMAP_NOTIFY,
        "UNMAP_NOTIFY_CLEAR_BYTE": grants.UNMAP_NOTIFY_CLEAR_BYTE,
        "UNMAP_NOTIFY_SEND_EVENT": grants.UNMAP_NOTIFY_SEND_EVENT,
    }
    offering = {
        "IOCTL_GNTALLOC_ALLOC_GREF": grants.ALLOC_GREF,
        "IOCTL_GNTALLOC_DEALLOC_GREF": grants.DEALLOC_GREF,
        "IOCTL_GNTALLOC_SET_UNMAP_NOTIFY": grants.SET_UNMAP_NOTIFY,
        "GNTALLOC_FLAG_WRITABLE": grants.GNTALLOC_FLAG_WRITABLE,
    }
    assert mapping == c_values(_GNTDEV, list(mapping))
    assert offering == c_values(_GNTALLOC, list(offering))


@pytest.mark.parametrize(
    ("headers", "name", "fields", "offsets"),
    [
        (_GNTDEV, "struct ioctl_gntdev_map_grant_ref", ["count", "index", "refs"], [0, 8, grants.MAP_HEADER.size]),
        (_GNTDEV, "struct ioctl_gntdev_grant_ref", ["domid", "ref"], [0, 4]),
        (_GNTDEV, "struct ioctl_gntdev_unmap_grant_ref", ["index", "count"], [0, 8]),
        (_GNTDEV, "struct ioctl_gntdev_unmap_notify", ["index", "action", "event_channel_port"], [0, 8, 12]),
        (
            _GNTALLOC,
            "struct ioctl_gntalloc_alloc_gref",
            ["domid", "flags", "count", "index", "gref_ids"],
            [0, 2, 4, 8, grants.ALLOC_HEADER.size],
        ),
        (_GNTALLOC, "struct ioctl_gntalloc_dealloc_gref", ["index", "count"], [0, 8]),
        (_GNTALLOC, "struct ioctl_gntalloc_unmap_notify", ["index", "action", "event_channel_port"], [0, 8, 12]),
    ],
)
def test_structures_are_laid_out_as_in_c(headers: list[str], name: str, fields: list[str], offsets: list[int]) -> None:
    assert list(c_struct(headers, name, fields)[1].values()) == offsets


def test_fixed_structures_have_the_size_that_their_requests_announce() -> None:
    assert grants.UNMAP.size == grants.UNMAP_GRANT_REF >> 16
    assert grants.UNMAP_NOTIFY.size == grants.SET_UNMAP_NOTIFY >> 16
    assert grants.DEALLOC.size == grants.DEALLOC_GREF >> 16
