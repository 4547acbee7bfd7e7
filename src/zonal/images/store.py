"""The store of images: one erofs for each chain of layers, configurations by digest, and names for them.

Two imports of one image do the work once; an image that a zone uses stays. Where the files are, and why a crash cannot
harm them, is `layout`'s to say.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import hashlib
import os
import re
import time
import weakref
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Final

from zonal.errors import InvalidInputError, NotFoundError, WrongStateError
from zonal.images import archive, compression, config, reference, skopeo
from zonal.images.archive import Contents, Layer, read_archive
from zonal.images.blobs import Blobs
from zonal.images.catalogue import Catalogue, Record
from zonal.images.changes import committed
from zonal.images.config import PLATFORM, ImageConfig
from zonal.images.erofs import plan_erofs, write_erofs
from zonal.images.files import publish, write_file
from zonal.images.flatten import flatten
from zonal.images.image import Image, Pruned, Pulled, Removed, Usage
from zonal.images.kernel_image import KernelFiles, extract_kernel
from zonal.images.layers import OpenLayer, expanded, open_layers, open_source
from zonal.images.layout import Layout
from zonal.images.lease import Lease
from zonal.images.limits import DEFAULT, Limits
from zonal.images.manifest import OCI_CONFIG, Descriptor, layer_type, make_manifest, parse_manifest
from zonal.images.pull import LayerNews, Puller, quiet
from zonal.images.saving import SavedImage, archive_pieces
from zonal.images.skopeo import ANONYMOUS, Access
from zonal.images.unpacked import Unpacked
from zonal.images.work import in_thread

_ID: Final = re.compile(r"(?:sha256:)?([0-9a-f]{2,64})")

Progress = Callable[[str], None]
"""Told one line for people at each step."""


class ImageStore:
    """All images below one folder. One process at a time, one event loop."""

    def __init__(
        self,
        layout: Layout,
        catalogue: Catalogue,
        blobs: Blobs,
        limits: Limits,
        resources: contextlib.ExitStack,
    ) -> None:
        self._layout = layout
        self._catalogue = catalogue
        self._blobs = blobs
        self._limits = limits
        self._resources = resources
        self._chains: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._pulls: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._puller = Puller(blobs, limits)
        self._unpacked = Unpacked(layout.unpacked)
        self._unpacked.clear()
        self.leases: set[Lease[Image]] = set()

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
            blobs = Blobs(layout.blobs, limits)
            layout.clean(catalogue, blobs)
            return cls(layout, catalogue, blobs, limits, stack.pop_all())

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
        return self._blobs.path(image_id).read_bytes()

    def config(self, image_id: str) -> ImageConfig:
        """The configuration."""
        return config.parse_config(self.read_config(image_id), f"configuration of {image_id}")

    def use(self, image_id: str, user: str) -> Lease[Image]:
        """Keep an image from being removed until the lease is released; ``user`` (``zone web``) is named to who tries.

        Raises:
            NotFoundError: there is no image with this id.
        """
        record = self._catalogue.by_id(image_id)
        if record is None:
            raise _unknown(image_id)
        return Lease(self.leases, self._image(record), user)

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
        with self._scratch() as folder, open_source(path, label) as file:
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

    async def load_archive(
        self, path: Path, *, source: str = "", progress: Progress = lambda _: None
    ) -> builtins.list[Image]:
        """Take in every image of an OCI layout's archive, or of ``docker save``'s, by the names that they have there.

        Raises:
            InvalidInputError: as `import_archive`; those before the one that is refused stay.
        """
        label = source or str(path)
        with self._scratch() as folder, open_source(path, label) as file:
            progress(f"reading {label}")
            async with expanded(file, folder, self._limits) as tar:
                found = await in_thread(lambda _: archive.read_archives(tar, "auto", self._limits))
                if found[0].config is None:
                    raise InvalidInputError(
                        f"{label} is no archive of images, but a plain tar",
                        hint="for a root filesystem: zonal image import",
                    )
                return [
                    await self._import(contents, folder, _names("", contents), b"", label, progress)
                    for contents in found
                ]

    async def commit(
        self,
        base: str,
        layer: Path,
        *,
        name: str = "",
        author: str = "",
        comment: str = "",
        created_by: str = "",
        changes: Sequence[str] = (),
    ) -> Image:
        """A new image: the one with the id ``base``, one more layer (an uncompressed tar), and changed settings.

        ``changes`` are instructions as a Dockerfile has them (`changes.apply_changes`).

        Raises:
            InvalidInputError: a malformed name, change or layer.
            WrongStateError: the base has no layers of its own here.
        """
        if name and reference.parse(name).digest is not None:
            raise InvalidInputError(f"{name}: an image is named by a tag, not by a digest", hint="such as team/app:1")
        record, _ = self._find(base)
        label = f"the changes to {_short(record.id)}"
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(self._scratch())
            layers = stack.enter_context(self._kept_layers(record))
            added = stack.enter_context(open_source(layer, label))
            diff_id = await in_thread(lambda stop: compression.digest(added, on_step=stop.check))
            layers.append(Layer(added, diff_id, diff_id, verified=diff_id))
            entry = {"author": author, "comment": comment, "created_by": created_by}
            document = committed(self.read_config(record.id), diff_id, changes, entry, label)
            contents = Contents("oci", tuple(layers), document)
            names = (str(reference.parse(name)),) if name else ()
            return await self._import(contents, folder, names, b"", label, lambda _: None)

    async def kernel(self, name: str, folder: Path) -> KernelFiles:
        """The files of an image that is a kernel, in ``folder``. Raises ``InvalidInputError`` when it is none."""
        record, _ = self._find(name)
        with self._kept_layers(record) as kept:
            async with open_layers(kept, folder, self._limits, self._unpacked) as layers:
                sources = [layer.source for layer in layers]
                return await in_thread(lambda _: extract_kernel(sources, folder, self._limits, name))

    @contextlib.contextmanager
    def _kept_layers(self, record: Record) -> Generator[builtins.list[Layer]]:
        """The layers of an image as they came, which stays meanwhile."""
        if record.manifest is None:
            raise WrongStateError(
                f"{_short(record.id)} was imported by an older Zonal, without its layers", hint="import it again"
            )
        manifest = parse_manifest(self._blobs.path(record.manifest).read_bytes(), "manifest", self._limits)
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.use(record.id, "what reads its layers"))
            layers: builtins.list[Layer] = []
            for descriptor, diff_id in zip(manifest.layers, record.diff_ids, strict=True):
                blob = stack.enter_context(open_source(self._blobs.path(descriptor.digest), descriptor.digest))
                layers.append(Layer(blob, descriptor.digest, diff_id, stored=True))
            yield layers

    @contextlib.contextmanager
    def save(self, names: Sequence[str]) -> Generator[Iterator[bytes]]:
        """The bytes of an archive of images, which stay while it is read.

        Raises:
            NotFoundError: there is no such image.
            WrongStateError: one has no layers of its own here.
        """
        wanted: dict[str, tuple[Record, set[str]]] = {}
        for name in names:
            record, by_name = self._find(name)
            wanted.setdefault(record.id, (record, set()))[1].update([by_name] if by_name and "@" not in by_name else ())
        images: builtins.list[SavedImage] = []
        with contextlib.ExitStack() as stack:
            for record, known in wanted.values():
                if record.manifest is None:
                    what = f"{_short(record.id)} was imported by an older Zonal, without its layers"
                    raise WrongStateError(what, hint="import it again")
                stack.enter_context(self.use(record.id, "a save"))
                document = self._blobs.path(record.manifest).read_bytes()
                full = tuple(sorted(known))
                images.append(SavedImage(full, tuple(map(reference.familiar, full)), record.manifest, document))
            yield archive_pieces(images, self._blobs.folder, self._limits)

    async def check_login(self, domain: str, access: Access) -> None:
        """Whether a registry takes credentials. Raises ``AccessDeniedError`` if not, and other ``ZonalError``."""
        reference.parse(f"{domain}/login")
        with self._scratch() as folder:
            await in_thread(lambda stop: skopeo.check_login(domain, access, folder, stop=stop))

    def usage(self) -> Usage:
        """What the images take on the disk, and what would be free without those that no zone uses."""
        used = {lease.held.id for lease in self.leases}
        records = self._catalogue.images()
        trees = {record.chain_id: record.size for record in records}
        kept = {record.chain_id for record in records if record.id in used}
        needed = {digest for record in records if record.id in used for digest in self._blobs.of(record)}
        blobs = self._blobs.sizes()
        size = sum(trees.values()) + sum(blobs.values()) + self._unpacked.size
        held = sum(trees[chain_id] for chain_id in kept) + sum(blobs.get(digest, 0) for digest in needed)
        return Usage(len(records), len(used), size, size - held)

    def remove(self, name: str, *, force: bool = False) -> Removed:
        """Take a name away, and the image with its last name; by id, the image with all its names.

        Raises:
            NotFoundError: there is no such image.
            WrongStateError: a zone uses it; or it has several names, was named by its id, and ``force`` is not given.
        """
        record, by_name = self._find(name)
        tags = [each for each in record.references if "@" not in each]
        if by_name is not None and (tags if "@" in by_name else tags != [by_name]):
            self._catalogue.remove_reference(by_name)
            return Removed((reference.familiar(by_name),), ())
        if by_name is None and len(tags) > 1 and not force:
            names = ", ".join(map(reference.familiar, tags))
            what = f"image {_short(record.id)} has several names: {names}"
            raise WrongStateError(what, hint="remove it by each of them, or use --force")
        if users := sorted({lease.user for lease in self.leases if lease.held.id == record.id}):
            raise WrongStateError(
                f"image {name} is in use by {', '.join(users)}", hint="remove what uses it first: `zonal zone rm`"
            )
        mine = self._blobs.of(record)
        if self._catalogue.remove_image(record.id):
            self._layout.erofs(record.chain_id).unlink(missing_ok=True)
        self._blobs.remove(mine, self._catalogue.images())
        self._unpacked.remove_unless(self._blobs.has)
        return Removed(tuple(map(reference.familiar, record.references)), (record.id,))

    async def pull(
        self, name: str, access: Access = ANONYMOUS, *, progress: Progress = lambda _: None, news: LayerNews = quiet
    ) -> Pulled:
        """Fetch an image from its registry, or find that it is here as the registry has it.

        Raises:
            InvalidInputError: a malformed name; or what the registry has is malformed, or for another platform.
            NotFoundError: the registry has no such image.
            AccessDeniedError: it wants other credentials.
            UnavailableError: it fails, or does not answer.
            ResourceExhaustedError: it asks for patience, or there is no room; nothing is left of the image.
        """
        wanted = reference.parse(name)
        async with self._pulls.setdefault(str(wanted), asyncio.Lock()):
            with self._scratch() as folder:
                progress(f"asking {wanted.domain} for {wanted.familiar}")
                async with self._puller.pull(wanted, access, folder, news) as arriving:
                    names = (f"{wanted.repository}@{arriving.digest}",)
                    by = wanted if wanted.digest is None else wanted.without_tag()
                    names = (str(by), *names)
                    known = self._catalogue.by_id(digest_of(arriving.config))
                    if known and known.manifest == digest_of(arriving.manifest) and self._has_all(arriving.manifest):
                        new = not set(names) <= set(known.references)
                        self._catalogue.add_references(known.id, names)
                        return Pulled(self.resolve(known.id), new)
                    contents = Contents("oci", (), arriving.config, arriving.manifest)
                    try:
                        image = await self._import(
                            contents, folder, names, b"", wanted.familiar, progress, arriving.layers
                        )
                    except InvalidInputError:
                        await in_thread(lambda _: self._blobs.remove_damaged(arriving.manifest))
                        raise
                    return Pulled(image, True)

    async def push(self, name: str, target: str = "", access: Access = ANONYMOUS) -> str:
        """Send an image to the registry that its name, or ``target``, says; the digest of its manifest there.

        Raises:
            NotFoundError: there is no such image.
            ZonalError: the registry refuses, fails, or does not answer.
        """
        record, _ = self._find(name)
        wanted = reference.parse(target or name)
        if wanted.digest is not None:
            raise InvalidInputError(f"{name}: an image is pushed by a tag, not by a digest")
        if record.manifest is None:
            raise WrongStateError(f"{name} was imported by an older Zonal, without its layers", hint="import it again")
        manifest = self._blobs.path(record.manifest).read_bytes()
        media_type = parse_manifest(manifest, f"manifest of {name}", self._limits).media_type
        with self._scratch() as folder, self.use(record.id, f"a push of {name}"):
            archive.write_layout(folder / "oci", Descriptor(media_type, record.manifest, len(manifest)))
            with skopeo.options(wanted, access, folder, prefix="dest-") as arguments:
                shared = f"--src-shared-blob-dir={self._blobs.folder}"
                source = f"oci:{folder / 'oci'}"
                digest = await in_thread(
                    lambda stop: skopeo.push(source, wanted, [shared, *arguments], folder, stop=stop)
                )
        self._catalogue.add_references(record.id, (f"{wanted.repository}@{digest}",))
        return digest

    def tag(self, name: str, target: str) -> Image:
        """Give an image one more name; if another image has it, it moves.

        Raises:
            NotFoundError: there is no such image.
            InvalidInputError: a malformed name.
        """
        record, _ = self._find(name)
        wanted = reference.parse(target)
        if wanted.digest is not None:
            raise InvalidInputError(
                f"{target}: a tag names an image, a digest cannot be given", hint="such as team/app:1"
            )
        self._catalogue.add_references(record.id, (str(wanted),))
        return self.resolve(record.id)

    def prune(self, *, everything: bool = False) -> Pruned:
        """Remove images without a tag, or with ``everything`` all that no zone uses, and layers that no image has."""
        used = {lease.held.id for lease in self.leases}
        deleted: list[str] = []
        freed = 0
        for record in self._catalogue.images():
            if record.id in used or (not everything and any("@" not in each for each in record.references)):
                continue
            if self._catalogue.remove_image(record.id):
                self._layout.erofs(record.chain_id).unlink(missing_ok=True)
                freed += record.size
            deleted.append(record.id)
        freed += self._blobs.remove_unused(self._catalogue.images(), older_than=0) + self._unpacked.clear()
        return Pruned(tuple(deleted), freed)

    def _scratch(self) -> contextlib.AbstractContextManager[Path]:
        """See ``Layout.scratch``; what is kept only to save time makes room first."""
        self._unpacked.trim()
        return self._layout.scratch()

    async def _import(
        self,
        contents: Contents,
        folder: Path,
        names: tuple[str, ...],
        settings: bytes,
        label: str,
        progress: Progress,
        arriving: Sequence[Awaitable[Layer]] = (),
    ) -> Image:
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
            whole = there and contents.manifest is not None and self._has_all(contents.manifest)
            if not layers and not whole:
                progress(f"checking and decompressing {len(sources)} layers")
                layers = await stack.enter_async_context(open_layers(sources, folder, self._limits, self._unpacked))
            made: int | None = None
            if self._catalogue.filesystem_size(chain_id) is None:
                made = await self._make_erofs(layers, chain_id, folder, contents.config is None, progress)
            stack.enter_context(self._blobs.hold(layer.digest for layer in layers))
            for layer in layers:
                await self._blobs.keep(layer.digest, layer.blob, folder)
            size = made or self._catalogue.filesystem_size(chain_id)
            if size is None:  # it was another image's, which has been removed since
                size = await self._make_erofs(layers, chain_id, folder, contents.config is None, progress)
            manifest = contents.manifest or _manifest_of(document, layers)
            # From here on nothing is awaited, so that no removal can come between the erofs and its entry.
            for blob in (document, manifest):
                write_file(self._blobs.path(digest_of(blob)), blob, folder)
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
            for layer in layers:
                if layer.fresh:
                    self._unpacked.keep(layer.source.fd, layer.digest, layer.diff_id)
            return self.resolve(digest_of(document))

    async def _make_erofs(
        self, layers: Sequence[OpenLayer], chain_id: str, folder: Path, need_end: bool, progress: Progress
    ) -> int:
        sources = [layer.source for layer in layers]
        plan = await in_thread(
            lambda _: plan_erofs(flatten(sources, self._limits, need_end=need_end), sources, chain_id)
        )
        if plan.files <= 1:
            raise InvalidInputError(f"{sources[-1].label} holds no files", hint="there is nothing in it to run")
        progress(f"writing {plan.files} files, {plan.stored >> 20} MiB")
        finished = folder / "erofs"
        await in_thread(lambda stop: write_erofs(plan, finished, on_step=stop.check))
        await in_thread(lambda _: publish(finished, self._layout.erofs(chain_id)))
        return plan.size

    def _has_all(self, manifest: bytes) -> bool:
        digests = parse_manifest(manifest, "manifest", self._limits).digests
        return all(map(self._blobs.has, digests))

    def _find(self, name: str) -> tuple[Record, str | None]:
        """The image that ``name`` stands for, and the full name by which it was found, if it was by name."""
        digits = _ID.fullmatch(name)
        if not name.startswith("sha256:") and not (digits and len(digits[1]) == 64):
            wanted = reference.parse(name)
            if wanted.digest is not None:
                by_name = str(wanted.without_tag())
                if (found := self._catalogue.by_name(by_name)) is not None:
                    return found, by_name
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


def _manifest_of(config: bytes, layers: Sequence[OpenLayer]) -> bytes:
    """A manifest for an image that came without one, by the layers that are kept of it."""
    found: list[Descriptor] = []
    for layer in layers:
        media_type = layer_type(os.pread(layer.blob.fd, 16, layer.blob.offset))
        assert media_type is not None
        found.append(Descriptor(media_type, layer.digest, layer.blob.size))
    return make_manifest(Descriptor(OCI_CONFIG, digest_of(config), len(config)), found)


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
