"""Tools that fail are told apart by what went wrong."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from zonal.errors import ResourceExhaustedError, UnavailableError
from zonal.lab import requirements
from zonal.lab.commands import LastWords, pipe, run, started


def test_output_comes_back(tmp_path: Path) -> None:
    assert run(["pwd"], purpose="testing", cwd=tmp_path) == f"{tmp_path}\n"


def test_a_failure_names_the_tool_the_purpose_and_its_last_words() -> None:
    with pytest.raises(UnavailableError, match=r"testing: sh ended with status 3:\nthe reason"):
        run(["sh", "-c", "echo the reason >&2; exit 3"], purpose="testing")


def test_a_full_disk_is_recognised(tmp_path: Path) -> None:
    with pytest.raises(ResourceExhaustedError, match=r"dd found no space left in .* GiB free"):
        run(["dd", "if=/dev/zero", "of=/dev/full", "count=1"], purpose="testing", cwd=tmp_path)


def test_a_missing_tool_names_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(requirements, "_SYSTEM_PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="mmdebstrap is not installed") as caught:
        run(["mmdebstrap", "--version"], purpose="testing")
    assert "apt-get install --no-install-recommends mmdebstrap" in (caught.value.hint or "")
    assert "qemu-system-x86" in requirements.missing()


def test_a_tool_does_not_outlive_its_block() -> None:
    with pytest.raises(RuntimeError), started(["sleep", "1000"], stderr=subprocess.DEVNULL) as process:
        raise RuntimeError
    assert process.returncode == -15


def test_a_tool_that_says_much_is_not_kept_waiting_and_its_end_is_known() -> None:
    lines: list[bytes] = []
    with started(["sh", "-c", "yes trouble | head -n 50000 >&2; echo the reason >&2; exit 4"]) as process:
        said = LastWords(pipe(process.stderr), lines.append)
        assert process.wait(timeout=60) == 4
        assert said.text().endswith(b"trouble\nthe reason\n")
    assert len(lines) == 50_001
