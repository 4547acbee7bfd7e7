"""A zone's start as a picture: SVG 1.1, without scripts or anything from elsewhere, fit for light and dark pages.

What a zone says goes into it as escaped text, and as nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from zonal.cli.timeline import Mark, Timeline, telling

WIDTH = 960
_LEFT, _RIGHT = 110, 24
_TOP = 64
_ROW, _LINE = 26, 15
_MAX_LINES = 32
_CHARACTER = 6.3
"""Width of a character of the small font, in pixels."""
_MOST_TICKS = 10
_COLOURS = ("#4e79a7", "#b07aa1", "#f28e2b", "#59a14f", "#e15759", "#76b7b2")
_STYLE = """
  .paper { fill: #ffffff } .ink { fill: #1f2328 } .faint { fill: #59636e } .grid { stroke: #d1d9e0 }
  .mark { stroke: #59636e }
  text { font: 12px ui-sans-serif, system-ui, sans-serif }
  .title { font-size: 14px; font-weight: 600 } .small { font: 10.5px ui-monospace, monospace }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #0d1117 } .ink { fill: #e6edf3 } .faint { fill: #9198a1 } .grid { stroke: #3d444d }
    .mark { stroke: #9198a1 }
  }
"""


def picture(drawn: Timeline) -> str:
    """The whole file."""
    kernel, steps = telling(drawn.kernel, _MAX_LINES), drawn.steps
    below = _TOP + _ROW * len(drawn.bars) + 8
    height = below + _section_height(steps) + _section_height(kernel) + (24 if drawn.note else 8)
    left_out = len(drawn.kernel) - len(kernel)
    heading = f"kernel, {len(kernel)} of {len(drawn.kernel)} lines" if left_out else "kernel"
    view = f'viewBox="0 0 {WIDTH} {height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{WIDTH}" height="{height}" {view}>',
        f"<title>{escaped(drawn.title)}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{height}" rx="6"/>',
        f'<text class="ink title" x="16" y="26">{escaped(_cut(drawn.title, 112))}</text>',
        f'<text class="ink" x="{WIDTH - _RIGHT}" y="26" text-anchor="end">{_time(drawn.end_ns)}</text>',
        *_grid(drawn.end_ns, height - (24 if drawn.note else 8)),
        *_bars(drawn),
        *_section("agent", steps, below, drawn.end_ns),
        *_section(heading, kernel, below + _section_height(steps), drawn.end_ns),
    ]
    if drawn.note:
        parts.append(f'<text class="faint" x="16" y="{height - 9}">{escaped(drawn.note)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def ticks(end_ns: int) -> list[int]:
    """Round times for the axis, from 0 on: at most ten steps of 1, 2 or 5 times a power of ten."""
    step = 1000
    while end_ns > step * _MOST_TICKS:
        digits = int(str(step)[0])
        step = step * 5 // 2 if digits == 2 else step * 2
    return list(range(0, end_ns + 1, step))


def escaped(text: str) -> str:
    """Text for XML 1.0: markup escaped, and nothing in it that cannot be seen."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("'", "&#39;")):
        shown = shown.replace(character, entity)
    return shown


def _x(time_ns: int, end_ns: int) -> float:
    return round(_LEFT + (WIDTH - _LEFT - _RIGHT) * min(max(time_ns, 0), end_ns) / max(1, end_ns), 1)


def _grid(end_ns: int, bottom: int) -> Iterator[str]:
    for tick in ticks(end_ns):
        x = _x(tick, end_ns)
        yield f'<line class="grid" x1="{x}" y1="{_TOP - 8}" x2="{x}" y2="{bottom}"/>'
        yield f'<text class="faint" x="{x}" y="{_TOP - 14}" text-anchor="middle">{_time(tick)}</text>'


def _bars(drawn: Timeline) -> Iterator[str]:
    for row, bar in enumerate(drawn.bars):
        y = _TOP + row * _ROW
        begin, end = _x(bar.begin_ns, drawn.end_ns), _x(bar.end_ns, drawn.end_ns)
        length = _time(bar.end_ns - bar.begin_ns)
        name = escaped(_cut(bar.name, 14))
        yield f'<text class="ink" x="16" y="{y + 15}">{name}</text>'
        yield (
            f'<rect x="{begin}" y="{y + 2}" width="{max(1.5, round(end - begin, 1))}" height="{_ROW - 8}" rx="2" '
            f'fill="{_COLOURS[row % len(_COLOURS)]}"><title>{name}: {length}</title></rect>'
        )
        # Beside the bar, on the side with room: on it, no one colour could be read in both schemes.
        if end < WIDTH - 110:
            yield f'<text class="faint" x="{end + 5}" y="{y + 15}">{length}</text>'
        else:
            yield f'<text class="faint" x="{begin - 5}" y="{y + 15}" text-anchor="end">{length}</text>'


def _section_height(marks: Sequence[Mark]) -> int:
    return 26 + _LINE * len(marks) if marks else 0


def _section(name: str, marks: Sequence[Mark], top: int, end_ns: int) -> Iterator[str]:
    if not marks:
        return
    yield f'<text class="ink" x="16" y="{top + 14}">{escaped(name)}</text>'
    for row, mark in enumerate(marks):
        y, x = top + 20 + row * _LINE, _x(mark.time_ns, end_ns)
        yield f'<line class="mark" x1="{x}" y1="{y + 1}" x2="{x}" y2="{y + _LINE - 2}" stroke-width="2"/>'
        yield f'<text class="faint small" x="16" y="{y + 11}">{_time(mark.time_ns)}</text>'
        # Where there is more room.
        right = x < (WIDTH + _LEFT) / 2
        room = (WIDTH - _RIGHT - x if right else x - _LEFT) - 8
        text = escaped(_cut(mark.text, int(room / _CHARACTER)))
        place = f'x="{round(x + 6, 1)}"' if right else f'x="{round(x - 6, 1)}" text-anchor="end"'
        yield f'<text class="ink small" {place} y="{y + 11}">{text}</text>'


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def _time(nanoseconds: int) -> str:
    if not nanoseconds:
        return "0"
    if nanoseconds >= 10_000_000_000:
        return f"{nanoseconds / 1e9:.1f} s"
    if nanoseconds >= 1_000_000_000:
        return f"{nanoseconds / 1e9:.2f} s"
    return f"{nanoseconds / 1e6:.0f} ms" if nanoseconds >= 10_000_000 else f"{nanoseconds / 1e6:.1f} ms"
