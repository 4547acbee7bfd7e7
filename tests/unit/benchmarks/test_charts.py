from __future__ import annotations

from xml.etree import ElementTree

import pytest
from benchmarks.charts import Chart, chart_sheet, ticks


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (0.0, [0, 0.001]),
        (1.0, [0, 0.5, 1]),
        (4.2, [0, 2, 4, 6]),
        (2000, [0, 500, 1000, 1500, 2000]),
        (2001, [0, 1000, 2000, 3000]),
    ],
)
def test_ticks_are_few_and_round_and_reach_the_most(most: float, expected: list[float]) -> None:
    assert ticks(most) == expected


def test_a_sheet_is_xml_with_every_point_in_it() -> None:
    lines = {"a & b": [(1, 2.0), (10, 3.0)], "c": [(1, 0.0), (10, 0.0)]}
    sheet = ElementTree.fromstring(chart_sheet("<all>", [Chart("one", "ms", lines), Chart("two", "", lines)]))
    svg = "{http://www.w3.org/2000/svg}"
    assert len(list(sheet.iter(f"{svg}polyline"))) == 4
    assert len(list(sheet.iter(f"{svg}circle"))) == 8
    assert sheet.findtext(f"{svg}title") == "<all>"
