"""Python packages for another Python than the one that runs Zonal: the lab's."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from importlib import metadata, util
from pathlib import Path

from zonal.errors import UnavailableError

_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def pinned(requirements: Iterable[str]) -> list[str]:
    """The packages that ``requirements`` name (PEP 508), in the versions that are installed here; sorted."""
    pins: list[str] = []
    for line in requirements:
        match = re.match(r"\s*([A-Za-z0-9._-]+)", line)
        if match is None:
            continue
        try:
            pins.append(f"{match[1]}=={metadata.version(match[1])}")
        except metadata.PackageNotFoundError as error:
            raise UnavailableError(
                f"the Python package {match[1]} is not installed beside Zonal",
                hint="install Zonal with its dependencies: `make setup` in its source, or pip install zonal",
            ) from error
    return sorted(pins)


def fetch_command(pins: Iterable[str], python: str, target: Path) -> list[str]:
    """The pip command that puts wheels for CPython ``python`` on x86-64 Linux, and what they need, into ``target``."""
    if util.find_spec("pip") is None:
        raise UnavailableError(
            f"the Python that runs Zonal ({sys.executable}) has no pip, which fetches packages for the lab",
            hint=f"{sys.executable} -m ensurepip",
        )
    return [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"),
        *("--target", str(target), "--only-binary=:all:", "--implementation", "cp", "--python-version", python),
        *(f"--abi={abi}" for abi in (f"cp{python.replace('.', '')}", "abi3", "none")),
        *(f"--platform={platform}" for platform in _PLATFORMS),
        *pins,
    ]
