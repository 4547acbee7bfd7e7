"""The store of images: one erofs for each chain of layers, configurations by digest, and names for them.

Two imports of one image do the work once; an image that a zone uses stays. Where the files are, and why a crash cannot
harm them, is `layout`'s to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from zonal.errors import InvalidInputError, NotFoundError, WrongStateError
from zonal.images import config, reference
from zonal.images.archive import Contents, read_archive
from zonal.images.catalogue import Catalogue, Record
from zonal.images.config import PLATFORM, ImageConfig
from zonal.images.erofs import make_erofs
from zonal.images.files import publish, write_file
from zonal.images.flatten import flatten
from zonal.images.layers import OpenLayer, expanded, open_layers, open_source
from zonal.images.layout import Layout
from zonal.images.limits import DEFAULT, Limits
from zonal.images.work import in_thread

_ID: Final = re.compile(r"(?:sha256:)?([0-9a-f]{2,64})")

Progress = Callable[[str], None]
"""Told one line for people at each step."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image in the store."""

    id: str
    """Digest of its configuration, ``sha256:…``."""
    references: tuple[str, ...]
    """Its names, in the form that people type."""
    chain_id: str
    erofs: Path
    size: int
    """Bytes of the erofs."""
    created_ns: int
    """Wall clock, ns since the epoch; 0 when the image does not say."""
    imported_ns: int
    platform: str
    layers: tuple[str, ...]
    """Diff ids, the lowest first."""
    source: str


@dataclass(frozen=True, slots=True)
class Removed:
    """What a removal came to."""

    untagged: tuple[str, ...]
    deleted: tuple[str, ...]
    """Ids of images that are gone."""


