"""What the agent reads of control groups, and what the host makes of an agent's word."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from zonal.agent.figures import read_figures
from zonal.agent.protocol.cbor import decode, encode
from zonal.zones.figures import ContainerFigures, parse_figures

FILES = {
    "cpu.stat": "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\nnr_periods 7\nnr_throttled 3\nthrottled_usec 20\n",
    "memory.current": "1048576\n",
    "memory.max": "max\n",
    "memory.swap.current": "0\n",
    "memory.stat": "anon 4096\nfile 8192\ninactive_file 1024\npgfault 12\npgmajfault 2\nunknown x\n",
    "memory.events": "low 0\nhigh 0\nmax 5\noom 1\noom_kill 1\n",
    "pids.current": "9\n",
    "pids.max": "100\n",
    "cgroup.procs": "12\n13\n",
    "io.stat": "202:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n202:16 rbytes=1 wbytes=2 rios=3 wios=4\n",
    "memory.pressure": "some avg10=1.50 avg60=0.25 avg300=0.00 total=42\nfull avg10=0.0 avg60=0.0 avg300=0.0 total=1\n",
    "io.pressure": "nonsense\n",
}


def container(folder: Path) -> Path:
    cgroup = folder / "cgroup" / "zonal" / "web"
    cgroup.mkdir(parents=True)
    for name, text in FILES.items():
        (cgroup / name).write_text(text)
    (folder / "roots" / "scratch").mkdir(parents=True)
    for process, targets in (("12", ("/dev/null", "socket:[7]")), ("13", ("pipe:[8]",))):
        (folder / "proc" / process / "fd").mkdir(parents=True)
        for number, target in enumerate(targets):
            (folder / "proc" / process / "fd" / str(number)).symlink_to(target)
    return cgroup


def test_what_the_kernel_counts_arrives(tmp_path: Path) -> None:
    container(tmp_path)
    said = read_figures("/zonal/web", f"{tmp_path}/roots/root", mount=f"{tmp_path}/cgroup", proc=f"{tmp_path}/proc")
    figures = parse_figures(decode(encode(said)))
    assert figures is not None
    assert (figures.cpu_usage_ns, figures.cpu_user_ns, figures.cpu_system_ns) == (1_500_000, 1_000_000, 500_000)
    assert (figures.cpu_periods, figures.cpu_throttled_periods, figures.cpu_throttled_ns) == (7, 3, 20_000)
    assert (figures.memory_usage, figures.working_set) == (1048576, 1048576 - 1024)
    assert figures.memory_limit is None
    assert (figures.file_descriptors, figures.sockets) == (3, 1)
    assert (figures.memory_limit_hits, figures.oom_kills) == (5, 1)
    assert (figures.page_faults, figures.major_page_faults) == (12, 2)
    assert (figures.processes, figures.threads, figures.threads_limit) == (2, 9, 100)
    assert (figures.disk_read_bytes, figures.disk_written_bytes, figures.disk_writes) == (4097, 2, 4)
    assert figures.pressure["memory"]["some"].average_10 == 1.5
    assert figures.pressure["memory"]["some"].total_ns == 42_000
    assert "io" not in figures.pressure
    layer = os.statvfs(tmp_path)
    assert figures.layer_size == layer.f_blocks * layer.f_frsize
    assert figures.layer_used is not None


def test_a_container_that_has_just_gone_has_no_figures(tmp_path: Path) -> None:
    said = read_figures("/zonal/gone", f"{tmp_path}/gone/root", mount=f"{tmp_path}/cgroup")
    figures = parse_figures(said)
    assert figures is not None
    assert (figures.cpu_usage_ns, figures.memory_usage, figures.layer_used, figures.processes) == (None, None, None, 0)


def test_the_root_of_all_control_groups_is_no_containers(tmp_path: Path) -> None:
    container(tmp_path)
    assert read_figures("/", f"{tmp_path}/gone/root", mount=f"{tmp_path}/cgroup") == {}


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.sampled_from(["cpu", "memory", "io", "some", "full", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)
NAMES = list(ContainerFigures.__dataclass_fields__)


@given(ANYTHING | st.dictionaries(st.sampled_from(NAMES), ANYTHING, max_size=8))
def test_whatever_a_zone_says_its_figures_are_within_bounds(said: Any) -> None:
    figures = parse_figures(said)
    if figures is None:
        assert not isinstance(said, dict)
        return
    for name in NAMES:
        if name != "pressure":
            value = getattr(figures, name)
            assert value is None or 0 <= value < 1 << 63
    assert figures.working_set is None or 0 <= figures.working_set < 1 << 63
    for kinds in figures.pressure.values():
        for each in kinds.values():
            assert 0 <= each.average_10 <= 100
            assert 0 <= each.average_60 <= 100
            assert 0 <= each.average_300 <= 100
            assert 0 <= each.total_ns < 1 << 63
