"""What a zone gives out to the workloads that share it, and the bounds of one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.zones.test_oci_spec import with_options
from zonal.errors import InvalidInputError
from zonal.zones.allotments import Allotments
from zonal.zones.oci_spec import runtime_config
from zonal.zones.resources import ResourceChange
from zonal.zones.runtime_options import Limits, Namespaces
from zonal.zones.workload_limits import limits_of


@given(st.lists(st.one_of(st.none(), st.integers(0, 4)), max_size=60))
def test_no_name_is_given_out_twice(steps: list[int | None]) -> None:
    allotments, names = Allotments(), [f"xvd{letter}" for letter in "abcde"]
    taken: set[str] = set()
    for step in steps:
        if step is None:
            name = allotments.take(names)
            assert (name is None) == (len(taken) == len(names))
            if name is not None:
                assert name not in taken
                taken.add(name)
        else:
            allotments.give_back(names[step])
            taken.discard(names[step])


def test_bounds_of_a_workload() -> None:
    limits = limits_of(ResourceChange(memory=8 << 20, cpus=3), Limits(memory_reservation_bytes=1 << 30, pids=5))
    assert limits == Limits(
        memory_bytes=8 << 20,
        memory_reservation_bytes=8 << 20,
        cpu_quota_us=300_000,
        cpu_period_us=100_000,
        pids=5,
    )
    assert limits_of(ResourceChange(), limits) == limits


@pytest.mark.parametrize(
    "change",
    [
        ResourceChange(memory=0),
        ResourceChange(memory=1 << 50),
        ResourceChange(cpus=0),
        ResourceChange(cpus=65),
        ResourceChange(cpu_weight=3),
        ResourceChange(cpuset="0"),
    ],
)
def test_bounds_that_cannot_be(change: ResourceChange) -> None:
    with pytest.raises(InvalidInputError):
        limits_of(change, Limits())


def test_a_workload_has_a_control_group_of_its_own_and_joins_anothers_processes() -> None:
    spec = with_options(namespaces=Namespaces(ipc="host", pid="workload:abc"))
    linux = runtime_config(spec, name="def")["linux"]
    assert linux["cgroupsPath"] == "/zonal/def"
    assert {"type": "pid", "path": "workload:abc"} in linux["namespaces"]
    assert "ipc" not in [each["type"] for each in linux["namespaces"]]
