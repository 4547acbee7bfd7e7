"""The lab: a whole Xen host inside QEMU, for machines that do not run Xen.

`ensure_up` is all that most callers need. The functions block; call them outside of an event loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zonal.lab.progress import Progress, Silent, Step
from zonal.lab.spec import Spec, Wanted, check_name, default_name

if TYPE_CHECKING:
    from pathlib import Path

    from zonal.lab.access import Endpoint

__all__ = [
    "Progress",
    "Silent",
    "Spec",
    "Step",
    "Wanted",
    "check_name",
    "checkpoint",
    "connect",
    "default_name",
    "ensure_up",
    "publish",
]

# The functions import what they need: a lab that is up costs a command only what reaching it costs.


def ensure_up(
    name: str | None = None, progress: Progress | None = None, wanted: Wanted | None = None, *, boot: bool = False
) -> Endpoint:
    """Brings the lab up if it is not, with this Zonal's source in it, and gives the way to its zonald.

    ``name`` defaults to ``$ZONAL_LAB`` or ``default``. Raises `ZonalError`.
    """
    from zonal.lab.ready import if_ready
    from zonal.lab.source import read_source

    name = check_name(name) if name else default_name()
    source = read_source()
    if not boot and (wanted is None or wanted == Wanted()) and (reached := if_ready(name, source.digest)):
        return reached
    from zonal.lab.lifecycle import up

    return up(name, wanted or Wanted(), source, progress or Silent(), boot=boot)


def connect(name: str | None = None) -> Endpoint:
    """The way to the zonald of a lab that is up, whichever source it runs; raises `UnavailableError` when it is not."""
    from zonal.errors import UnavailableError
    from zonal.lab.ready import if_ready

    name = check_name(name) if name else default_name()
    reached = if_ready(name, None)
    if reached is None:
        raise UnavailableError(f"the lab {name} is not up", hint=f"zonal lab up --name {name}")
    return reached


def checkpoint(name: str | None = None, progress: Progress | None = None) -> None:
    """Saves the running lab, so that what is in it now survives whatever happens to QEMU; for after an import."""
    from zonal.lab.lifecycle import checkpoint as save

    save(check_name(name) if name else default_name(), progress or Silent())


def publish(name: str | None, path: Path, *, read_only: bool) -> str:
    """Gives a lab that is up a directory or file of this machine; its path in the lab's host. Raises `ZonalError`."""
    from zonal.lab.shares import publish as publish_in

    return publish_in(check_name(name) if name else default_name(), path, read_only=read_only)