class Lease:
    """The promise that an image stays while somebody uses it. Also a context manager."""

    def __init__(self, store: ImageStore, image: Image, user: str) -> None:
        self._store = store
        self.image = image
        self.user = user

    def release(self) -> None:
        """Give the image free; doing so again changes nothing."""
        self._store.leases.discard(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class ImageStore:
    """All images below one folder. One process at a time, one event loop."""

    def __init__(self, layout: Layout, catalogue: Catalogue, limits: Limits, resources: contextlib.ExitStack) -> None:
        self._layout = layout
        self._catalogue = catalogue
        self._limits = limits
        self._resources = resources
        self._chains: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self.leases: set[Lease] = set()

    @classmethod
    def open(cls, root: Path, limits: Limits = DEFAULT) -> ImageStore:
        """Open the store at ``root``, made if it is not there, and remove what an earlier process left half done.

        Raises:
            WrongStateError: another process has it open.
        """
        layout = Layout(root)
        with contextlib.ExitStack() as stack:
            stack.enter_context(layout.lock())
            catalogue = Catalogue(layout.catalogue)
            stack.callback(catalogue.close)
            layout.clean(catalogue)
            return cls(layout, catalogue, limits, stack.pop_all())

    def close(self) -> None:
        """Close the store; leases mean nothing after that."""
        self._resources.close()

    def list(self) -> list[Image]:
        """Every image, the one imported last first."""
        return [self._image(record) for record in self._catalogue.images()]

    def resolve(self, name: str) -> Image:
        """The image that a name, an id, or the beginning of an id (two digits or more) stands for.

        Raises:
            NotFoundError: there is none.
            InvalidInputError: malformed, or the beginning of several ids.
        """
        return self._image(self._find(name)[0])

    def read_config(self, image_id: str) -> bytes:
        """The configuration's document, as it came."""
        return self._layout.blob(image_id).read_bytes()

    def config(self, image_id: str) -> ImageConfig:
        """The configuration."""
        return config.parse_config(self.read_config(image_id), f"configuration of {image_id}")

    def use(self, image_id: str, user: str) -> Lease:
        """Keep an image from being removed until the lease is released; ``user`` (``zone web``) is named to who tries.

        Raises:
            NotFoundError: there is no image with this id.
        """
        record = self._catalogue.by_id(image_id)
        if record is None:
            raise _unknown(image_id)
        lease = Lease(self, self._image(record), user)
        self.leases.add(lease)
        return lease

    async def import_archive(
        self,
        path: Path,
        *,
        format: str = "auto",
        name: str = "",
        settings: bytes = b"",
        source: str = "",
        digest: str | None = None,
        progress: Progress = lambda _: None,
    ) -> Image:
        """Take in an archive: a root filesystem's tar, an OCI layout's, or ``docker save``'s; compressed or not.

        Args:
            path: the archive, which must not change meanwhile.
            format: one of `archive.FORMATS`.
            name: what to call the image; empty for what the archive says. A root filesystem may go without.
            settings: for a root filesystem, see `config.make_config`.
            source: what to call the archive in messages; empty for its path.
            digest: ``sha256:…`` of the whole file, from a caller that has made it itself and saves us doing so.
            progress: told each step.

        Raises:
            InvalidInputError: a malformed name, or an archive that is malformed, too large, or for another platform.
            ResourceExhaustedError: not enough room; nothing is left of the image.
            UnavailableError: a program that this needs is missing.
        """
        label = source or str(path)
        if name:
            reference.parse(name)
        with self._layout.scratch() as folder, open_source(path, label) as file:
            if file.size == 0:
                raise InvalidInputError(f"{label} is empty")
            progress(f"reading {label}")
            async with expanded(file, folder, self._limits) as tar:
                contents = await in_thread(lambda _: read_archive(tar, format, self._limits))
                if tar is file and digest is not None:
                    contents = contents.of_digest(digest)
                if contents.config is not None and settings.strip():
                    raise InvalidInputError(
                        f"{label} has settings of its own", hint="give some for a plain root tar only"
                    )
                return await self._import(contents, folder, _names(name, contents), settings, label, progress)

    def remove(self, name: str, *, force: bool = False) -> Removed:
        """Take a name away, and the image with its last name; by id, the image with all its names.

        Raises:
            NotFoundError: there is no such image.
            WrongStateError: a zone uses it; or it has several names, was named by its id, and ``force`` is not given.
        """
        record, by_name = self._find(name)
        if by_name is not None and record.references != (by_name,):
            self._catalogue.remove_reference(by_name)
            return Removed((reference.familiar(by_name),), ())
        if by_name is None and len(record.references) > 1 and not force:
            names = ", ".join(map(reference.familiar, record.references))
            what = f"image {_short(record.id)} has several names: {names}"
            raise WrongStateError(what, hint="remove it by each of them, or use --force")
        if users := sorted({lease.user for lease in self.leases if lease.image.id == record.id}):
            raise WrongStateError(
                f"image {name} is in use by {', '.join(users)}", hint="remove what uses it first: `zonal zone rm`"
            )
        if self._catalogue.remove_image(record.id):
            self._layout.erofs(record.chain_id).unlink(missing_ok=True)
        for digest in (record.id, record.manifest):
            if digest is not None:
                self._layout.blob(digest).unlink(missing_ok=True)
        return Removed(tuple(map(reference.familiar, record.references)), (record.id,))

    async def _import(
        self, contents: Contents, folder: Path, names: tuple[str, ...], settings: bytes, label: str, progress: Progress
    ) -> Image:
        async with contextlib.AsyncExitStack() as stack:
            layers: list[OpenLayer] = []
            if contents.config is None:
                progress("checking its content")
                layers = await stack.enter_async_context(open_layers(contents.layers, folder, self._limits))
                diff_ids = tuple(layer.diff_id for layer in layers)
                document = config.make_config(settings, diff_ids, f"{label}: its settings")
            else:
                document = contents.config
                diff_ids = config.parse_config(document, f"{label}: configuration").diff_ids
            chain_id = config.chain_id(diff_ids)
            await stack.enter_async_context(self._chains.setdefault(chain_id, asyncio.Lock()))
            size = self._catalogue.filesystem_size(chain_id)
            if size is None:
                if not layers:
                    progress(f"checking and decompressing {len(contents.layers)} layers")
                    layers = await stack.enter_async_context(open_layers(contents.layers, folder, self._limits))
                size = await self._make_erofs(layers, chain_id, folder, contents.config is None, progress)
            # From here on nothing is awaited, so that no removal can come between the erofs and its entry.
            for blob in (document, contents.manifest):
                if blob is not None:
                    write_file(self._layout.blob(digest_of(blob)), blob, folder)
            self._catalogue.add(
                Record(
                    id=digest_of(document),
                    chain_id=chain_id,
                    manifest=digest_of(contents.manifest) if contents.manifest else None,
                    diff_ids=diff_ids,
                    created_ns=config.parse_config(document, label).created_ns,
                    imported_ns=time.time_ns(),
                    source=label,
                    size=size,
                    references=names,
                )
            )
            return self.resolve(digest_of(document))

    async def _make_erofs(
        self, layers: Sequence[OpenLayer], chain_id: str, folder: Path, need_end: bool, progress: Progress
    ) -> int:
        sources = [layer.source for layer in layers]
        flattened = await in_thread(lambda _: flatten(sources, self._limits, need_end=need_end))
        if flattened.files <= 1:
            raise InvalidInputError(f"{sources[-1].label} holds no files", hint="there is nothing in it to run")
        progress(f"writing {flattened.files} files, {flattened.size >> 20} MiB")
        finished = folder / "erofs"
        size = await make_erofs(flattened, finished, chain_id)
        await in_thread(lambda _: publish(finished, self._layout.erofs(chain_id)))
        return size

    def _find(self, name: str) -> tuple[Record, str | None]:
        """The image that ``name`` stands for, and the full name by which it was found, if it was by name."""
        digits = _ID.fullmatch(name)
        if not name.startswith("sha256:") and not (digits and len(digits[1]) == 64):
            wanted = reference.parse(name)
            if wanted.digest is not None:
                found = self._catalogue.by_manifest(wanted.digest, wanted.repository)
                if found is None:
                    raise _unknown(name)
                return found, None
            found = self._catalogue.by_name(str(wanted))
            if found is not None:
                return found, str(wanted)
        if not digits:
            raise _unknown(name)
        matches = self._catalogue.by_id_prefix(f"sha256:{digits[1]}", 2)
        if len(matches) > 1:
            raise InvalidInputError(f"{name} is the beginning of several images' ids", hint="give more of its digits")
        if not matches:
            raise _unknown(name)
        return matches[0], None

    def _image(self, record: Record) -> Image:
        return Image(
            id=record.id,
            references=tuple(map(reference.familiar, record.references)),
            chain_id=record.chain_id,
            erofs=self._layout.erofs(record.chain_id),
            size=record.size,
            created_ns=record.created_ns,
            imported_ns=record.imported_ns,
            platform=PLATFORM,
            layers=record.diff_ids,
            source=record.source,
        )


def digest_of(data: bytes) -> str:
    """``sha256:…`` of a document."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _names(name: str, contents: Contents) -> tuple[str, ...]:
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


def _unknown(name: str) -> NotFoundError:
    return NotFoundError(
        f"there is no image {name}",
        hint="`zonal image ls` shows what is there; `zonal image import` or `zonal image bootstrap` adds to it",
    )


def _short(image_id: str) -> str:
    return image_id.removeprefix("sha256:")[:12]
