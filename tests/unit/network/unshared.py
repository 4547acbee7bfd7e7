"""Trials: programs in namespaces of their own, which neither need root nor touch anything of this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from zonal.errors import ZonalError

_UNSHARE = ("unshare", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")


def run_trial(name: str) -> dict[str, Any]:
    """Runs ``tests.unit.network.NAME``; what it saw, which it prints as JSON."""
    command = [*_UNSHARE, sys.executable, "-m", f"tests.unit.network.{name}"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=240, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return json.loads(done.stdout)


async def fails(attempt: Awaitable[object]) -> str:
    """How it fails, in one line."""
    try:
        await attempt
    except ZonalError as error:
        return f"{error.grpc_code}: {error.message}"
    return "it went well"
