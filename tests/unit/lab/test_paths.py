"""The cache folder, locks, and looking for space beforehand."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from zonal.errors import ResourceExhaustedError
from zonal.lab.paths import cache, check_space, free_bytes, locked, try_lock
from zonal.lab.progress import Silent
from zonal.shares.socket_path import short_path


def test_the_cache_is_where_it_is_wanted_and_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("ZONAL_CACHE", raising=False)
    assert cache().folder == tmp_path / "xdg/zonal"
    monkeypatch.setenv("ZONAL_CACHE", str(tmp_path / "chosen"))
    assert cache().folder == tmp_path / "chosen"
    for folder in (cache().folder, cache().labs, cache().disks):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_lock_waits_for_the_process_that_has_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    code = (
        "import sys; from pathlib import Path\n"
        "from zonal.lab.paths import locked; from zonal.lab.progress import Silent\n"
        "with locked(Path(sys.argv[1]), Silent(), ''):\n    print('mine', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == "mine\n"
    descriptor = os.open(lock, os.O_RDWR)
    assert not try_lock(descriptor)
    holder.stdin.close()
    with locked(lock, Silent(), "waiting"):
        assert not try_lock(descriptor)
    assert try_lock(descriptor)
    os.close(descriptor)
    holder.stdout.close()
    assert holder.wait() == 0


def test_numbers_are_given_when_there_is_no_space(tmp_path: Path) -> None:
    check_space(tmp_path, 1, "nothing")
    with pytest.raises(ResourceExhaustedError, match=r"a lab needs \d+\.\d GiB in .* \d+\.\d GiB are free") as caught:
        check_space(tmp_path, free_bytes(tmp_path) + (1 << 40), "a lab")
    assert "ZONAL_CACHE" in (caught.value.hint or "")


def test_a_deep_folder_has_a_short_path(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120) / ("e" * 120)
    deep.mkdir(parents=True)
    with short_path(deep) as place:
        assert len(place) < 30
        Path(place, "file").write_text("here")
    assert (deep / "file").read_text() == "here"
