"""Small line charts side by side: SVG 1.1, without scripts or anything from elsewhere, fit for light and dark pages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 960
COLUMNS = 3
_HEIGHT, _HEAD, _GAP = 190, 44, 16
_LEFT, _RIGHT, _ABOVE, _BELOW = 52, 14, 34, 26
"""Room around the lines of one chart."""
_COLOURS = ("#4e79a7", "#e15759", "#59a14f")
_MOST_TICKS = 4
_STYLE = """
  .paper { fill: #ffffff } .ink { fill: #1f2328 } .faint { fill: #59636e } .grid { stroke: #d1d9e0 }
  text { font: 11px ui-sans-serif, system-ui, sans-serif }
  .title { font-size: 14px; font-weight: 600 } .name { font-size: 12px; font-weight: 600 }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #0d1117 } .ink { fill: #e6edf3 } .faint { fill: #9198a1 } .grid { stroke: #3d444d }
  }
"""

Line = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """Both axes begin at 0 and are linear: what grows faster than in proportion bends upwards."""

    title: str
    unit: str
    lines: Mapping[str, Line]
    """By name."""


def chart_sheet(title: str, charts: Sequence[Chart]) -> str:
    """The whole file."""
    rows = -(-len(charts) // COLUMNS)
    height = _HEAD + rows * (_HEIGHT + _GAP)
    width = (WIDTH - _GAP * (COLUMNS + 1)) / COLUMNS
    view = f'viewBox="0 0 {WIDTH} {height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{WIDTH}" height="{height}" {view}>',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{height}" rx="6"/>',
        f'<text class="ink title" x="{_GAP}" y="27">{escape(title)}</text>',
    ]
    for index, chart in enumerate(charts):
        row, column = divmod(index, COLUMNS)
        x, y = _GAP + column * (width + _GAP), _HEAD + row * (_HEIGHT + _GAP)
        parts += [f'<g transform="translate({x:.1f} {y})">', *_chart(chart, width), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def ticks(most: float) -> list[float]:
    """From 0 to the first that is not below ``most``: at most four steps of 1, 2 or 5 times a power of ten."""
    step, power = 1.0, 0.001
    while True:
        for factor in (1, 2, 5):
            step = factor * power
            if most <= step * _MOST_TICKS:
                return [round(step * number, 6) for number in range(max(1, -int(-most // step)) + 1)]
        power *= 10


def _chart(chart: Chart, width: float) -> Iterator[str]:
    points = [point for line in chart.lines.values() for point in line]
    across, up = ticks(max(x for x, _ in points)), ticks(max(y for _, y in points))
    bottom = _HEIGHT - _BELOW

    def place(x: float, y: float) -> tuple[float, float]:
        right = _LEFT + (width - _LEFT - _RIGHT) * x / across[-1]
        return round(right, 1), round(bottom - (bottom - _ABOVE) * y / up[-1], 1)

    heading = f"{chart.title}, {chart.unit}" if chart.unit else chart.title
    yield f'<text class="ink name" x="0" y="14">{escape(heading)}</text>'
    for tick in up:
        _, y = place(0, tick)
        yield f'<line class="grid" x1="{_LEFT}" y1="{y}" x2="{width - _RIGHT:.1f}" y2="{y}"/>'
        yield f'<text class="faint" x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{tick:,g}</text>'
    for tick in across:
        x, _ = place(tick, 0)
        yield f'<text class="faint" x="{x}" y="{bottom + 16}" text-anchor="middle">{tick:,g}</text>'
    for colour, (name, line) in zip(_COLOURS, chart.lines.items(), strict=False):
        path = " ".join(f"{x},{y}" for x, y in (place(*point) for point in line))
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"><title>{escape(name)}</title>'
        yield "</polyline>"
        for point in line:
            x, y = place(*point)
            shown = f"{point[0]:,g}: {point[1]:,g} {chart.unit}"
            yield f'<circle cx="{x}" cy="{y}" r="2.5" fill="{colour}"><title>{escape(shown.strip())}</title></circle>'
