"""Directories of this machine in the lab's host: served by a process of ours, mounted there by 9p when wanted.

QEMU starts the server for each connection that the lab makes to one address of its own network, so nobody else can
reach it, and nothing listens on this machine. It serves what is published in the lab's folder and nothing else: a lab
sees those directories of its user that a command has named.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Final

from zonal.errors import DeadlineError, InvalidInputError, UnavailableError
from zonal.lab.monitor import guest_agent
from zonal.lab.paths import LabPaths, cache

ADDRESS: Final = "10.0.2.100"
PORT: Final = 564
"""IANA: 9pfs"""
FOLDER: Final = "shares"
PROGRAM: Final = "share-server"
PLACE: Final = "/run/zonal-lab"
"""Where the lab's host has them."""
MESSAGE_SIZE: Final = 1 << 18
_SECONDS = 60
_MOUNT = """set -e
place={place}
# A mount of before a snapshot has lost its server.
timeout 10 stat -c %i $place/. >/dev/null 2>&1 || umount -l $place 2>/dev/null || true
mkdir -p $place
mountpoint -q $place || mount -t 9p -o {options} {address} $place
"""


def netdev_option() -> str:
    """What QEMU's user network has to know; ``write_program`` makes the program."""
    return f"guestfwd=tcp:{ADDRESS}:{PORT}-cmd:./{PROGRAM}"


def write_program(paths: LabPaths) -> None:
    """Makes the program that QEMU starts in the lab's folder, and forgets what was published."""
    folder = paths.folder / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    program = paths.folder / PROGRAM
    command = shlex.join([sys.executable, "-m", "zonal.lab.share_server", FOLDER])
    program.write_text(f"#!/bin/sh\nexec {command}\n")
    program.chmod(0o700)


def publish(name: str, path: Path, *, read_only: bool) -> str:
    """Gives the lab's host a directory or file of this machine; its path there.

    Raises ``InvalidInputError`` when it is neither, ``UnavailableError`` when it cannot be mounted.
    """
    paths = cache().lab(name)
    try:
        real = path.resolve(strict=True)
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be mounted: {error.strerror}") from error
    if not (real.is_dir() or real.is_file()):
        raise InvalidInputError(f"{path} is neither a directory nor a file, and cannot be mounted")
    only = "" if real.is_dir() else real.name
    entry = {"path": str(real if not only else real.parent), "only": only, "read_only": read_only}
    text = json.dumps(entry, sort_keys=True)
    token = hashlib.sha256(text.encode()).hexdigest()[:16]
    published = paths.folder / FOLDER / token
    if not published.exists():
        new = published.with_suffix(f".{os.getpid()}")
        new.write_text(text)
        new.replace(published)
    asyncio.run(_mount(paths, token, path))
    return f"{PLACE}/{token}/{only}".rstrip("/")


async def _mount(paths: LabPaths, token: str, path: Path) -> None:
    options = f"trans=tcp,port={PORT},version=9p2000.L,access=client,cache=none,msize={MESSAGE_SIZE},aname={token}"
    script = _MOUNT.format(place=f"{PLACE}/{token}", options=options, address=ADDRESS)
    try:
        async with asyncio.timeout(_SECONDS), guest_agent(paths) as agent:
            # One busybox for all, since each program takes an emulated host long to start.
            await agent.run("/usr/bin/busybox", "sh", "-c", script)
    except TimeoutError as error:
        raise DeadlineError(f"the lab {paths.name} did not mount {path} within {_SECONDS} s") from error
    except UnavailableError as error:
        raise UnavailableError(f"{path} cannot be mounted in the lab {paths.name}: {error.message}") from error
