from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import zonal
from zonal.zones.system_image import COMPILER, SystemImageError, shared_libraries


def test_the_libraries_are_those_that_the_loader_finds() -> None:
    program = Path(sys.executable).resolve()
    told = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    wanted = {os.path.realpath(path) for path in re.findall(r"(/\S+) \(0x", told)}
    found = {str(path) for path in shared_libraries([program]).values()}
    # A Python of one's own may bring a library along that is not where a system's are.
    assert {path for path in wanted if path.startswith(("/lib", "/usr/lib"))} <= found


def test_the_loader_is_there_under_its_whole_path() -> None:
    names = shared_libraries([Path(sys.executable).resolve()])
    loader = [name for name in names if "/" in name]
    assert loader == ["/lib64/ld-linux-x86-64.so.2"]


def test_a_library_that_is_not_there_is_named(tmp_path: Path) -> None:
    program = Path(sys.executable).resolve().read_bytes()
    broken = tmp_path / "broken"
    broken.write_bytes(program.replace(b"libc.so.6\0", b"nolib.so6\0"))
    with pytest.raises(SystemImageError, match=r"nolib\.so6"):
        shared_libraries([broken])


def test_every_module_of_the_agent_is_taken_along(tmp_path: Path) -> None:
    package = Path(zonal.__file__).parent
    command = [sys.executable, "-I", "-S", "-B", "-c", COMPILER, str(package.parent), str(tmp_path)]
    files = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["files"]
    taken = {path for kind, path in files if kind == "agent"} - {str(package / "__init__.py")}
    assert taken == {str(path) for path in (package / "agent").rglob("*.py")}
