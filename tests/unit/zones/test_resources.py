"""What zones may have: values that cannot be, promises of memory, and the policy that moves it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zonal.agent.protocol.frames import ProtocolError
from zonal.errors import InvalidInputError
from zonal.xen.scheduling import Share
from zonal.zones.balloon import PATIENCE_NS, Reading, headroom, next_target
from zonal.zones.host_memory import Promises
from zonal.zones.memory_report import parse_memory_report
from zonal.zones.resources import (
    MIB,
    ResourceChange,
    Resources,
    check_cpuset,
    check_resources,
    parse_cpuset,
)
from zonal.zones.spec import ZoneRecord, ZoneSpec, ZoneState
from zonal.zones.state import decode_record, encode_record


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (Resources(memory=0), "too little"),
        (Resources(memory=-1), "too little"),
        (Resources(memory=1 << 41), "more than a zone can have"),
        (Resources(memory_max=1), "too little"),
        (Resources(memory=512 * MIB, memory_max=256 * MIB), "are less than"),
        (Resources(memory=100 * MIB, memory_max=1001 * MIB), "no zone can grow"),
        (Resources(cpus=0), "0 CPUs"),
        (Resources(cpus=-3), "-3 CPUs"),
        (Resources(cpus=65), "65 CPUs"),
        (Resources(cpus_max=65), "65 CPUs"),
        (Resources(cpus=3, cpus_max=2), "are less than"),
        (Resources(cpu_weight=0), "weight"),
        (Resources(cpu_weight=65536), "weight"),
        (Resources(cpu_cap=-1), "capped"),
        (Resources(cpu_cap=6401), "capped"),
        (Resources(cpuset="all"), "list of CPUs"),
        (Resources(cpuset="3-1"), "list of CPUs"),
        (Resources(cpuset="1,"), "list of CPUs"),
        (Resources(cpuset="0-99999"), "list of CPUs"),
        (Resources(cpuset="٣"), "list of CPUs"),
    ],
)
def test_what_no_machine_could_give_is_refused(wanted: Resources, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said) as caught:
        check_resources(wanted)
    assert caught.value.hint


def test_a_change_touches_what_it_names_and_is_checked_as_a_whole() -> None:
    before = Resources(memory=128 * MIB, memory_max=512 * MIB, cpu_cap=50, cpuset="0")
    after = ResourceChange(memory_max=1024 * MIB, cpuset="").of(before)
    assert after == replace(before, memory_max=1024 * MIB, cpuset="")
    assert ResourceChange(memory=128 * MIB + 1).of(before).memory == 128 * MIB + 4096
    with pytest.raises(InvalidInputError):
        ResourceChange(memory=600 * MIB).of(before)


def test_cpus() -> None:
    assert parse_cpuset("0-2,5") == {0, 1, 2, 5}
    assert parse_cpuset("") == frozenset()
    with pytest.raises(InvalidInputError, match="no CPU 2"):
        check_cpuset("0,2-7", 1)


def test_cpus_that_are_offline_give_a_zone_nothing() -> None:
    assert Resources(cpus=2).share == Share(256, 0)
    assert Resources(cpus=2, cpus_max=4).share == Share(256, 200)
    assert Resources(cpus=2, cpus_max=4, cpu_cap=150, cpu_weight=7).share == Share(7, 150)


def test_records_of_before_are_read() -> None:
    spec = ZoneSpec("a" * 64, "one", "i", "sha256:" + "b" * 64, "/x", ("sh",), ())
    kept = replace(spec, resources=Resources(memory=MIB * 512, cpus=3, cpuset="1"))
    record = ZoneRecord(spec=kept, state=ZoneState.EXITED, created_ns=1)
    assert decode_record(encode_record(record)) == record
    old = asdict(record)
    del old["spec"]["resources"]
    old["spec"] |= {"memory_bytes": 512 * MIB, "cpus": 3}
    assert decode_record(json.dumps(old)).spec.resources == Resources(memory=512 * MIB, cpus=3)


def test_what_was_promised_is_not_promised_again() -> None:
    promises = Promises(reserve=100)
    assert promises.room(1000, {}) == 900
    promises.set(b"growing", 500)
    assert promises.room(1000, {b"growing": 200}) == 600
    assert promises.room(700, {b"growing": 500}) == 600
    # One that has not given back yet holds more than it was promised, which is no room.
    promises.set(b"growing", 100)
    assert promises.room(700, {b"growing": 500}) == 600
    promises.forget(b"growing")
    assert promises.room(50, {}) == 0


sizes = st.integers(64, 4096).map(lambda number: number * MIB)
readings = st.builds(
    Reading,
    target=sizes,
    held=sizes,
    available=st.integers(0, 4096 * MIB),
    stalled=st.floats(0, 1),
    idle=st.booleans(),
)


@given(readings, sizes, sizes)
def test_a_zone_stays_between_its_floor_and_its_ceiling(now: Reading, one: int, other: int) -> None:
    floor, ceiling = sorted((one, other))
    assert floor <= next_target(now, floor, ceiling) <= ceiling


@given(sizes, sizes, st.integers(0, 4000 * MIB))
def test_memory_settles_and_is_neither_short_nor_hoarded(one: int, other: int, used: int) -> None:
    floor, ceiling = sorted((one, other))
    target = floor
    seen: list[int] = []
    for _ in range(200):
        now = Reading(target, target, max(0, target - used), 0.0, idle=True)
        target = next_target(now, floor, ceiling)
        seen.append(target)
    assert len(set(seen[-50:])) == 1
    assert target == ceiling or target - used >= headroom(target)
    assert target == floor or target - used <= 2 * headroom(target) + 2 * 8 * MIB + 2 * MIB


def test_a_zone_is_not_asked_for_more_while_it_still_gives_back() -> None:
    now = Reading(200 * MIB, 400 * MIB, 300 * MIB, 0.0, idle=True)
    assert next_target(now, 64 * MIB, 1024 * MIB) == now.target
    assert next_target(replace(now, available=10 * MIB), 64 * MIB, 1024 * MIB) > now.target
    assert next_target(replace(now, held=now.target, idle=False), 64 * MIB, 1024 * MIB) == now.target
    assert PATIENCE_NS > 0


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"available": 1, "stalled": 1},
        {"available": -1, "stalled": 1, "pressed": False},
        {"available": 1 << 64, "stalled": 1, "pressed": False},
        {"available": True, "stalled": 1, "pressed": False},
        {"available": "1", "stalled": 1, "pressed": False},
        {"available": 1, "stalled": None, "pressed": False},
        {"available": 1, "stalled": 1, "pressed": 1},
    ],
)
def test_reports_that_lie_in_form_break_the_protocol(message: dict[str, int | str | bool | None]) -> None:
    with pytest.raises(ProtocolError):
        parse_memory_report(message)
