"""Pull an image: its documents, then its layers, several at a time, each once and each checked.

A layer that is here is not fetched again, whichever image or interrupted pull it came with; and two pulls that want
the same layer at the same time fetch it once.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeVar

from zonal.errors import InvalidInputError, ResourceExhaustedError
from zonal.images import skopeo
from zonal.images.archive import Layer, pair_layers
from zonal.images.arrival import Arrival, fail, settle
from zonal.images.blobs import Blobs
from zonal.images.config import PLATFORM, parse_config
from zonal.images.documents import read_object
from zonal.images.files import publish
from zonal.images.limits import Limits
from zonal.images.manifest import Descriptor, Manifest, parse_manifest
from zonal.images.reference import Reference
from zonal.images.skopeo import Access, ImageProxy
from zonal.images.tarformat import Source
from zonal.images.work import Stop, in_thread

_T = TypeVar("_T")

AT_ONCE: Final = 3
"""Layers fetched at the same time, as docker has it."""
RESERVE_BYTES: Final = 256 << 20
"""Left free on the store's disk by a pull."""
_NEWS_BYTES: Final = 1 << 20
"""Bytes of a layer that are worth telling of."""


class LayerState(StrEnum):
    """How far a layer has come."""

    WAITING = "waiting"
    FETCHING = "fetching"
    PRESENT = "present"
    """It was here before."""
    FETCHED = "fetched"


@dataclass(frozen=True, slots=True)
class LayerProgress:
    """News of one layer."""

    digest: str
    state: LayerState
    done: int
    """Bytes that have arrived."""
    size: int


LayerNews = Callable[[LayerProgress], None]
"""Called from any thread, often."""


def quiet(_: LayerProgress) -> None:
    """Takes no note of any news."""


@dataclass(frozen=True, slots=True)
class Arriving:
    """An image whose documents are here, and whose layers are on their way."""

    manifest: bytes
    digest: str
    """What the registry knows it by: the digest of its manifest, or of the index that has it."""
    config: bytes
    layers: tuple[Awaitable[Layer], ...]
    """Each is told when it has begun to arrive, or is there."""


