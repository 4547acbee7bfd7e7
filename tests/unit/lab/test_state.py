"""The state file: what is written comes back, and what is not understood counts as no lab."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zonal.errors import WrongStateError
from zonal.lab.paths import LabPaths
from zonal.lab.spec import Spec
from zonal.lab.state import LabState, Run, Snapshot, load, save

FULL = LabState(
    spec=Spec(3 << 30, 4, ("e1000e",), ("docker.io",)),
    recipe="0123456789abcdef",
    base="b",
    snapshot=Snapshot("zonal-1", "m", "s", 1.5),
    run=Run(4001, 4002, "s", True, "m", "tcg"),
)


def paths(folder: Path) -> LabPaths:
    return LabPaths(folder, folder.with_suffix(".lock"))


@pytest.mark.parametrize("state", [FULL, LabState(Spec(), "r", "b")])
def test_what_is_saved_is_loaded(tmp_path: Path, state: LabState) -> None:
    save(paths(tmp_path), state)
    assert load(paths(tmp_path)) == state
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_no_folder_is_no_lab(tmp_path: Path) -> None:
    assert load(paths(tmp_path / "none")) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_file_is_a_lab_or_none(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("lab")
    (folder / "state.json").write_bytes(data)
    assert load(paths(folder)) is None


def test_a_lab_of_another_version_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"format": 99}')
    with pytest.raises(WrongStateError, match="another version"):
        load(paths(tmp_path))


@given(part=st.sampled_from(["spec", "recipe", "base", "snapshot", "run"]), value=json_values)
def test_a_part_that_is_wrong_makes_no_lab(tmp_path_factory: pytest.TempPathFactory, part: str, value: object) -> None:
    folder = tmp_path_factory.mktemp("lab")
    save(paths(folder), FULL)
    raw = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**raw, part: value}))
    loaded = load(paths(folder))
    assert loaded is None or part in ("snapshot", "run", "recipe", "base") or value == raw[part]
