"""Running the tools that make a lab, with errors that say which tool failed and how."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from zonal.errors import ResourceExhaustedError, UnavailableError, ZonalError
from zonal.lab.paths import GIB, SPACE_HINT, free_bytes
from zonal.lab.requirements import require

_TAIL_BYTES = 4096
_NO_SPACE = "No space left on device"


def run(argv: Sequence[str], *, purpose: str, cwd: Path | None = None, stdin: IO[bytes] | None = None) -> str:
    """Runs a tool to its end and gives its standard output; raises `ZonalError` when it fails."""
    done = subprocess.run(
        located(argv), cwd=cwd, stdin=stdin or subprocess.DEVNULL, capture_output=True, check=False, env=environment()
    )
    if done.returncode:
        raise failure(argv[0], done.returncode, done.stderr, purpose=purpose, folder=cwd)
    return done.stdout.decode(errors="replace")


@contextmanager
def started(
    argv: Sequence[str],
    *,
    stdin: IO[bytes] | int = subprocess.DEVNULL,
    stdout: IO[bytes] | int = subprocess.DEVNULL,
    stderr: IO[bytes] | int = subprocess.PIPE,
    extra: Mapping[str, str] | None = None,
) -> Generator[subprocess.Popen[bytes]]:
    """Starts a tool; when the block ends before the tool does, ends the tool."""
    process = subprocess.Popen(
        located(argv),
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env={**environment(), **(extra or {})},
        # mmdebstrap that fails sends SIGHUP to all of its process group: not to be ours.
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        process.wait()


def pipe(stream: IO[bytes] | None) -> IO[bytes]:
    """A stream of a tool that was started with a pipe there."""
    if stream is None:
        raise TypeError("the process was started without this pipe")
    return stream


class LastWords:
    """What a tool says on a pipe, read beside everything else so that it never waits for us; its end is kept."""

    def __init__(self, pipe: IO[bytes], on_line: Callable[[bytes], None] = lambda _: None) -> None:
        self._pipe = pipe
        self._on_line = on_line
        self._tail: deque[bytes] = deque(maxlen=64)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def text(self) -> bytes:
        """The end of what it said, once it has closed its pipe."""
        self._thread.join()
        return b"".join(self._tail)

    def _read(self) -> None:
        # Whoever closes the pipe on our side has no use for the rest.
        with suppress(ValueError):
            while line := self._pipe.readline(_TAIL_BYTES):
                self._tail.append(line)
                self._on_line(line)


def is_full_disk(line: bytes) -> bool:
    """Whether a tool says that there is no space left."""
    return _NO_SPACE.encode() in line


def failure(tool: str, status: int, stderr: bytes, *, purpose: str, folder: Path | None = None) -> ZonalError:
    """The error for a tool that ended with ``status``; a full file system is told apart."""
    tail = stderr[-_TAIL_BYTES:].decode(errors="replace").strip()
    name = Path(tool).name
    if _NO_SPACE in tail:
        where = f" in {folder} ({free_bytes(folder) / GIB:.2f} GiB free)" if folder and folder.exists() else ""
        return ResourceExhaustedError(
            f"{purpose}: {name} found no space left{where}",
            hint=SPACE_HINT,
        )
    lines = "\n".join(tail.splitlines()[-12:])
    return UnavailableError(f"{purpose}: {name} ended with status {status}{':' if lines else ''}\n{lines}".rstrip())


def located(argv: Sequence[str]) -> list[str]:
    """``argv`` with the program's full path, which may be outside an ordinary user's PATH."""
    return [argv[0] if "/" in argv[0] else require(argv[0]), *argv[1:]]


def environment() -> dict[str, str]:
    """The environment for tools: ours, with messages in English so that they can be recognised."""
    return {**os.environ, "LC_ALL": "C.UTF-8", "LANGUAGE": ""}
