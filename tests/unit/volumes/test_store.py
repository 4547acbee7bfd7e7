from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from zonal.errors import AlreadyExistsError, InvalidInputError, NotFoundError, ResourceExhaustedError, WrongStateError
from zonal.volumes.filesystem import FilesystemTemplates, copy_sparse, make_filesystem
from zonal.volumes.recovery import needs_recovery
from zonal.volumes.store import VolumeStore

SIZE = 64 << 20


@pytest.fixture
def store(tmp_path: Path) -> VolumeStore:
    return VolumeStore(tmp_path / "volumes")


def ls(path: Path, folder: str = "/") -> str:
    return subprocess.run(
        ["debugfs", "-R", f"ls -l {folder}", str(path)], check=True, capture_output=True, text=True
    ).stdout


def is_sound(path: Path) -> bool:
    return subprocess.run(["e2fsck", "-f", "-n", str(path)], check=False, capture_output=True).returncode == 0


def test_a_volume_is_an_empty_filesystem_of_its_size(store: VolumeStore) -> None:
    made = store.create("data", size=SIZE, labels={"team": "web"})
    assert (made.name, made.size, made.anonymous, dict(made.labels)) == ("data", SIZE, False, {"team": "web"})
    assert made.path.stat().st_size == SIZE
    assert made.used < SIZE // 4
    assert is_sound(made.path)
    assert "40755" in next(line for line in ls(made.path).splitlines() if "_data" in line)
    assert store.find("data") == made
    assert store.list() == [made]


def test_what_a_zone_must_not_read_is_roots_alone(store: VolumeStore) -> None:
    made = store.create("data", size=SIZE)
    assert made.path.stat().st_mode & 0o77 == 0
    assert made.path.parent.stat().st_mode & 0o77 == 0


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "-a", ".a", "a b", "a\n", "é", "a" * 256])
def test_a_name_that_could_lead_elsewhere_is_refused(store: VolumeStore, name: str) -> None:
    for action in (store.find, store.create, store.remove):
        with pytest.raises(InvalidInputError, match="volume's name"):
            action(name)
    assert store.list() == []


@pytest.mark.parametrize("size", [-1, 1, 1 << 20, 1 << 60])
def test_a_size_that_cannot_be_is_refused_and_leaves_nothing(store: VolumeStore, tmp_path: Path, size: int) -> None:
    with pytest.raises(InvalidInputError, match="16M to 16T"):
        store.create("data", size=size)
    assert list((tmp_path / "volumes").iterdir()) == []


def test_a_name_is_given_once_however_many_ask(store: VolumeStore) -> None:
    def make(_: int) -> bool:
        try:
            store.create("data", size=SIZE)
        except AlreadyExistsError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(make, range(4))) == 1
    assert [volume.name for volume in store.list()] == ["data"]


def test_one_zone_writes_or_several_read(store: VolumeStore) -> None:
    store.create("data", size=SIZE)
    with store.use("data", "zone a", read_only=False):
        for read_only in (True, False):
            with pytest.raises(WrongStateError, match="zone a"):
                store.use("data", "zone b", read_only=read_only)
    with store.use("data", "zone a", read_only=True), store.use("data", "zone b", read_only=True):
        assert store.users("data") == ["zone a", "zone b"]
        with pytest.raises(WrongStateError, match="zone a, zone b"):
            store.use("data", "zone c", read_only=False)
    assert store.users("data") == []


def test_a_volume_in_use_stays(store: VolumeStore) -> None:
    store.create("data", size=SIZE)
    with store.use("data", "zone a", read_only=True), pytest.raises(WrongStateError, match="zone a"):
        store.remove("data")
    store.remove("data")
    with pytest.raises(NotFoundError):
        store.find("data")


def test_what_was_half_made_or_half_removed_goes_at_the_next_start(store: VolumeStore, tmp_path: Path) -> None:
    store.create("kept", size=SIZE)
    half = tmp_path / "volumes" / ".0123"
    half.mkdir()
    (half / "data.ext4").write_bytes(b"x")
    assert [volume.name for volume in VolumeStore(tmp_path / "volumes").list()] == ["kept"]
    assert not half.exists()


def test_a_damaged_folder_hides_no_other(store: VolumeStore, tmp_path: Path) -> None:
    store.create("kept", size=SIZE)
    for name, text in (("a", "{"), ("b", json.dumps({"size": 1})), ("c", None)):
        folder = tmp_path / "volumes" / name
        folder.mkdir()
        if text is not None:
            (folder / "volume.json").write_text(text)
    assert [volume.name for volume in store.list()] == ["kept"]
    with pytest.raises(NotFoundError):
        store.find("a")


def test_a_copy_has_the_contents_and_the_holes(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        file.truncate(1 << 30)
        for position in (0, 5 << 20, (1 << 30) - 4096):
            file.seek(position)
            file.write(b"x" * 4096)
    copy_sparse(source, target)
    assert target.stat().st_size == 1 << 30
    assert target.stat().st_blocks <= source.stat().st_blocks + 64
    assert subprocess.run(["cmp", source, target], check=False).returncode == 0


def test_templates_give_sound_filesystems_of_the_size_asked_for(tmp_path: Path) -> None:
    templates = FilesystemTemplates(tmp_path / "templates")
    for number, size in enumerate((SIZE, SIZE, 2 * SIZE)):
        target = tmp_path / f"{number}.ext4"
        templates.copy(target, size)
        assert target.stat().st_size == size
        assert is_sound(target)
    assert len(list((tmp_path / "templates").iterdir())) == 1


def test_a_full_disk_leaves_nothing(small_disk: Path) -> None:
    store = VolumeStore(small_disk / "volumes")
    (small_disk / "filling").write_bytes(bytes(3 << 20))
    with pytest.raises(ResourceExhaustedError, match="not enough room"):
        store.create("data", size=1 << 37)
    assert list((small_disk / "volumes").iterdir()) == []
    with pytest.raises(ResourceExhaustedError, match="not enough room"):
        FilesystemTemplates(small_disk / "templates").copy(small_disk / "scratch", 1 << 37)
    assert not (small_disk / "scratch").exists()


def test_a_filesystem_in_the_middle_of_things_is_known(tmp_path: Path) -> None:
    path = tmp_path / "x.ext4"
    make_filesystem(path, SIZE)
    assert not needs_recovery(path)
    subprocess.run(["debugfs", "-w", "-R", "feature needs_recovery", str(path)], check=True, capture_output=True)
    assert needs_recovery(path)
    path.write_bytes(b"short")
    assert not needs_recovery(path)
