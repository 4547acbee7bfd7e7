from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from tests.unit.images.tarballs import write
from zonal.errors import InvalidInputError, NotFoundError, UnavailableError
from zonal.images import bootstrap, debian
from zonal.images.debian import Mirrors, apt_sources, find_mirrors, find_release

DEB822 = """\
# The main archive.
Types: deb deb-src
URIs: http://mirror.example/debian/
# with a comment inside
Suites: bookworm
 bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://disabled.example/debian
Suites: trixie
Components: main
"""

ONE_LINE = """\
# deb http://comment.example/debian trixie main
deb-src http://source.example/debian trixie main
deb [arch=amd64 signed-by=/k.gpg] https://vendor.example/linux/debian trixie stable
deb https://apt.example/ trixie main
deb [arch=amd64] http://mirror.example/debian trixie main non-free # the archive
deb http://mirror.example/debian-security trixie-security main
"""


def apt(tmp_path: Path, **files: str) -> Path:
    (tmp_path / "sources.list.d").mkdir(exist_ok=True)
    for name, text in files.items():
        write(tmp_path / name.replace("__", "/").replace("_", "."), text.encode())
    return tmp_path


@pytest.mark.parametrize("files", [{"sources.list.d__debian_sources": DEB822}, {"sources_list": ONE_LINE}])
def test_the_mirrors_of_this_machine_are_found(tmp_path: Path, files: dict[str, str]) -> None:
    expected = Mirrors("http://mirror.example/debian", "http://mirror.example/debian-security")
    assert find_mirrors({}, apt(tmp_path, **files)) == expected


def test_the_environment_comes_first(tmp_path: Path) -> None:
    folder = apt(tmp_path, sources_list=ONE_LINE)
    environment = {"ZONAL_DEBIAN_MIRROR": "https://near.example/debian/"}
    assert find_mirrors(environment, folder) == Mirrors(
        "https://near.example/debian", "https://near.example/debian-security"
    )
    environment["ZONAL_DEBIAN_SECURITY_MIRROR"] = "https://safe.example/sec"
    assert find_mirrors(environment, folder) == Mirrors("https://near.example/debian", "https://safe.example/sec")
    for bad in ("near.example/debian", "ftp://near.example/debian", "http://", "http://a b/debian", "http://[/debian"):
        with pytest.raises(InvalidInputError, match="not an address"):
            find_mirrors({"ZONAL_DEBIAN_MIRROR": bad}, folder)


def test_a_machine_that_is_not_debian_has_no_mirrors(tmp_path: Path) -> None:
    assert find_mirrors({}, tmp_path / "none") is None
    other = apt(tmp_path, sources_list="deb http://archive.other.example/other noble main\n")
    assert find_mirrors({}, other) is None


def test_the_sources_are_those_of_a_release() -> None:
    text = apt_sources(find_release("trixie"), Mirrors("http://m/debian", "http://m/debian-security"))
    assert text.count("Types: deb\n") == text.count("Signed-By: /usr/share/keyrings/") == 2
    assert "URIs: http://m/debian\nSuites: trixie trixie-updates\n" in text
    assert "URIs: http://m/debian-security\nSuites: trixie-security\n" in text


def test_releases_have_numbers_and_names() -> None:
    assert find_release("13") == find_release("trixie")
    with pytest.raises(NotFoundError, match="'11'"):
        find_release("11")


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("debian:13", "13"),
        ("debian:bookworm", "12"),
        ("docker.io/library/debian:trixie", "13"),
        ("debian", None),
        ("debian:11", None),
        ("debian:13-slim", None),
        ("team/debian:13", None),
        ("Not a name", None),
    ],
)
def test_which_names_can_be_made(name: str, version: str | None) -> None:
    release = bootstrap.known(name)
    assert (release.version if release else None) == version


