from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.cli.conftest import Zonal
from zonal.api import control_pb2 as pb
from zonal.cli.timeline import Bar, Mark, Timeline, telling, text, timeline_of
from zonal.cli.timeline_picture import WIDTH, escaped, picture, ticks
from zonal.errors import WrongStateError

MS = 1_000_000
SVG = "{http://www.w3.org/2000/svg}"


def drawn(*said: str, end_ns: int = 900 * MS) -> Timeline:
    bars = [Bar("prepare", 0, 10 * MS), Bar("kernel", 10 * MS, 600 * MS), Bar("container", 600 * MS, end_ns)]
    kernel = [Mark((20 + 5 * number) * MS, line) for number, line in enumerate(said)]
    return Timeline("zone <&>: debian:13", bars, [Mark(610 * MS, "mounted")], kernel, end_ns)


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter(f"{SVG}text")]


@given(st.lists(st.text(), max_size=40), st.integers(1, 10**13))
def test_whatever_a_zone_says_the_picture_is_xml_with_its_text_and_nothing_else(said: list[str], end_ns: int) -> None:
    svg = picture(drawn(*said, end_ns=end_ns))
    root = ET.fromstring(svg)
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
        "svg",
        "title",
        "style",
        "rect",
        "text",
        "line",
    }
    for element in root.iter(f"{SVG}rect"):
        assert 0 <= float(element.get("x", "0")) + float(element.get("width", "0")) <= WIDTH + 2


def test_markup_is_text() -> None:
    svg = picture(drawn("</text><script>alert(1)</script>", "a\x1b[31m\u202e\ufffe\x00b"))
    assert "</text><script>alert(1)</script>" in texts(svg)
    assert "a\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}" in "".join(texts(svg))
    assert escaped("\"'&") == "&quot;&#39;&amp;"


def test_what_is_told_is_in_the_picture() -> None:
    found = texts(picture(drawn("Linux version 6.12", "Run /init as init process")))
    for wanted in (
        "prepare",
        "kernel",
        "container",
        "590 ms",
        "mounted",
        "Run /init as init process",
        "zone <&>: debian:13",
    ):
        assert wanted in found
    assert "prefers-color-scheme: dark" in picture(drawn())


def test_of_many_lines_those_are_shown_that_time_passed_between() -> None:
    marks = [Mark(number * MS, str(number)) for number in range(100)]
    late = [Mark(500 * MS + number, f"late {number}") for number in range(100)]
    chosen = telling([*marks, *late], 10)
    assert len(chosen) <= 10
    names = [mark.text for mark in chosen]
    assert {"0", "99", "late 0"} <= set(names)
    assert telling(marks[:5], 10) == marks[:5]
    assert "200 lines" in "".join(texts(picture(drawn(*map(str, range(200))))))


@pytest.mark.parametrize(("end_ns", "step"), [(900 * MS, 100 * MS), (1500 * MS, 200 * MS), (12_000 * MS, 2000 * MS)])
def test_ticks_are_round(end_ns: int, step: int) -> None:
    found = ticks(end_ns)
    assert found[1] == step
    assert len(found) <= 11
    assert found[-1] <= end_ns


def test_the_start_alone_is_shown() -> None:
    reply = pb.ZoneTimelineReply(
        zone=pb.Zone(name="z", image="debian:13", memory_bytes=1 << 28, cpus=1),
        phases=[
            pb.Phase(name="prepare", begin_ns=0, end_ns=5),
            pb.Phase(name="container", begin_ns=5, end_ns=9),
            pb.Phase(name="run", begin_ns=9, end_ns=10**12),
        ],
        kernel=[pb.BootStep(time_ns=time, text=str(time)) for time in (-5, 3, 10)],
    )
    found = timeline_of(reply)
    assert ([bar.name for bar in found.bars], found.end_ns) == (["prepare", "container"], 9)
    assert [mark.text for mark in found.kernel] == ["3"]
    assert "container" in text(found)
    with pytest.raises(WrongStateError):
        timeline_of(pb.ZoneTimelineReply(zone=reply.zone))


def test_the_command(zonal: Zonal, tmp_path: Path) -> None:
    zonal("run", "-d", "--name", "timed", "local:1", "sleep", "100")
    table = zonal("zone", "timeline", "timed").stdout.decode()
    assert "launch" in table
    assert "Linux version 6.12 <script>" in table
    path = tmp_path / "boot.svg"
    assert zonal("zone", "timeline", "timed", "-o", str(path)).returncode == 0
    assert "Linux version 6.12 <script>" in texts(path.read_text())
    assert zonal("zone", "timeline", "timed", "-o", "-").stdout == path.read_bytes()
    told = json.loads(zonal("zone", "timeline", "timed", "--json").stdout)
    assert (told["name"], told["from_console"], told["steps"][1]["text"]) == ("timed", True, "mounted")
    assert zonal("zone", "timeline", "timed", "-o", "boot.png").returncode == 125
    assert zonal("zone", "timeline", "timed", "-o", str(tmp_path / "no/boot.svg")).returncode == 125
    zonal("rm", "-f", "timed")
    assert zonal("zone", "timeline", "timed").returncode == 125
