"""One thing done to each of several zones or others."""

from __future__ import annotations

from collections.abc import Callable

import click

from zonal.cli.errors import show_error
from zonal.errors import ZonalError


def each(refs: tuple[str, ...], action: Callable[[str], object]) -> None:
    """Does something to each, also after one failed; prints its name, or the number or text that ``action`` gives."""
    status = 0
    for ref in refs:
        try:
            result = action(ref)
        except ZonalError as error:
            show_error(error)
            status = status or error.exit_status
        else:
            click.echo(result if isinstance(result, int | str) else ref)
    if status:
        raise click.exceptions.Exit(status)
