"""Make an image of layers and a configuration: verified, flattened, written, and entered into the catalogue at once."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
import weakref
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from zonal.errors import InvalidInputError
from zonal.images import config, reference
from zonal.images.archive import Contents, Layer
from zonal.images.blobs import Blobs
from zonal.images.catalogue import Catalogue, Record
from zonal.images.erofs import ErofsWriter
from zonal.images.files import publish
from zonal.images.image import Image
from zonal.images.index import ImageIndex
from zonal.images.layers import OpenLayer, keep_fresh, open_layers
from zonal.images.layout import Layout
from zonal.images.limits import Limits
from zonal.images.manifest import OCI_CONFIG, Descriptor, layer_type, make_manifest
from zonal.images.unpacked import Unpacked
from zonal.images.work import in_thread

Progress = Callable[[str], None]
"""Told one line for people at each step."""


class ImageMaker:
    """Makes images in one store; two that are made of the same layers at once do the work once."""

    def __init__(
        self,
        layout: Layout,
        catalogue: Catalogue,
        blobs: Blobs,
        unpacked: Unpacked,
        index: ImageIndex,
        limits: Limits,
    ) -> None:
        self._layout = layout
        self._catalogue = catalogue
        self._blobs = blobs
        self._unpacked = unpacked
        self._index = index
        self._limits = limits
        self._chains: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def make(
        self,
        contents: Contents,
        folder: Path,
        names: tuple[str, ...],
        settings: bytes,
        label: str,
        progress: Progress,
        arriving: Sequence[Awaitable[Layer]] = (),
    ) -> Image:
        """An image of what an archive or a registry has: what is here already is not made again.

        Args:
            contents: its documents, and its layers unless they are ``arriving``.
            folder: for what is not yet whole, on the file system of the store.
            names: to give it, in full.
            settings: for a root filesystem, which has no configuration: see `config.make_config`.
            label: where it comes from, for messages.
            progress: told each step.
            arriving: the layers, when some are still on their way.

        Raises:
            InvalidInputError: a layer or a document is malformed, or not what its digest says.
            ResourceExhaustedError: no room.
        """
        sources = arriving or contents.layers
        async with contextlib.AsyncExitStack() as stack:
            layers: list[OpenLayer] = []
            if contents.config is None:
                progress("checking its content")
                layers = await stack.enter_async_context(open_layers(sources, folder, self._limits, self._unpacked))
                diff_ids = tuple(layer.diff_id for layer in layers)
                document = config.make_config(settings, diff_ids, f"{label}: its settings")
            else:
                document = contents.config
                diff_ids = config.parse_config(document, f"{label}: configuration").diff_ids
            chain_id = config.chain_id(diff_ids)
            await stack.enter_async_context(self._chains.setdefault(chain_id, asyncio.Lock()))
            there = self._catalogue.filesystem_size(chain_id) is not None
            made: int | None = None

            async def make_erofs(layers: Sequence[OpenLayer | Awaitable[OpenLayer]]) -> None:
                nonlocal made
                made = await self._make_erofs(layers, chain_id, folder, contents.config is None, progress)

            whole = there and contents.manifest is not None and self._blobs.has_all(contents.manifest)
            if not layers and not whole:
                progress(f"checking and decompressing {len(sources)} layers")
                beside = None if there else make_erofs
                layers = await stack.enter_async_context(
                    open_layers(sources, folder, self._limits, self._unpacked, beside)
                )
            if made is None and self._catalogue.filesystem_size(chain_id) is None:
                await make_erofs(layers)
            stack.enter_context(self._blobs.hold(layer.digest for layer in layers))
            for layer in layers:
                if layer.arrival is not None:
                    await layer.arrival.stored
                await self._blobs.keep(layer.digest, layer.blob, folder)
            size = made or self._catalogue.filesystem_size(chain_id)
            if size is None:  # it was another image's, which has been removed since
                size = await self._make_erofs(layers, chain_id, folder, contents.config is None, progress)
            manifest = contents.manifest or _manifest_of(document, layers)
            # From here on nothing is awaited, so that no removal can come between the erofs and its entry.
            for blob in (document, manifest):
                self._blobs.write(digest_of(blob), blob, folder)
            self._catalogue.add(
                Record(
                    id=digest_of(document),
                    chain_id=chain_id,
                    manifest=digest_of(manifest),
                    diff_ids=diff_ids,
                    created_ns=config.parse_config(document, label).created_ns,
                    imported_ns=time.time_ns(),
                    source=label,
                    size=size,
                    references=names,
                )
            )
            keep_fresh(layers, self._unpacked)
            return self._index.resolve(digest_of(document))

    async def _make_erofs(
        self,
        layers: Sequence[OpenLayer | Awaitable[OpenLayer]],
        chain_id: str,
        folder: Path,
        need_end: bool,
        progress: Progress,
    ) -> int:
        """Each layer's content is written as soon as it and those below it are there."""
        finished = folder / "erofs"
        with ErofsWriter(finished, self._limits, need_end=need_end) as writer:
            label = ""
            for each in layers:
                layer = each if isinstance(each, OpenLayer) else await each
                label = layer.source.label
                await in_thread(lambda stop, source=layer.source: writer.add(source, on_step=stop.check))
            plan = await in_thread(lambda _: writer.plan(chain_id))
            if plan.files <= 1:
                raise InvalidInputError(f"{label} holds no files", hint="there is nothing in it to run")
            progress(f"writing {plan.files} files, {plan.stored >> 20} MiB")
            await in_thread(lambda _: writer.finish(plan))
        await in_thread(lambda _: publish(finished, self._layout.erofs(chain_id)))
        return plan.size


def digest_of(data: bytes) -> str:
    """``sha256:…`` of a document."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _manifest_of(config: bytes, layers: Sequence[OpenLayer]) -> bytes:
    """A manifest for an image that came without one, by the layers that are kept of it."""
    found: list[Descriptor] = []
    for layer in layers:
        media_type = layer_type(os.pread(layer.blob.fd, 16, layer.blob.offset))
        assert media_type is not None
        found.append(Descriptor(media_type, layer.digest, layer.blob.size))
    return make_manifest(Descriptor(OCI_CONFIG, digest_of(config), len(config)), found)


def names_of(name: str, contents: Contents) -> tuple[str, ...]:
    """Full names for an image: the one asked for, else those that its archive gives it, as far as they are names."""
    if name:
        wanted = reference.parse(name)
        if wanted.digest is not None:
            raise InvalidInputError(f"{name}: an imported image is named by a tag, not by a digest")
        return (str(wanted),)
    found: dict[str, None] = {}
    for text in contents.names:
        # An OCI layout may give no more than a tag, which names nothing by itself.
        if ":" in text or "/" in text:
            with contextlib.suppress(InvalidInputError):
                found[str(reference.parse(text).without_digest())] = None
    return tuple(found)