def test_the_cache_is_where_the_environment_says() -> None:
    assert bootstrap.cache_folder({"ZONAL_CACHE": "/c", "XDG_CACHE_HOME": "/x", "HOME": "/h"}) == Path("/c")
    assert bootstrap.cache_folder({"XDG_CACHE_HOME": "/x", "HOME": "/h"}) == Path("/x/zonal")
    assert bootstrap.cache_folder({"HOME": "/h"}) == Path("/h/.cache/zonal")


MMDEBSTRAP = """#!/bin/sh
echo "run $SOURCE_DATE_EPOCH" >> "$LOG"
for word; do case $word in *.tar) target=$word;; esac; done
echo "I: installing packages..." >&2
head -c 1000 /dev/zero > "$target"
if test -n "$FAILS"; then echo "E: $FAILS" >&2; exit 1; fi
if test -n "$HANGS"; then trap 'echo ended >> "$LOG"; exit 1' TERM; echo "I: hanging..." >&2; sleep 100 & wait; fi
"""


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for mmdebstrap, which takes half a minute and a network; its log, one line a run."""
    (tmp_path / "programs").mkdir()
    program = write(tmp_path / "programs" / "mmdebstrap", MMDEBSTRAP.encode())
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.setenv("ZONAL_DEBIAN_MIRROR", "http://mirror.example/debian")
    monkeypatch.setattr(debian, "KEYRING", write(tmp_path / "keyring", b""))
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    return write(tmp_path / "log", b"")


def left(cache: Path) -> set[str]:
    return {path.name for path in (cache / "bootstrap").iterdir() if path.suffix != ".lock"}


async def test_a_root_is_made_once(log: Path, tmp_path: Path) -> None:
    steps: list[str] = []
    made = await asyncio.gather(
        *(bootstrap.bootstrap(name, cache=tmp_path, progress=steps.append) for name in ("debian:13", "debian:trixie"))
    )
    assert made[0] == made[1]
    assert made[0].name == "debian:13" and made[0].path.stat().st_size == 1000
    assert json.loads(made[0].settings)["config"]["Cmd"] == ["bash"]
    assert "installing packages" in steps
    assert log.read_text() == "run \n"
    other = await bootstrap.bootstrap("debian:12", cache=tmp_path)
    assert other.path != made[0].path
    assert left(tmp_path) == {made[0].path.name, other.path.name}


async def test_a_root_can_be_made_afresh(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    first = await bootstrap.bootstrap("debian:13", cache=tmp_path)
    os.utime(first.path, (1, 1))
    assert await bootstrap.bootstrap("debian:13", cache=tmp_path, refresh=True) == first
    assert log.read_text() == "run 1700000000\n" * 2
    assert json.loads(first.settings)["created"] == "2023-11-14T22:13:20Z"


async def test_a_failure_is_told_and_leaves_nothing(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAILS", "Unable to locate package apt")
    with pytest.raises(UnavailableError, match="Unable to locate package apt"):
        await bootstrap.bootstrap("debian:13", cache=tmp_path)
    assert left(tmp_path) == set()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="mmdebstrap is missing"):
        await bootstrap.bootstrap("debian:13", cache=tmp_path)
    monkeypatch.setattr(debian, "KEYRING", tmp_path / "none")
    with pytest.raises(UnavailableError, match="keys are missing"):
        await bootstrap.bootstrap("debian:13", cache=tmp_path)
    with pytest.raises(InvalidInputError, match="cannot be made"):
        await bootstrap.bootstrap("debian:sarge", cache=tmp_path)


async def test_a_cancelled_one_is_ended_and_leaves_nothing(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANGS", "yes")
    hanging = asyncio.Event()

    def progress(step: str) -> None:
        if step == "hanging":
            hanging.set()

    task = asyncio.create_task(bootstrap.bootstrap("debian:13", cache=tmp_path, progress=progress))
    await hanging.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log.read_text() == "run \nended\n"
    assert left(tmp_path) == set()