class Puller:
    """Fetches into the blobs of one store."""

    def __init__(self, blobs: Blobs, limits: Limits) -> None:
        self._blobs = blobs
        self._limits = limits
        self._fetching: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    @asynccontextmanager
    async def pull(
        self, reference: Reference, access: Access, folder: Path, news: LayerNews
    ) -> AsyncGenerator[Arriving]:
        """Ask the registry for an image, and fetch its layers while the block runs; what is left is cancelled with it.

        Args:
            folder: for what is not yet whole, on the file system of the blobs.

        Raises:
            ZonalError: the registry has no such image, or fails; the image is malformed or too large; no space.
        """
        async with AsyncExitStack() as stack:
            arguments = stack.enter_context(skopeo.options(reference, access, folder))
            proxy = await in_thread(lambda _: ImageProxy(reference, arguments, self._limits))
            stack.callback(proxy.close)
            # A proxy that waits for the registry can be told to stop in no other way.
            converted, digest = await _or_closed(proxy, lambda _: _open(proxy))
            document = await in_thread(lambda stop: self._original(reference, arguments, converted, digest, stop))
            label = f"{reference.familiar}: manifest"
            manifest = parse_manifest(document, label, self._limits)
            self._check_space(manifest, folder)
            stack.enter_context(self._blobs.hold(manifest.digests))
            config = await self._document(proxy, manifest.config, folder)
            diff_ids = parse_config(config, f"{reference.familiar}: configuration").diff_ids
            slots = asyncio.Semaphore(AT_ONCE)
            # Closed after the tasks below have ended: their threads write to these.
            files = stack.enter_context(contextlib.ExitStack())
            descriptors = manifest.layers
            labels = [
                Source(-1, 0, each.size, f"{reference.familiar}: layer {each.digest[7:19]}") for each in descriptors
            ]
            expected = pair_layers(manifest, diff_ids, label, labels)

            async def fetch(layer: Layer, descriptor: Descriptor, begun: asyncio.Future[Layer]) -> None:
                def begin(fd: int, arrival: Arrival | None = None) -> None:
                    files.callback(os.close, fd)
                    blob = Source(fd, 0, descriptor.size, layer.source.label)
                    # skopeo sees every byte that arrives, and says in the end whether the digest is right.
                    verified = descriptor.digest if arrival is not None else None
                    settle(begun, replace(layer, source=blob, verified=verified, stored=True, arrival=arrival))

                try:
                    async with self._fetching.setdefault(descriptor.digest, asyncio.Lock()):
                        if self._blobs.size(descriptor.digest) == descriptor.size:
                            begin(os.open(self._blobs.path(descriptor.digest), os.O_RDONLY | os.O_CLOEXEC))
                            news(LayerProgress(descriptor.digest, LayerState.PRESENT, descriptor.size, descriptor.size))
                        else:
                            await self._fetch(proxy, descriptor, folder, news, slots, begin)
                            news(LayerProgress(descriptor.digest, LayerState.FETCHED, descriptor.size, descriptor.size))
                except BaseException as error:
                    fail(begun, error)
                    raise

            for each in descriptors:
                news(LayerProgress(each.digest, LayerState.WAITING, 0, each.size))
            loop = asyncio.get_running_loop()
            layers: list[asyncio.Future[Layer]] = [loop.create_future() for _ in descriptors]
            tasks = [asyncio.create_task(fetch(*triple)) for triple in zip(expected, descriptors, layers, strict=True)]
            stack.push_async_callback(_cancelled, tasks)
            yield Arriving(document, digest, config, tuple(layers))

    async def _fetch(
        self,
        proxy: ImageProxy,
        blob: Descriptor,
        folder: Path,
        news: LayerNews,
        slots: asyncio.Semaphore,
        begin: Callable[[int, Arrival], object],
    ) -> None:
        """Fetch a blob into the store; ``begin`` gets the file that it arrives in, to be closed."""
        finished = folder / f"layer-{blob.digest[-64:]}"
        arrival = Arrival()
        done = told = 0

        def arrived(count: int) -> None:
            nonlocal done, told
            done += count
            arrival.add(count)
            if done - told >= _NEWS_BYTES:
                told = done
                news(LayerProgress(blob.digest, LayerState.FETCHING, done, blob.size))

        try:
            async with slots:
                fd = os.open(finished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
                begin(fd, arrival)
                await _or_closed(proxy, lambda stop: proxy.blob(blob.digest, blob.size, fd, stop=stop, arrived=arrived))
            arrival.end()
            settle(arrival.verified, None)
            await in_thread(lambda _: publish(finished, self._blobs.path(blob.digest)))
            settle(arrival.stored, None)
        except BaseException as error:
            arrival.fail(error)
            raise
        finally:
            finished.unlink(missing_ok=True)

    async def _document(self, proxy: ImageProxy, descriptor: Descriptor, folder: Path) -> bytes:
        path = self._blobs.path(descriptor.digest)
        if self._blobs.size(descriptor.digest) != descriptor.size:
            with contextlib.ExitStack() as stack:
                await self._fetch(
                    proxy, descriptor, folder, quiet, asyncio.Semaphore(), lambda fd, _: stack.callback(os.close, fd)
                )
        data = path.read_bytes()
        if _digest(data) != descriptor.digest:
            path.unlink()
            raise InvalidInputError(f"the blob {descriptor.digest} is damaged", hint="try again: it is fetched anew")
        return data

    def _original(
        self, reference: Reference, arguments: Sequence[str], converted: bytes, digest: str, stop: Stop
    ) -> bytes:
        """The manifest as the registry has it, whose configuration and digest are those that everybody knows."""
        if _digest(converted) == digest:
            return converted
        by_digest = replace(reference, tag=None, digest=digest)
        label = f"{reference.familiar}: manifest"
        document = skopeo.raw_manifest(by_digest, arguments, self._limits, stop=stop)
        top = read_object(document, label)
        if "manifests" not in top:
            return document
        for descriptor in top.nodes("manifests"):
            platform = descriptor.node("platform")
            if f"{platform.text('os')}/{platform.text('architecture')}" == PLATFORM:
                found = descriptor.digest("digest")
                if found == _digest(converted):
                    return converted
                return skopeo.raw_manifest(replace(by_digest, digest=found), arguments, self._limits, stop=stop)
        raise InvalidInputError(f"{label}: its index has none for {PLATFORM}", hint="a zone runs nothing else")

    def _check_space(self, manifest: Manifest, folder: Path) -> None:
        missing = {x.digest: x.size for x in manifest.layers if self._blobs.size(x.digest) != x.size}
        needed, free = sum(missing.values()) + RESERVE_BYTES, shutil.disk_usage(folder).free
        if needed > free:
            raise ResourceExhaustedError(
                f"no space for the image: {needed >> 20} MiB are needed in {folder.parent}, and {free >> 20} MiB free",
                hint="remove images or zones: zonal image prune, zonal zone rm",
            )


def _digest(document: bytes) -> str:
    return f"sha256:{hashlib.sha256(document).hexdigest()}"


def _open(proxy: ImageProxy) -> tuple[bytes, str]:
    proxy.open()
    return proxy.manifest()


async def _or_closed(proxy: ImageProxy, work: Callable[[Stop], _T]) -> _T:
    """``in_thread``, where a cancellation ends the proxy first: what waits for the registry then fails at once."""
    task = asyncio.ensure_future(in_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        proxy.kill()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task
        raise


async def _cancelled(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
