"""A stand-in for mkfs.erofs, whose tar reader is not in the erofs-utils of every machine that runs these tests.

It keeps the tar stream as it is, so that what the store keeps can be looked into. The real one is used by the tests in
``tests/host/images``.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_PROGRAM = """#!/bin/sh
for word; do target=$word; done
echo run >> "$MKFS_LOG"
if test -n "$MKFS_FAILS"; then head -c 1000 > "$target"; echo "<E> erofs: $MKFS_FAILS" >&2; exit 1; fi
exec cat > "$target"
"""


@pytest.fixture
def mkfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The log of the stand-in: one line a run."""
    folder = tmp_path / "programs"
    folder.mkdir()
    program = folder / "mkfs.erofs"
    program.write_text(_PROGRAM)
    program.chmod(0o755)
    log = tmp_path / "mkfs.log"
    log.touch()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("MKFS_LOG", str(log))
    return log
