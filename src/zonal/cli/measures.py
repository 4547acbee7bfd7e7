"""``zonal stats`` and ``zonal top``: what zones use, and what runs in them."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from zonal.cli.connect import host_option, lab_option, zonald
from zonal.cli.format import show_size, show_table
from zonal.cli.live import SORTS, show_live
from zonal.errors import InvalidInputError

if TYPE_CHECKING:
    from zonal.api import control_pb2 as pb

_INTERVAL = 1.0
_CLEAR = "\x1b[H\x1b[2J"
_STANDARD = ("uid", "pid", "ppid", "c", "stime", "tty", "time", "cmd")
_DETAILED = ("user", "pid", "%cpu", "vsz", "rss", "tty", "stat", "start", "time", "command")


@click.command("stats")
@click.option("--no-stream", is_flag=True, help="Once, not again and again.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--no-trunc", is_flag=True, help="Whole ids.")
@click.argument("zones", nargs=-1, metavar="[ZONE]…")
@host_option
@lab_option
def stats(
    no_stream: bool, as_json: bool, no_trunc: bool, zones: tuple[str, ...], host: str | None, lab: str | None
) -> None:
    """Show what zones use of CPU, memory, network and disks; all that run, if none is named."""
    from zonal.api import control_pb2 as pb

    request = pb.ZoneStatsRequest(zones=zones)
    with zonald(host, lab) as control:
        before: dict[str, pb.ZoneStats] = {}
        while True:
            now = {each.id: each for each in control.call("ZoneStats", request, pb.ZoneStatsReply).stats}
            if before or not now:
                documents = [_document(each, before.get(each.id)) for each in now.values()]
                _show(documents, as_json=as_json, whole=no_trunc, again=not no_stream)
                if no_stream:
                    return
            before = now
            time.sleep(_INTERVAL)


def _document(now: pb.ZoneStats, before: pb.ZoneStats | None) -> dict[str, str | int | float]:
    passed = now.time_ns - before.time_ns if before else 0
    cpu = (now.cpu_time_ns - before.cpu_time_ns) / passed * 100 if before and passed > 0 else 0.0
    return {
        "id": now.id,
        "name": now.name,
        "cpu_percent": round(max(0.0, cpu), 2),
        "cpu_time_ns": now.cpu_time_ns,
        "memory_bytes": now.memory_bytes,
        "memory_limit_bytes": now.memory_limit_bytes,
        "memory_percent": round(now.memory_bytes / max(1, now.memory_limit_bytes) * 100, 2),
        "net_received_bytes": now.net_received_bytes,
        "net_sent_bytes": now.net_sent_bytes,
        "block_read_bytes": now.block_read_bytes,
        "block_written_bytes": now.block_written_bytes,
        "processes": now.processes,
    }


def _show(documents: list[dict[str, str | int | float]], *, as_json: bool, whole: bool, again: bool) -> None:
    if as_json:
        for document in documents:
            click.echo(json.dumps(document, ensure_ascii=False))
        sys.stdout.flush()
        return

    def size(document: dict[str, str | int | float], key: str) -> str:
        return show_size(int(document[key]))

    header = ["ID", "NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET I/O", "BLOCK I/O", "PIDS"]
    rows = [
        [
            str(each["id"])[: 64 if whole else 12],
            str(each["name"]),
            f"{each['cpu_percent']:.2f}%",
            f"{size(each, 'memory_bytes')} / {size(each, 'memory_limit_bytes')}",
            f"{each['memory_percent']:.2f}%",
            f"{size(each, 'net_received_bytes')} / {size(each, 'net_sent_bytes')}",
            f"{size(each, 'block_read_bytes')} / {size(each, 'block_written_bytes')}",
            str(each["processes"]),
        ]
        for each in documents
    ]
    click.echo((_CLEAR if again and sys.stdout.isatty() else "") + show_table(header, rows))


@click.command("top", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--once", is_flag=True, help="Without ZONE: one plain table.")
@click.option(
    "-d", "--delay", type=click.FloatRange(0.2, 3600), default=2.0, help="Without ZONE: seconds; 2 by default."
)
@click.option("--sort", type=click.Choice(SORTS), default="cpu", help="Without ZONE: what comes first.")
@host_option
@lab_option
@click.argument("ref", metavar="[ZONE", required=False)
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[PS OPTION]…]")
def top(
    once: bool, delay: float, sort: str, host: str | None, lab: str | None, ref: str | None, options: tuple[str, ...]
) -> int:
    """Show all zones live, or list the processes of one.

    Live: CPU, memory, network and disks a second; q ends it, and its last line has the keys. Where the output is no
    terminal, it is one plain table. With ZONE: the processes of its container, as ps shows them with -ef (so by
    default), aux, or -o COLUMN,….
    """
    from zonal.api import control_pb2 as pb

    if ref is None:
        with zonald(host, lab) as control:
            return show_live(control, once=once, interval=delay, column=sort)
    columns = wanted_columns(options)
    with zonald(host, lab) as control:
        found = control.call("ZoneProcesses", pb.ZoneRef(zone=ref), pb.ZoneProcessesReply).processes
    rows = [[_COLUMNS[column](each) for column in columns] for each in found]
    click.echo(show_table([column.upper() for column in columns], rows))
    return 0


def wanted_columns(options: tuple[str, ...]) -> tuple[str, ...]:
    """Which columns ps(1) would show. Raises ``InvalidInputError`` for what it is not asked for here."""
    text = " ".join(options)
    if re.fullmatch(r"(-e|-f|-ef|-fe|ax)?", text):
        return _STANDARD
    if re.fullmatch(r"-?aux", text):
        return _DETAILED
    match = re.fullmatch(r"(?:-e |-A |ax |-a?x )?-?(?:e|ax)?o[ =]?([a-z%,]+)", text)
    columns = tuple(match[1].split(",")) if match else ()
    unknown = [column for column in columns if column not in _COLUMNS]
    if not columns or unknown:
        raise InvalidInputError(
            f"{' '.join(unknown) or text!r} is nothing that top can show",
            hint=f"-ef, aux, or -o with some of {','.join(_COLUMNS)}",
        )
    return columns


def _user(process: pb.Process) -> str:
    return "root" if process.uid == 0 else str(process.uid)


def _load(process: pb.Process) -> float:
    alive = max(1, time.time_ns() - process.started_ns)
    return min(process.cpu_ns / alive * 100, 99.9 * 64)


def _time(process: pb.Process) -> str:
    seconds = process.cpu_ns // 1_000_000_000
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _started(process: pb.Process) -> str:
    moment = time.localtime(process.started_ns / 1e9)
    same_day = moment[:3] == time.localtime()[:3]
    return time.strftime("%H:%M" if same_day else "%b%d", moment)


def _elapsed(process: pb.Process) -> str:
    seconds = max(0, time.time_ns() - process.started_ns) // 1_000_000_000
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


_COLUMNS: dict[str, Callable[[pb.Process], str]] = {
    "uid": _user,
    "user": _user,
    "pid": lambda process: str(process.pid),
    "ppid": lambda process: str(process.parent),
    "c": lambda process: str(int(_load(process))),
    "pcpu": lambda process: f"{_load(process):.1f}",
    "%cpu": lambda process: f"{_load(process):.1f}",
    "stime": _started,
    "start": _started,
    "etime": _elapsed,
    "tty": lambda process: process.terminal or "?",
    "tt": lambda process: process.terminal or "?",
    "time": _time,
    "cputime": _time,
    "stat": lambda process: process.state,
    "s": lambda process: process.state,
    "vsz": lambda process: str(process.virtual_bytes // 1024),
    "rss": lambda process: str(process.resident_bytes // 1024),
    "comm": lambda process: process.name,
    "ucmd": lambda process: process.name,
    "cmd": lambda process: process.command,
    "args": lambda process: process.command,
    "command": lambda process: process.command,
}
