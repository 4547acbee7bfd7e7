"""``zonal pool``: zones that are booted ahead of time, and given to the next run that fits."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import click

from zonal.cli.connect import host_option, lab_option, zonald
from zonal.cli.format import parse_size, show_size, show_table
from zonal.errors import InvalidInputError

if TYPE_CHECKING:
    from zonal.api import control_pb2 as pb

_SIZE = re.compile(r"([0-9.]+[a-zA-Z]*)(?:-([0-9.]+[a-zA-Z]*))?(?:/([0-9]{1,2}))?=([0-9]{1,3})", re.ASCII)


@click.group()
def pool() -> None:
    """Zones that are booted ahead of time, and given to the next run that fits."""


@pool.command("ls")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@host_option
@lab_option
def list_pool(as_json: bool, host: str | None, lab: str | None) -> None:
    """Show what is ready, and what has become of it."""
    from zonal.api import control_pb2 as pb

    with zonald(host, lab) as control:
        _show(control.call("GetPool", pb.GetPoolRequest(), pb.Pool), as_json=as_json)


@pool.command("set")
@click.option("-m", "--memory", "budget", default="", metavar="SIZE", help="That the whole pool may take.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.argument("sizes", nargs=-1, metavar="[MEMORY[-MAX][/CPUS]=COUNT]…")
@host_option
@lab_option
def set_pool(budget: str, as_json: bool, sizes: tuple[str, ...], host: str | None, lab: str | None) -> None:
    """Have so many zones of these sizes ready, from now on; none without a size.

    For example: zonal pool set 256M=4 512M-2G/2=1
    """
    from zonal.api import control_pb2 as pb

    wanted = pb.Pool(sizes=[parse_pool_size(text) for text in sizes], budget_bytes=parse_size(budget) if budget else 0)
    with zonald(host, lab) as control:
        _show(control.call("SetPool", wanted, pb.Pool), as_json=as_json)


def parse_pool_size(text: str) -> pb.PoolSize:
    """``512M-2G/2=1``: memory, what it may grow to, CPUs, and how many. Raises ``InvalidInputError``."""
    from zonal.api import control_pb2 as pb

    match = _SIZE.fullmatch(text)
    if not match or not int(match[4]):
        raise InvalidInputError(f"{text[:64]!r} is no size of a pool", hint="such as 256M=4 or 512M-2G/2=1")
    resources = pb.Resources(memory_bytes=parse_size(match[1]))
    if match[2]:
        resources.memory_max_bytes = parse_size(match[2])
    if match[3]:
        resources.cpus = int(match[3])
    return pb.PoolSize(resources=resources, count=int(match[4]))


def _show(found: pb.Pool, *, as_json: bool) -> None:
    rows = [(each.resources, each.count, each.ready) for each in found.sizes]
    if as_json:
        sizes = [
            {
                "memory_bytes": resources.memory_bytes,
                "memory_max_bytes": max(resources.memory_bytes, resources.memory_max_bytes),
                "cpus": resources.cpus,
                "count": count,
                "ready": ready,
            }
            for resources, count, ready in rows
        ]
        counts = {"taken": found.taken, "missed": found.missed, "lost": found.lost}
        click.echo(json.dumps({"sizes": sizes, "budget_bytes": found.budget_bytes, **counts}))
        return
    table = [
        [
            show_size(resources.memory_bytes),
            show_size(max(resources.memory_bytes, resources.memory_max_bytes)),
            str(resources.cpus),
            f"{ready} of {count}",
        ]
        for resources, count, ready in rows
    ]
    click.echo(show_table(["MEMORY", "AT MOST", "CPUS", "READY"], table))
    click.echo(f"{found.taken} taken, {found.missed} missed, {found.lost} lost")
