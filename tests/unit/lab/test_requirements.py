"""What this machine lacks is named, with what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from zonal.errors import UnavailableError
from zonal.lab import qemu, requirements

Program = Callable[[str, str], None]


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Program:
    """Makes a program, on a machine that has no others."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(requirements, "_SYSTEM_PATH", str(tmp_path))

    def make(name: str, script: str) -> None:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return make


@pytest.mark.parametrize("version", ["6.2.0 (Debian 1:6.2)", "7.1.9", "0.15.0"])
def test_a_qemu_that_is_too_old_is_refused(program: Program, version: str) -> None:
    program("qemu-system-x86_64", f"echo 'QEMU emulator version {version}'")
    with pytest.raises(UnavailableError, match=r"is too old: the lab needs 7\.2 or later") as caught:
        qemu.version()
    assert "qemu-system-x86 of Debian 12" in (caught.value.hint or "")


def test_a_qemu_that_is_new_enough_is_taken(program: Program) -> None:
    program("qemu-system-x86_64", "echo 'QEMU emulator version 10.0.2 (Debian 1:10.0)'")
    assert qemu.version() == "10.0.2"


def test_a_qemu_that_says_nonsense_is_told(program: Program) -> None:
    program("qemu-system-x86_64", "echo nonsense")
    with pytest.raises(UnavailableError, match="nonsense"):
        qemu.version()


@pytest.mark.parametrize("sudo", [None, "exit 1"])
def test_without_root_and_without_sudo_the_packages_are_named(
    program: Program, monkeypatch: pytest.MonkeyPatch, sudo: str | None
) -> None:
    program("apt-get", "echo apt-get must not be run >&2; exit 1")
    if sudo:
        program("sudo", sudo)
    monkeypatch.setattr(requirements.os, "geteuid", lambda: 1000)
    with pytest.raises(UnavailableError, match=r"qemu-system-x86.*mmdebstrap.*needs root") as caught:
        requirements.install()
    assert (caught.value.hint or "").startswith("sudo apt-get install --no-install-recommends qemu-system-x86")
    assert "uidmap" in (caught.value.hint or "")


def test_with_sudo_apt_is_asked_through_it(
    program: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    program("sudo", f'shift; echo "$@" >> {tmp_path}/asked')
    program("apt-get", "exit 0")
    monkeypatch.setattr(requirements.os, "geteuid", lambda: 1000)
    with pytest.raises(UnavailableError, match="apt-get did not install"):
        requirements.install()
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked[0] == "true"
    assert "apt-get --quiet --assume-yes install --no-install-recommends qemu-system-x86" in asked[1]


def test_a_machine_without_apt_is_told_what_it_lacks(program: Program) -> None:
    with pytest.raises(UnavailableError, match="has no apt-get"):
        requirements.install()
