"""``zonal zone timeline``: how a zone came up, as a table, as a picture, or as JSON."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zonal.cli.connect import host_option, lab_option, zonald
from zonal.cli.errors import printable
from zonal.cli.format import show_table
from zonal.errors import InvalidInputError, WrongStateError

if TYPE_CHECKING:
    from zonal.api import control_pb2 as pb

_AFTER_START = frozenset({"run", "workload"})
"""The phase with which the start is over."""
_BAR = 40
"""Characters of the longest bar."""
_SHOWN_LINES = 40


@dataclass(frozen=True)
class Bar:
    """A stretch of time, in ns since the request."""

    name: str
    begin_ns: int
    end_ns: int


@dataclass(frozen=True)
class Mark:
    """A moment, in ns since the request."""

    time_ns: int
    text: str


@dataclass(frozen=True)
class Timeline:
    """What is drawn: the start of one zone."""

    title: str
    bars: Sequence[Bar]
    steps: Sequence[Mark]
    """Of its agent."""
    kernel: Sequence[Mark]
    """Lines of its kernel."""
    end_ns: int
    note: str = ""


@click.command("timeline")
@click.option("-o", "--output", metavar="FILE.svg", help="Draw it; - is standard output.")
@click.option("--json", "as_json", is_flag=True, help="All that is known, as JSON.")
@click.argument("ref", metavar="ZONE")
@host_option
@lab_option
def timeline(output: str | None, as_json: bool, ref: str, host: str | None, lab: str | None) -> None:
    """Show how a zone came up: zonald's phases, its agent's steps, what its kernel said."""
    from zonal.api import control_pb2 as pb

    if output is not None and output != "-" and Path(output).suffix.lower() != ".svg":
        raise InvalidInputError(f"{output!r} does not end with .svg, and pictures are SVG", hint="such as -o boot.svg")
    with zonald(host, lab) as control:
        reply = control.call("ZoneTimeline", pb.ZoneRef(zone=ref), pb.ZoneTimelineReply)
    if as_json:
        from zonal.cli.documents import pretty

        click.echo(pretty(_document(reply)))
        return
    drawn = timeline_of(reply)
    if output is None:
        click.echo(text(drawn))
        return
    from zonal.cli.timeline_picture import picture

    svg = picture(drawn)
    if output == "-":
        sys.stdout.write(svg)
    else:
        try:
            Path(output).write_text(svg, encoding="utf-8")
        except OSError as error:
            raise InvalidInputError(f"{output} cannot be written: {error.strerror}") from error
        click.echo(output)


def timeline_of(reply: pb.ZoneTimelineReply) -> Timeline:
    """The start out of what zonald tells. Raises ``WrongStateError`` when there was none as yet."""
    bars: list[Bar] = []
    for phase in reply.phases:
        if phase.name in _AFTER_START:
            break
        bars.append(Bar(phase.name, phase.begin_ns, phase.end_ns))
    zone = reply.zone
    if not bars:
        raise WrongStateError(f"zone {zone.name} has not come up, so there is nothing to show")
    end_ns = max(bar.end_ns for bar in bars)
    kernel = [Mark(each.time_ns, each.text) for each in reply.kernel if 0 <= each.time_ns <= end_ns]
    steps = [Mark(each.time_ns, each.text) for each in reply.steps if 0 <= each.time_ns <= end_ns]
    about = f"{zone.name}: {zone.image}, {zone.memory_bytes >> 20} MiB, {zone.cpus} CPU, Linux {zone.kernel_release}"
    note = "The kernel's lines are those on its console, which is quiet" if reply.from_console else ""
    return Timeline(about, bars, steps, kernel, end_ns, note)


def telling(marks: Sequence[Mark], most: int) -> list[Mark]:
    """At most so many, in order: the first, and those before which, or after which, nothing was said for longest."""
    if len(marks) <= most:
        return list(marks)
    gaps = sorted(range(1, len(marks)), key=lambda at: marks[at - 1].time_ns - marks[at].time_ns)
    chosen = {0}
    for at in gaps:
        if len(chosen | {at - 1, at}) > most:
            break
        chosen |= {at - 1, at}
    return [marks[at] for at in sorted(chosen)]


def text(drawn: Timeline) -> str:
    """For a terminal."""
    scale = _BAR / max(1, drawn.end_ns)
    rows = [
        [
            bar.name,
            f"{bar.begin_ns / 1e6:.1f}",
            f"{(bar.end_ns - bar.begin_ns) / 1e6:.1f}",
            " " * int(bar.begin_ns * scale) + "━" * max(1, round((bar.end_ns - bar.begin_ns) * scale)),
        ]
        for bar in drawn.bars
    ]
    lines = [printable(drawn.title), "", show_table(["PHASE", "BEGIN MS", "LENGTH MS", ""], rows)]
    marks = [
        *((mark, "agent") for mark in drawn.steps),
        *((mark, "kernel") for mark in telling(drawn.kernel, _SHOWN_LINES)),
    ]
    if marks:
        marks.sort(key=lambda each: each[0].time_ns)
        lines += ["", show_table(["MS", "WHO", "WHAT"], [[f"{m.time_ns / 1e6:.1f}", who, m.text] for m, who in marks])]
    return "\n".join([*lines, *([drawn.note] if drawn.note else [])])


def _document(reply: pb.ZoneTimelineReply) -> dict[str, object]:
    return {
        "id": reply.zone.id,
        "name": reply.zone.name,
        "phases": [{"name": p.name, "begin_ns": p.begin_ns, "end_ns": p.end_ns} for p in reply.phases],
        "steps": [{"time_ns": s.time_ns, "text": s.text} for s in reply.steps],
        "kernel": [{"time_ns": s.time_ns, "text": s.text} for s in reply.kernel],
        "from_console": reply.from_console,
    }
