"""A function's configuration space: what it can, as its capabilities tell (PCI Express Base Specification, 7)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

CAP_MSI, CAP_PCIE, CAP_MSIX = 0x05, 0x10, 0x11
EXTENDED_ACS = 0x000D
_STATUS, _HEADER_TYPE, _CAPABILITIES = 0x06, 0x0E, 0x34
_HAS_CAPABILITIES, _MULTIFUNCTION = 1 << 4, 1 << 7
_STANDARD, _EXTENDED = 256, 4096
PORT_ROOT, PORT_UPSTREAM, PORT_DOWNSTREAM, BRIDGE_TO_PCI, BRIDGE_FROM_PCI = 4, 5, 6, 7, 8
"""Device/Port Type of the PCI Express Capabilities register."""
_ACS_WANTED = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 4
"""Source Validation, P2P Request Redirect, P2P Completion Redirect, Upstream Forwarding: nothing goes from one device
to its neighbour without the IOMMU seeing it."""


@dataclass(frozen=True)
class Abilities:
    """What matters of a function for giving it away."""

    msi: bool = False
    msix: bool = False
    express_type: int | None = None
    """Device/Port Type; None for conventional PCI."""
    multifunction: bool = False
    isolated: bool = False
    """Whether Access Control Services keep it from its neighbours."""


def read_abilities(config: bytes) -> Abilities:
    """Of the bytes of sysfs's ``config``: 64 where one is not root, 256 or 4096; what is not there is no ability."""
    if len(config) < 64 or config[:2] == b"\xff\xff":
        return Abilities()
    places = dict(_capabilities(config))
    express = places.get(CAP_PCIE)
    kind = config[express + 2] >> 4 & 0xF if express is not None and express + 2 < len(config) else None
    return Abilities(
        msi=CAP_MSI in places,
        msix=CAP_MSIX in places,
        express_type=kind,
        multifunction=bool(config[_HEADER_TYPE] & _MULTIFUNCTION),
        isolated=_is_isolated(config),
    )


def _capabilities(config: bytes) -> Iterator[tuple[int, int]]:
    """Each one's number and place; a ring of them, which a faulty device may have, ends."""
    if not int.from_bytes(config[_STATUS : _STATUS + 2], "little") & _HAS_CAPABILITIES:
        return
    place, seen = config[_CAPABILITIES] & ~3, set[int]()
    while 64 <= place < min(len(config), _STANDARD) - 1 and place not in seen:
        seen.add(place)
        yield config[place], place
        place = config[place + 1] & ~3


def _is_isolated(config: bytes) -> bool:
    place, seen = _STANDARD, set[int]()
    while _STANDARD <= place <= min(len(config), _EXTENDED) - 8 and place not in seen:
        seen.add(place)
        head = int.from_bytes(config[place : place + 4], "little")
        if head & 0xFFFF == EXTENDED_ACS:
            able = int.from_bytes(config[place + 4 : place + 6], "little")
            control = int.from_bytes(config[place + 6 : place + 8], "little")
            # What a device has no way to do need not be forbidden.
            return not _ACS_WANTED & able & ~control
        place = head >> 20 & ~3
    return False
