"""The simulation in small: the stand-in machine and its zones are held to zonald's own code."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.simulation.figures import measure
from benchmarks.simulation.pods import measure_pods
from benchmarks.simulation.zonald import Zonald, simulated


@pytest.fixture
def zonald() -> Iterator[Zonald]:
    with tempfile.TemporaryDirectory(prefix="zonal-") as folder, simulated(Path(folder)) as made:
        yield made


def test_zones_start_are_seen_survive_a_kill_and_end(zonald: Zonald) -> None:
    ids = [zonald.run() for _ in range(3)]
    assert {zone.id for zone in zonald.list()} == set(ids)
    zonald.again(3)
    assert {zone.domain_id for zone in zonald.list()} == {1, 2, 3}
    assert zonald.logs(ids[0]) == b"a stand-in works\n"
    assert zonald.scrape().count(b"zonal_zone_channel_up{") == 3
    at_three = zonald.descriptors()
    for zone in ids[1:]:
        zonald.remove(zone)
    assert [zone.id for zone in zonald.list()] == ids[:1]
    assert zonald.descriptors() < at_three


def test_everything_is_measured(zonald: Zonald) -> None:
    points = measure(zonald, (1, 2), lambda _: None, idle_seconds=0.1)
    assert [point.zones for point in points] == [1, 2]
    assert all(min(point.start_ms, point.end_ms, point.list_ms, point.scrape_ms) > 0 for point in points)
    assert points[1].descriptors > points[0].descriptors
    assert all(point.taken_back_s >= point.answers_s / 2 for point in points)


def test_pods_that_are_removed_leave_nothing(zonald: Zonald) -> None:
    early, late = measure_pods(zonald, (5, 25), lambda _: None)
    assert zonald.list() == []
    assert (late.descriptors, late.files) == (early.descriptors, early.files)
    assert late.threads <= early.threads + 2
    assert late.mappings <= early.mappings + 8
    assert late.resident_mib <= early.resident_mib + 2
