"""``zonal top`` without a zone: all zones, live."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from zonal.cli.errors import printable
from zonal.cli.format import shorten, show_table

if TYPE_CHECKING:
    from zonal.api import control_pb2 as pb
    from zonal.cli.client import Control
    from zonal.cli.screen import Screen

FIRST_INTERVAL = 1.0
"""Seconds between the first two readings, of which rates are made."""
_NAME = 18
_KEYS = "c CPU  m memory  n network  d disk  u uptime  s state  a name  r reverse  q quit"


@dataclass(frozen=True)
class Row:
    """One zone; rates are a second's."""

    name: str
    state: str
    cpus: int
    cpu_percent: float
    memory: int
    memory_limit: int
    received: float
    sent: float
    read: float
    written: float
    uptime_ns: int
    processes: int


@dataclass(frozen=True)
class Reading:
    """What was asked for at one moment."""

    time_ns: int
    """Wall clock."""
    info: pb.InfoReply
    zones: Sequence[pb.Zone]
    stats: dict[str, pb.ZoneStats]


@dataclass
class Order:
    """How rows are sorted, and which come first on the screen."""

    column: str = "cpu"
    reverse: bool = False
    first: int = 0


_SORTS: dict[str, Callable[[Row], tuple[float | str, str]]] = {
    "cpu": lambda row: (-row.cpu_percent, row.name),
    "memory": lambda row: (-row.memory, row.name),
    "network": lambda row: (-(row.received + row.sent), row.name),
    "disk": lambda row: (-(row.read + row.written), row.name),
    "uptime": lambda row: (-row.uptime_ns, row.name),
    "state": lambda row: (row.state, row.name),
    "name": lambda row: ("", row.name),
}
SORTS = tuple(_SORTS)
_SORT_KEYS = {"c": "cpu", "m": "memory", "n": "network", "d": "disk", "u": "uptime", "s": "state", "a": "name"}
_COLUMNS: tuple[tuple[str, str, int, Callable[[Row], str]], ...] = (
    # Heading, order by it, width (0: what is left), and the value.
    ("NAME", "name", 0, lambda row: row.name),
    ("STATE", "state", 8, lambda row: row.state),
    ("CPU%", "cpu", 6, lambda row: f"{row.cpu_percent:.1f}"),
    ("MEM", "memory", 5, lambda row: short_size(row.memory)),
    ("MEM%", "memory", 5, lambda row: f"{row.memory / max(1, row.memory_limit) * 100:.1f}"),
    ("NET↓", "network", 5, lambda row: short_size(row.received)),
    ("NET↑", "network", 5, lambda row: short_size(row.sent)),
    ("READ", "disk", 5, lambda row: short_size(row.read)),
    ("WRITE", "disk", 5, lambda row: short_size(row.written)),
    ("UP", "uptime", 6, lambda row: short_time(row.uptime_ns)),
)
_LEFT = {"NAME", "STATE"}


def show_live(control: Control, *, once: bool, interval: float, column: str) -> int:
    """All zones again and again, or once: as a plain table where the output is no terminal."""
    before = read(control)
    order = Order(column)
    if once or not (sys.stdout.isatty() and sys.stdin.isatty()):
        time.sleep(FIRST_INTERVAL)
        click.echo(plain(sort_rows(rows(read(control), before), order)))
        return 0
    from zonal.cli.screen import open_screen

    with open_screen() as screen:
        _live(control, screen, before, order, interval)
    return 0


def _live(control: Control, screen: Screen, before: Reading, order: Order, interval: float) -> None:
    now, next_at = before, time.monotonic() + min(interval, FIRST_INTERVAL)
    while True:
        rows_now, columns = screen.size()
        screen.draw(picture(now, before, order, rows_now, columns))
        keys = screen.wait(max(0.0, next_at - time.monotonic()))
        for key in keys or ():
            if not obey(key, order, page=rows_now - 4):
                return
        if time.monotonic() >= next_at:
            before, now = now, read(control)
            next_at = time.monotonic() + interval


def obey(key: str, order: Order, *, page: int) -> bool:
    """Does what a key is for; false for one that ends it."""
    from zonal.cli import screen

    if key in ("q", "Q", screen.INTERRUPT, "\x1b"):
        return False
    if key in _SORT_KEYS:
        order.column, order.first = _SORT_KEYS[key], 0
    elif key == "r":
        order.reverse = not order.reverse
    moves = {screen.UP: -1, "k": -1, screen.DOWN: 1, "j": 1, screen.PAGE_UP: -page, screen.PAGE_DOWN: page}
    order.first = max(0, order.first + moves.get(key, 0))
    return True


def read(control: Control) -> Reading:
    """Asks zonald."""
    from zonal.api import control_pb2 as pb

    stats = control.call("ZoneStats", pb.ZoneStatsRequest(), pb.ZoneStatsReply).stats
    return Reading(
        time_ns=time.time_ns(),
        info=control.call("Info", pb.InfoRequest(), pb.InfoReply),
        zones=control.call("ListZones", pb.ListZonesRequest(), pb.ListZonesReply).zones,
        stats={each.id: each for each in stats},
    )


