"""The system image, built from the host's own packages."""

from __future__ import annotations

from pathlib import Path

from zonal.zones.system_image import build_system_image


def test_the_same_inputs_give_the_same_bytes_and_an_image_is_built_once(tmp_path: Path) -> None:
    first = build_system_image(tmp_path / "a")
    built = first.stat().st_mtime_ns
    assert build_system_image(tmp_path / "a") == first
    assert first.stat().st_mtime_ns == built
    second = build_system_image(tmp_path / "b")
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == sorted([first.name, "system.json"])


def test_a_damaged_list_of_inputs_is_made_anew(tmp_path: Path) -> None:
    image = build_system_image(tmp_path)
    (tmp_path / "system.json").write_text('{"inputs": [["/usr/bin/crun", 1, 2]]}')
    assert build_system_image(tmp_path) == image
    (tmp_path / "system.json").write_text("[]")
    assert build_system_image(tmp_path) == image
