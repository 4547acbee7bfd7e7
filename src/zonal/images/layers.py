"""Bring an image's layers into the form that `flatten` reads: uncompressed, in open files, each checked.

A layer that is not compressed is read where it lies; another is decompressed to a file of its own in a folder that the
caller removes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from zonal.errors import InvalidInputError, NotFoundError
from zonal.images import compression
from zonal.images.archive import Layer
from zonal.images.arrival import Arrival
from zonal.images.limits import Limits
from zonal.images.manifest import layer_type
from zonal.images.tarformat import Source
from zonal.images.unpacked import Unpacked
from zonal.images.work import Stop, in_thread

_AT_ONCE: Final = 3
"""Layers decompressed at the same time: as many as a pull fetches, each while it arrives."""
_HEAD: Final = 16
"""Bytes that tell the compression."""

Beside = Callable[[Sequence[Awaitable["OpenLayer"]]], Coroutine[None, None, None]]
"""What is done with layers as soon as each of them is ready."""


@contextlib.contextmanager
def open_source(path: Path, label: str) -> Generator[Source]:
    """The whole of a file.

    Raises:
        NotFoundError: there is no such file.
        InvalidInputError: it is not a plain file.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {label}", hint="check the path") from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidInputError(f"{label} is not a plain file", hint="give the path of an archive")
        yield Source(fd, 0, status.st_size, label)
    finally:
        os.close(fd)


@contextlib.asynccontextmanager
async def expanded(source: Source, folder: Path, limits: Limits) -> AsyncGenerator[Source]:
    """``source`` itself, or, when it is compressed, what it decompresses to, in an unnamed file in ``folder``.

    Raises:
        InvalidInputError: corrupt, or larger than the limits allow.
    """
    kind = compression.recognise(os.pread(source.fd, _HEAD, source.offset))
    if kind is None:
        yield source
        return
    with _spool(folder) as fd:
        result = await in_thread(lambda stop: compression.expand(source, kind, fd, limits, on_step=stop.check))
        yield Source(fd, 0, result.size, source.label)


@dataclass(frozen=True, slots=True)
class OpenLayer:
    """An uncompressed layer, verified."""

    source: Source
    diff_id: str
    blob: Source
    """The layer as it came, or as it is kept: compressed in a way that OCI has, or not at all."""
    digest: str
    """Of the blob."""
    fresh: bool = False
    """Whether ``source`` is an unnamed file that was decompressed just now."""
    arrival: Arrival | None = None
    """Of a blob that the store may not have for good yet."""


@contextlib.asynccontextmanager
async def open_layers(
    layers: Sequence[Layer | Awaitable[Layer]],
    folder: Path,
    limits: Limits,
    unpacked: Unpacked,
    beside: Beside | None = None,
) -> AsyncGenerator[list[OpenLayer]]:
    """Every layer uncompressed and with its digests verified, the lowest first; some may be still on their way.

    What is in ``unpacked`` is not decompressed again. ``beside`` is given each when it is ready, while others are not.

    Raises:
        InvalidInputError: a layer is corrupt, is not what its digest says, or all of them pass a limit.
    """
    with contextlib.ExitStack() as stack:
        slots = asyncio.Semaphore(_AT_ONCE)
        total = 0

        async def expand(layer: Layer) -> OpenLayer:
            kept = unpacked.find(layer.digest, layer.diff_id)
            if kept is not None:
                stack.callback(os.close, kept)
                if layer.verified is None and not layer.stored:
                    async with slots:
                        await in_thread(lambda stop: _verify(layer, stop))
                return _kept(layer, kept)
            fd = stack.enter_context(_spool(folder))
            async with slots:
                return await in_thread(lambda stop: _prepare(layer, fd, limits, stop))

        async def prepare(coming: Layer | Awaitable[Layer]) -> OpenLayer:
            nonlocal total
            layer = coming if isinstance(coming, Layer) else await coming
            try:
                ready = await expand(layer)
            except InvalidInputError:
                # If it was not what it should be, that is the reason to tell.
                if layer.arrival is not None:
                    await layer.arrival.verified
                raise
            if layer.arrival is not None:
                await layer.arrival.verified
            total += ready.source.size
            if total > limits.total_bytes:
                raise InvalidInputError(f"the image's layers hold more than {limits.total_bytes} bytes")
            return ready

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(prepare(layer)) for layer in layers]
                if beside is not None:
                    group.create_task(beside(tasks))
        except ExceptionGroup as errors:
            # Layers mostly fail for one reason, and people want to read one.
            raise errors.exceptions[0] from None
        yield [task.result() for task in tasks]


def keep_fresh(layers: Sequence[OpenLayer], unpacked: Unpacked) -> None:
    """Keep what was decompressed just now for the next image with the same layers."""
    for layer in layers:
        if layer.fresh:
            unpacked.keep(layer.source.fd, layer.digest, layer.diff_id)


def _verify(layer: Layer, stop: Stop) -> None:
    """Who brings a layer that was decompressed before has to show that he has it."""
    _compare(layer, ((layer.digest, compression.digest(layer.source, on_step=stop.check)),))


def _kept(layer: Layer, fd: int) -> OpenLayer:
    assert layer.digest is not None and layer.diff_id is not None
    ready = Source(fd, 0, os.fstat(fd).st_size, layer.source.label)
    return OpenLayer(ready, layer.diff_id, layer.source, layer.digest, arrival=layer.arrival)


def _prepare(layer: Layer, fd: int, limits: Limits, stop: Stop) -> OpenLayer:
    source = layer.source
    if source.size > limits.layer_bytes:
        raise InvalidInputError(f"{source.label} has {source.size} bytes, more than {limits.layer_bytes}")
    if layer.arrival is not None:
        layer.arrival.wait(min(_HEAD, source.size), stop.check)
    head = os.pread(source.fd, _HEAD, source.offset)
    kind = compression.recognise(head)
    if kind is None:
        digest = diff_id = layer.verified or compression.digest(source, on_step=stop.check)
        ready = source
    else:
        result = compression.expand(
            source, kind, fd, limits, verified=layer.verified, arrival=layer.arrival, on_step=stop.check
        )
        digest, diff_id = result.compressed_digest, result.digest
        ready = Source(fd, 0, result.size, source.label)
    _compare(layer, ((layer.digest, digest), (layer.diff_id, diff_id)))
    if layer_type(head) is None:
        return OpenLayer(ready, diff_id, ready, diff_id, arrival=layer.arrival)
    return OpenLayer(ready, diff_id, source, digest, kind is not None, layer.arrival)


def _compare(layer: Layer, digests: Iterable[tuple[str | None, str]]) -> None:
    for stated, found in digests:
        if stated is not None and stated != found:
            raise InvalidInputError(
                f"{layer.source.label} is corrupt: its digest is {found}, not {stated}",
                hint="make or fetch the file again",
            )


@contextlib.contextmanager
def _spool(folder: Path) -> Generator[int]:
    """A file without a name, gone when it is closed, whatever happens."""
    fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)
