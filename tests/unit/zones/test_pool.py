"""What a pool of booted zones is to hold, and which of them fits."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import pytest

from zonal.errors import InvalidInputError
from zonal.zones.pool import WarmMachine
from zonal.zones.pool_file import load_plan, save_plan
from zonal.zones.pool_plan import MAX_COUNT, PoolPlan, PoolSize, check_plan
from zonal.zones.resources import MIB, Resources

SMALL, ELASTIC = Resources(memory=128 * MIB), Resources(memory=256 * MIB, memory_max=1024 * MIB, cpus=2)


def warm(size: Resources) -> WarmMachine:
    nothing = cast("Any", None)
    return WarmMachine(nothing, AsyncExitStack(), nothing, nothing, size, Path())


@pytest.mark.parametrize(
    ("size", "wanted", "fits"),
    [
        (SMALL, Resources(memory=128 * MIB), True),
        (SMALL, Resources(memory=64 * MIB), True),
        (SMALL, Resources(memory=129 * MIB), False),
        (SMALL, Resources(memory=128 * MIB, cpus=2), False),
        (SMALL, Resources(memory=64 * MIB, memory_max=128 * MIB), False),
        (ELASTIC, Resources(memory=512 * MIB), True),
        (ELASTIC, Resources(memory=256 * MIB, memory_max=1024 * MIB), True),
        (ELASTIC, Resources(memory=256 * MIB, memory_max=2048 * MIB), False),
        (ELASTIC, Resources(memory=64 * MIB), False),
        (ELASTIC, Resources(memory=256 * MIB, cpus_max=3), False),
    ],
)
def test_what_fits(size: Resources, wanted: Resources, fits: bool) -> None:
    assert warm(size).fits(wanted) is fits


def test_the_nearest_is_the_one_of_the_same_size() -> None:
    sizes = [warm(Resources(memory=size * MIB)) for size in (256, 192, 128)]
    nearest = min(sizes, key=lambda each: each.distance(Resources(memory=192 * MIB)))
    assert nearest.size.memory == 192 * MIB


def test_a_plan_is_kept(tmp_path: Path) -> None:
    plan = PoolPlan((PoolSize(SMALL, 2), PoolSize(ELASTIC, 1)), 2048 * MIB)
    assert load_plan(tmp_path / "pool.json") == PoolPlan()
    save_plan(tmp_path / "pool.json", plan)
    assert load_plan(tmp_path / "pool.json") == plan
    assert [path.name for path in tmp_path.iterdir()] == ["pool.json"]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"sizes": 3, "budget": 0}', '{"sizes": [{"count": 1}], "budget": 0}', '{"sizes": []}', "\x00"],
)
def test_a_plan_that_makes_no_sense_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "pool.json").write_text(text)
    assert load_plan(tmp_path / "pool.json") == PoolPlan()


def test_a_plan_of_too_much_memory_is_none(tmp_path: Path) -> None:
    sizes = [{"resources": {"memory": 1 << 60}, "count": 1}]
    (tmp_path / "pool.json").write_text(json.dumps({"sizes": sizes, "budget": 0}))
    assert load_plan(tmp_path / "pool.json") == PoolPlan()


@pytest.mark.parametrize(
    "plan",
    [
        PoolPlan((PoolSize(SMALL, 0),)),
        PoolPlan((PoolSize(SMALL, MAX_COUNT + 1),)),
        PoolPlan((PoolSize(SMALL, 2),), 255 * MIB),
    ],
)
def test_a_plan_that_cannot_be(plan: PoolPlan) -> None:
    with pytest.raises(InvalidInputError):
        check_plan(plan)
