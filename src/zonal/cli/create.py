"""``zonal create``: what ``zonal run`` would run is written down, for ``zonal start``."""

from __future__ import annotations

from typing import Any

import click

from zonal.cli.run import run

_NOT_OURS = frozenset({"detach", "timing"})


def _create(**options: Any) -> int:
    return run.callback(**options, detach=True, timing=None, create=True)  # pyright: ignore[reportOptionalCall]


create = click.Command(
    "create",
    context_settings=run.context_settings,
    callback=_create,
    params=[parameter for parameter in run.params if parameter.name not in _NOT_OURS],
    help="Write down what COMMAND, or what the image says, in a zone made from IMAGE is to be, for zonal start.",
)
