"""The short way to a lab that is up: nothing is started, asked or locked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zonal.lab.paths import GIB, cache, free_bytes
from zonal.lab.qemu import is_running
from zonal.lab.recipe import recipe
from zonal.lab.state import load

if TYPE_CHECKING:
    from zonal.lab.access import Endpoint

# With less than this free, the lab may have stopped because it could not write; then the long way looks.
_PLENTY = GIB


def if_ready(name: str, source: str | None) -> Endpoint | None:
    """The endpoint of the lab, if it is up with the current recipe and ``source`` (None: with any) in it."""
    paths = cache().lab(name)
    state = load(paths)
    if state is None or state.run is None or not state.run.ready or not is_running(paths):
        return None
    if source is not None:
        current = state.run.source == source and state.recipe == recipe(state.spec.packages).digest
        if not current or free_bytes(paths.folder) < _PLENTY:
            return None
    from zonal.lab.access import endpoint

    return endpoint(paths, state.run.zonald_port)
