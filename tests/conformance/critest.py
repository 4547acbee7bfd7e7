"""critest, built from cri-tools' own source by the Go toolchain, once."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

MODULE = "sigs.k8s.io/cri-tools"
VERSION = "v1.37.0"
SUM = "h1:BmTImEoTX3KPXCLwmIU9mfCC8umUqF4R8WibY9eVU9Y="
OLDEST_GO = (1, 26)


class CannotBuildError(Exception):
    """One line: what is missing."""


def build(folder: Path) -> Path:
    """The program in ``folder``; it is made when it is not there. Raises ``CannotBuildError``."""
    program = folder / f"critest-{VERSION}"
    if program.exists():
        return program
    source = _source()
    folder.mkdir(parents=True, exist_ok=True)
    made = program.with_suffix(".part")
    # The main package's test binary is the suite; its go.sum pins all that it is made of.
    command = ["go", "test", "-mod=readonly", "-trimpath", "-c", "-o", str(made), "./cmd/critest"]
    done = subprocess.run(command, cwd=source, env={**os.environ, "CGO_ENABLED": "0"}, capture_output=True, check=False)
    if done.returncode:
        raise CannotBuildError(f"critest cannot be built: {done.stderr.decode(errors='replace').splitlines()[0]}")
    made.rename(program)
    return program


def _source() -> Path:
    if shutil.which("go") is None:
        raise CannotBuildError("critest is built by Go, which is not installed: Go 1.26 or later is needed")
    said = subprocess.run(["go", "env", "GOVERSION"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"go(\d+)\.(\d+)", said)
    if not found or (int(found[1]), int(found[2])) < OLDEST_GO:
        raise CannotBuildError(f"critest needs Go 1.26 or later, and this is {said.strip()}")
    fetched = subprocess.run(
        ["go", "mod", "download", "-json", f"{MODULE}@{VERSION}"], capture_output=True, text=True, check=False
    )
    told: dict[str, str] = json.loads(fetched.stdout or "{}")
    if fetched.returncode or "Error" in told:
        raise CannotBuildError(f"{MODULE} {VERSION} cannot be fetched: {told.get('Error', fetched.stderr.strip())}")
    if told["Sum"] != SUM:
        raise CannotBuildError(f"{MODULE} {VERSION} is not what it was: its sum is {told['Sum']}")
    return Path(told["Dir"])
