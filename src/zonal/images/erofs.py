"""Make an erofs of a flattened tree, by ``mkfs.erofs`` of erofs-utils 1.8 or later, which reads a tar stream."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import uuid
from io import FileIO
from pathlib import Path
from typing import IO, Final

from zonal.errors import UnavailableError, ZonalError
from zonal.images import flatten
from zonal.images.files import no_room
from zonal.images.flatten import Flattened
from zonal.images.work import Stop, in_thread

_OVERHEAD: Final = 16 << 20
"""Bytes that an erofs may need beyond an eighth more than the tar it is made of."""


class MakeFilesystemError(ZonalError):
    """mkfs.erofs failed for a reason of its own."""

    grpc_code = "INTERNAL"


async def make_erofs(flattened: Flattened, path: Path, identity: str) -> int:
    """Write an erofs to ``path``, which must not exist; its size in bytes. The same tree gives the same bytes.

    ``identity`` is a digest (``sha256:…``) that the filesystem's UUID is made of. Nothing is left at ``path`` when it
    fails.

    Raises:
        UnavailableError: mkfs.erofs is missing or too old.
        ResourceExhaustedError: not enough room on the disk.
        MakeFilesystemError: mkfs.erofs failed.
    """
    check_room(path.parent, flattened.size + flattened.size // 8 + _OVERHEAD)
    command = [
        "mkfs.erofs",
        "--quiet",
        "--tar=f",
        # Data goes to its place as it is read; with tails inlined it would all be written twice.
        "--sort=none", "-E^inline_data",
        "-T0", "--mkfs-time",
        "-U", str(uuid.UUID(hex=identity.removeprefix("sha256:")[:32])),
        str(path),  # and no source: the stream is its standard input
    ]  # fmt: skip
    try:
        # Not on the disk, which may be full: then nothing would say so.
        with os.fdopen(os.memfd_create("mkfs.erofs"), "w+b") as messages:
            status = await _run(command, flattened, path.parent, messages)
            if status != 0:
                messages.seek(0)
                raise _failure(messages.read(64 << 10).decode("utf-8", "replace"), status, path.parent)
        return path.stat().st_size
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def check_room(folder: Path, needed: int) -> None:
    """Refuse to start what cannot fit.

    Raises:
        ResourceExhaustedError: fewer than ``needed`` bytes are free on the disk that holds ``folder``.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise no_room(folder, needed)


async def _run(command: list[str], flattened: Flattened, folder: Path, messages: IO[bytes]) -> int:
    """Run mkfs.erofs with the tar stream as its input; its exit status, never 0 when it did not read all of it."""
    reader, writer = os.pipe()
    with FileIO(writer, "wb") as pipe:
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=reader, stdout=messages, stderr=messages,
                env={**os.environ, "TMPDIR": str(folder), "LC_ALL": "C"},
            )  # fmt: skip
        except FileNotFoundError as error:
            raise UnavailableError("the program mkfs.erofs is missing", hint="apt-get install erofs-utils") from error
        finally:
            os.close(reader)
        try:
            broken = await in_thread(lambda stop: _feed(flattened, pipe, stop))
            status = await process.wait()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
    return status or int(broken)


def _feed(flattened: Flattened, pipe: FileIO, stop: Stop) -> bool:
    """Write the stream and close the pipe; whether the reader went away before its end."""
    with pipe:
        try:
            flatten.write(flattened, pipe.fileno(), on_step=stop.check)
        except BrokenPipeError:
            return True
    return False


def _failure(messages: str, status: int, folder: Path) -> ZonalError:
    if "No space left" in messages or "ENOSPC" in messages:
        return no_room(folder)
    if re.search(r"(unrecognized|invalid|unknown) option", messages):
        return UnavailableError("mkfs.erofs is too old to read a tar", hint="install erofs-utils 1.8 or later")
    lines = [line.strip() for line in messages.splitlines() if line.strip()]
    # Its own errors begin with "<E>", between banners and warnings.
    said = [line for line in lines if line.startswith("<E>")] or lines or ["no message"]
    return MakeFilesystemError(f"mkfs.erofs failed with status {status}: {said[-1].removeprefix('<E> ')}")