def rows(now: Reading, before: Reading) -> list[Row]:
    """The zones of a reading, with rates since the one before."""
    from zonal.cli.documents import state_name

    found: list[Row] = []
    for zone in now.zones:
        this, last = now.stats.get(zone.id), before.stats.get(zone.id)
        found.append(
            Row(
                name=zone.name,
                state=state_name(zone.state),
                cpus=zone.cpus,
                cpu_percent=_rate(this, last, "cpu_time_ns") / 1e7,
                memory=this.memory_bytes if this else 0,
                memory_limit=this.memory_limit_bytes if this else zone.memory_bytes,
                received=_rate(this, last, "net_received_bytes"),
                sent=_rate(this, last, "net_sent_bytes"),
                read=_rate(this, last, "block_read_bytes"),
                written=_rate(this, last, "block_written_bytes"),
                # The host's clock: this machine's may be another.
                uptime_ns=max(0, now.info.wall_clock_ns - zone.started_ns) if zone.started_ns else 0,
                processes=this.processes if this else 0,
            )
        )
    return found


def _rate(now: pb.ZoneStats | None, before: pb.ZoneStats | None, field: str) -> float:
    """How much of it there was in a second; a zone that was started again in between counts from zero."""
    if now is None or before is None or now.time_ns <= before.time_ns:
        return 0.0
    return max(0, getattr(now, field) - getattr(before, field)) * 1e9 / (now.time_ns - before.time_ns)


def sort_rows(found: list[Row], order: Order) -> list[Row]:
    """In the order that is wanted."""
    return sorted(found, key=_SORTS[order.column], reverse=order.reverse)


def plain(found: list[Row]) -> str:
    """A table for a file or a pipe."""
    header = [heading for heading, _, _, _ in _COLUMNS] + ["PIDS"]
    return show_table(header, [[*(value(row) for _, _, _, value in _COLUMNS), str(row.processes)] for row in found])


def picture(now: Reading, before: Reading, order: Order, height: int, width: int) -> list[str]:
    """The screen's lines: totals, headings, zones, keys; none is wider than the screen."""
    from zonal.cli.screen import BOLD, PLAIN, REVERSE

    found = sort_rows(rows(now, before), order)
    room = max(1, height - 3)
    order.first = max(0, min(order.first, len(found) - room))
    shown = found[order.first : order.first + room]
    info = now.info
    clock = time.strftime("%H:%M:%S", time.localtime(now.time_ns / 1e9))
    running = sum(row.state == "running" for row in found)
    total = (
        f"{clock}  {len(found)} zones, {running} running  CPU {sum(row.cpu_percent for row in found):.0f}% of "
        f"{info.cpus * 100}%  memory {short_size(info.free_bytes)} free of {short_size(info.memory_bytes)}"
    )
    name_width = max(8, min(width - sum(size + 1 for _, _, size, _ in _COLUMNS[1:]), 63))
    lines = [f"{BOLD}{shorten(total, width)}{PLAIN}"]
    by = next(heading for heading, column, _, _ in _COLUMNS if column == order.column)
    headings = [
        _cell(heading + ("*" if heading == by else ""), heading, size or name_width) for heading, _, size, _ in _COLUMNS
    ]
    lines.append(f"{REVERSE}{' '.join(headings)[:width].ljust(width)}{PLAIN}")
    for row in shown:
        cells = [_cell(printable(value(row)), heading, size or name_width) for heading, _, size, value in _COLUMNS]
        lines.append(" ".join(cells)[:width])
    lines += [""] * (height - 1 - len(lines))
    more = f"{order.first + 1}-{order.first + len(shown)} of {len(found)}  " if len(shown) < len(found) else ""
    lines.append(shorten(f"{more}{_KEYS}", width))
    return lines[:height]


def short_size(size: float) -> str:
    """A size in bytes in at most five characters."""
    if size < 1000:
        return f"{size:.0f}"
    for unit in "KMGTP":
        size /= 1024
        if size < 9.95:
            return f"{size:.1f}{unit}"
        if size < 999.5:
            return f"{size:.0f}{unit}"
    return "many"


def short_time(nanoseconds: int) -> str:
    """A duration in at most six characters."""
    seconds = nanoseconds // 1_000_000_000
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    if seconds < 86400:
        return f"{seconds // 3600}h{seconds // 60 % 60:02d}m"
    return f"{seconds // 86400}d{seconds // 3600 % 24:02d}h" if seconds < 86400 * 100 else f"{seconds // 86400}d"


def _cell(text: str, heading: str, width: int) -> str:
    text = shorten(text.replace("\n", " "), width)
    return text.ljust(width) if heading in _LEFT else text.rjust(width)
