from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Zonal
from zonal.cli.supply import ImageMaking, Supply
from zonal.errors import UnavailableError
from zonal.lab.progress import Silent

MakeProgram = Callable[[str], None]


@pytest.fixture
def mmdebstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeProgram:
    """A program of this name that does what it is told, in place of the one that needs Debian's archive."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("ZONAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("zonal.images.debian.check_keyring", lambda: None)

    def make(script: str) -> None:
        path = programs / "mmdebstrap"
        path.write_text(f"#!/bin/sh\nfor last; do case $last in */root.tar) target=$last;; esac; done\n{script}\n")
        path.chmod(0o755)

    return make


def test_making_that_is_given_up_ends_at_once_and_leaves_nothing(mmdebstrap: MakeProgram, tmp_path: Path) -> None:
    mmdebstrap(f"echo > {tmp_path}/begun; exec sleep 1000")
    for wait in (False, True):
        making = ImageMaking("debian:13", Silent())
        while wait and not (tmp_path / "begun").exists():
            pass
        making.give_up()
        with pytest.raises(CancelledError):
            making.result()
    assert [path.suffix for path in (tmp_path / "cache" / "bootstrap").iterdir()] == [".lock"]


def test_making_that_fails_is_told(mmdebstrap: MakeProgram) -> None:
    mmdebstrap("echo 'E: the mirror is gone' >&2; exit 1")
    making = ImageMaking("debian:13", Silent())
    with pytest.raises(UnavailableError, match="the mirror is gone"):
        making.result()
    making.give_up()


def test_an_image_that_is_missing_is_made_and_imported(zonal: Zonal, mmdebstrap: MakeProgram) -> None:
    mmdebstrap("echo content > $target")
    with Supply(str(zonal.path), None, "debian:12") as supply:
        control = supply.control()
        assert supply.image_missing(control)
        assert list(supply.image(control).references) == ["debian:12"]
        assert not supply.image_missing(control)
    with Supply(str(zonal.path), None, "alpine:3") as supply:
        assert supply.image_missing(supply.control())
    assert zonal("image", "rm", "debian:12").returncode == 0


def test_a_run_makes_the_image_that_it_needs(zonal: Zonal, mmdebstrap: MakeProgram, tmp_path: Path) -> None:
    mmdebstrap("echo content > $target")
    environment = {name: os.environ[name] for name in ("PATH", "ZONAL_CACHE")}
    done = zonal("run", "--rm", "debian:13", "echo", "made", env=environment)
    assert done.stdout == b"made\n", done.stderr
    assert b"Importing debian:13" in done.stderr
    zonal("image", "rm", "debian:13")
