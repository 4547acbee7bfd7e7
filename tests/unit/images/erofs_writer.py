"""Layers as one erofs, as the store makes it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tests.unit.images.tarballs import digest
from zonal.images.erofs import ErofsWriter
from zonal.images.erofs_plan import Plan
from zonal.images.limits import DEFAULT, Limits
from zonal.images.tarformat import Source


def write_erofs(target: Path, layers: Iterable[Source], limits: Limits = DEFAULT) -> Plan:
    """The lowest layer first."""
    with ErofsWriter(target, limits) as writer:
        for layer in layers:
            writer.add(layer)
        plan = writer.plan(digest(b""))
        writer.finish(plan)
    return plan
