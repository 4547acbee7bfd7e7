"""Containers' logs as a kubelet wants them: lines of time, stream, tag and text, in a file that it names.

zonald keeps the output of each workload by itself, with times, over its own restarts. What is here copies that to the
kubelet's file, line for line. Who goes on with a file that an earlier zonald has begun looks at its last lines: no line
is lost or doubled. Format: "CRI logging format" of Kubernetes' kubelet-cri-logging proposal.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import stat
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from zonal.cri.records import ContainerEntry
from zonal.errors import InvalidInputError, WrongStateError, ZonalError
from zonal.zones.spec import LogQuery, ZoneService

log = logging.getLogger(__name__)

MAX_LINE: Final = 16 << 10
"""Bytes of text in one line; a longer one is cut, with the tag P on all pieces but the last."""
_STREAMS: Final = {1: b"stdout", 2: b"stderr"}
_TAIL: Final = 1 << 20
_LINE: Final = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z) (stdout|stderr) [PF] ")
_TIME_SIZE: Final = len("2026-01-01T00:00:00.000000000Z")


class LogWriter:
    """Of one container."""

    def __init__(self, path: Path) -> None:
        """Raises ``InvalidInputError`` when the file cannot be made."""
        self._path = path
        self._fd = _open(path)
        self._lines: dict[int, bytearray] = {1: bytearray(), 2: bytearray()}
        self.since, self._skip = _position(path)

    def reopen(self) -> None:
        """The kubelet has moved the file away: from now on there is a new one. Raises ``InvalidInputError``."""
        fd = _open(self._path)
        os.close(self._fd)
        self._fd = fd

    def write(self, stream: int, data: bytes) -> None:
        """Output with a time before each line that begins in it."""
        waiting = self._lines[stream]
        waiting += data
        end = waiting.rfind(b"\n") + 1
        # A line without an end is kept until it is long enough to be cut.
        if not end and len(waiting) < MAX_LINE + _TIME_SIZE + 1:
            return
        done, self._lines[stream] = bytes(waiting[:end]), waiting[end:]
        if done:
            self._put(stream, done[:-1].split(b"\n"), last=b"F")
        rest = self._lines[stream]
        while len(rest) >= MAX_LINE + _TIME_SIZE + 1:
            head, text = rest[: _TIME_SIZE + 1], rest[_TIME_SIZE + 1 :]
            self._put(stream, [bytes(head + text[:MAX_LINE])], last=b"P")
            rest = self._lines[stream] = head + text[MAX_LINE:]

    def finish(self) -> None:
        """Nothing comes any more: what has no end of line is written as it is."""
        for stream, rest in self._lines.items():
            if len(rest) > _TIME_SIZE + 1:
                self._put(stream, [bytes(rest)], last=b"P")
            rest.clear()
        os.close(self._fd)

    def _put(self, stream: int, lines: list[bytes], *, last: bytes) -> None:
        out: list[bytes] = []
        for line in lines:
            time, text = line[:_TIME_SIZE], line[_TIME_SIZE + 1 :]
            key = (time, _STREAMS[stream])
            if self._skip[key] > 0:
                self._skip[key] -= 1
                continue
            while len(text) > MAX_LINE:
                out.append(b"%s %s P %s\n" % (*key, text[:MAX_LINE]))
                text = text[MAX_LINE:]
            out.append(b"%s %s %s %s\n" % (*key, last, text))
        if out:
            _write(self._fd, b"".join(out))


class ContainerLogs:
    """All of them that are being written."""

    def __init__(self, zones: ZoneService) -> None:
        self._zones = zones
        self._writers: dict[str, LogWriter] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def begin(self, entry: ContainerEntry) -> None:
        """Copies a container's output, to its end. Raises ``InvalidInputError`` when the file cannot be made."""
        if not entry.log_path or entry.id in self._tasks:
            return
        writer = LogWriter(Path(entry.log_path))
        self._writers[entry.id] = writer
        task = asyncio.create_task(self._copy(entry, writer), name=f"log of {entry.id[:12]}")
        self._tasks[entry.id] = task
        task.add_done_callback(lambda _: self._forget(entry.id))

    def reopen(self, entry: ContainerEntry) -> None:
        """Raises ``WrongStateError`` for a container that does not run."""
        writer = self._writers.get(entry.id)
        if writer is None:
            raise WrongStateError(f"container {entry.id[:12]} does not run")
        writer.reopen()

    async def settled(self, container_id: str) -> None:
        """Waits until all that a container has said is in its file, which has ended, or for a while."""
        task = self._tasks.get(container_id)
        if task is not None:
            await asyncio.wait([task], timeout=5)

    async def close(self) -> None:
        """Leaves the files as they are; the next zonald goes on with them."""
        tasks = tuple(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _copy(self, entry: ContainerEntry, writer: LogWriter) -> None:
        try:
            query = LogQuery(follow=True, since_ns=writer.since, timestamps=True)
            async for stream, data in self._zones.logs(entry.id, query):
                writer.write(stream, data)
        except ZonalError as error:
            log.info("the log of container %s ends: %s", entry.id[:12], error)
        except OSError as error:
            log.warning("the log of container %s cannot be written: %s", entry.id[:12], error)
        finally:
            with suppress(OSError):
                writer.finish()

    def _forget(self, container_id: str) -> None:
        self._tasks.pop(container_id, None)
        self._writers.pop(container_id, None)


def log_path(directory: str, path: str) -> str:
    """Where a container's log goes; empty for none. Raises ``InvalidInputError`` for a place outside."""
    if not directory or not path:
        return ""
    clean = os.path.normpath(f"{directory}/{path}")
    if not directory.startswith("/") or not clean.startswith(os.path.normpath(directory) + "/"):
        raise InvalidInputError(f"the log {path!r} is not in {directory!r}")
    return clean


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o640)
    except OSError as error:
        raise InvalidInputError(f"the log {path} cannot be written: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise InvalidInputError(f"the log {path} is no file")
    return fd


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _position(path: Path) -> tuple[int, Counter[tuple[bytes, bytes]]]:
    """The last time in a log in ns since the epoch, and how many lines of each stream have it."""
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
        found = [match for line in file.read().split(b"\n") if (match := _LINE.match(line))]
    if not found:
        return 0, Counter()
    last = found[-1][1]
    count = Counter((match[1], match[2]) for match in found if match[1] == last)
    moment = datetime.strptime(last[:19].decode(), "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
    return int(moment.timestamp()) * 1_000_000_000 + int(last[20:29]), count
