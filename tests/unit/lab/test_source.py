"""What of Zonal goes into the lab."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import zonal
from zonal.lab.source import read_source


def make_package(folder: Path) -> Path:
    package = folder / "zonal"
    (package / "sub/__pycache__").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "sub/a.py").write_text("A = 1\n")
    (package / "sub/run.sh").write_text("#!/bin/sh\n")
    (package / "sub/a.pyi").write_text("A: int\n")
    (package / "sub/__pycache__/a.cpython-313.pyc").write_bytes(b"x")
    return package


def test_sources_and_nothing_else(tmp_path: Path) -> None:
    source = read_source(make_package(tmp_path))
    assert [name for name, _ in source.files] == ["zonal/__init__.py", "zonal/sub/a.py", "zonal/sub/run.sh"]


def test_the_digest_changes_with_content_and_with_names(tmp_path: Path) -> None:
    package = make_package(tmp_path)
    digests = {read_source(package).digest}
    (package / "sub/a.py").write_text("A = 2\n")
    digests.add(read_source(package).digest)
    (package / "sub/a.py").rename(package / "sub/b.py")
    digests.add(read_source(package).digest)
    (package / "sub/empty.py").touch()
    digests.add(read_source(package).digest)
    assert len(digests) == 4


def test_a_time_stands_for_the_content(tmp_path: Path) -> None:
    package = make_package(tmp_path)
    before = {entry.path: entry.mtime for entry in read_source(package).entries("x")}
    (package / "__init__.py").touch()
    (package / "sub/a.py").write_text("A = 2\n")
    after = {entry.path: entry.mtime for entry in read_source(package).entries("x")}
    assert {path for path, mtime in after.items() if mtime != before[path]} == {"x/zonal/sub/a.py"}


def test_tar_and_initrd_hold_the_same(tmp_path: Path) -> None:
    source = read_source(make_package(tmp_path))
    with tarfile.open(fileobj=io.BytesIO(source.tar())) as archive:
        members = {member.name: (member.mtime, archive.extractfile(member)) for member in archive.getmembers()}
    files = {entry.path: entry for entry in source.entries("x") if entry.data or entry.mtime}
    assert {f"x/{name}": mtime for name, (mtime, _) in members.items()} == {
        path: entry.mtime for path, entry in files.items()
    }


def test_zonal_itself_has_its_unit_files_in_it() -> None:
    names = {name for name, _ in read_source(Path(zonal.__file__).parent).files}
    assert {"zonal/daemon/main.py", "zonal/lab/files/zonald.service"} <= names
