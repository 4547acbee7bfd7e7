"""The store of images: one erofs for each chain of layers, configurations by digest, and names for them.

This is what others see of it, and archives' way in and out. Names are `index`'s business, registries `exchange`'s, the
making of an image `making`'s, and its removal `removal`'s; where the files are, and why a crash cannot harm them, is
`layout`'s to say.
"""

from __future__ import annotations

import builtins
import contextlib
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from zonal.errors import InvalidInputError
from zonal.images import archive, compression, reference
from zonal.images.archive import Contents, Layer, read_archive
from zonal.images.blobs import Blobs
from zonal.images.catalogue import Catalogue, Record
from zonal.images.changes import committed
from zonal.images.config import ImageConfig
from zonal.images.exchange import Exchange
from zonal.images.image import Image, Pruned, Pulled, Removed, Usage
from zonal.images.index import ImageIndex, manifest_digest, short_id
from zonal.images.kernel_image import KernelFiles, extract_kernel
from zonal.images.layers import expanded, keep_fresh, open_layers, open_source
from zonal.images.layout import Layout
from zonal.images.lease import Lease
from zonal.images.limits import DEFAULT, Limits
from zonal.images.making import ImageMaker, Progress, names_of
from zonal.images.manifest import parse_manifest
from zonal.images.pull import LayerNews, quiet
from zonal.images.removal import Remover
from zonal.images.saving import SavedImage, archive_pieces
from zonal.images.skopeo import ANONYMOUS, Access
from zonal.images.unpacked import Unpacked
from zonal.images.work import in_thread


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
        self._unpacked = Unpacked(layout.unpacked)
        self._unpacked.clear()
        self._index = ImageIndex(layout, catalogue, blobs)
        self._remover = Remover(layout, catalogue, blobs, self._unpacked, self._index)
        self._maker = ImageMaker(layout, catalogue, blobs, self._unpacked, self._index, limits)
        self._exchange = Exchange(layout, catalogue, blobs, self._index, self._maker, limits)

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

    @property
    def leases(self) -> set[Lease[Image]]:
        """What is in use, and by whom."""
        return self._index.leases

    def close(self) -> None:
        """Close the store; leases mean nothing after that."""
        self._resources.close()

    def list(self) -> list[Image]:
        """Every image, the one imported last first."""
        return self._index.list()

    def resolve(self, name: str) -> Image:
        """The image that a name stands for: `ImageIndex.resolve`."""
        return self._index.resolve(name)

    def read_config(self, image_id: str) -> bytes:
        """The configuration's document, as it came."""
        return self._index.read_config(image_id)

    def config(self, image_id: str) -> ImageConfig:
        """The configuration."""
        return self._index.config(image_id)

    def use(self, image_id: str, user: str) -> Lease[Image]:
        """Keep an image from being removed: `ImageIndex.use`."""
        return self._index.use(image_id, user)

    def usage(self) -> Usage:
        """What the images take on the disk: `Remover.usage`."""
        return self._remover.usage()

    def remove(self, name: str, *, force: bool = False) -> Removed:
        """Take a name away, and the image with its last one: `Remover.remove`."""
        return self._remover.remove(name, force=force)

    def prune(self, *, everything: bool = False) -> Pruned:
        """Remove what nobody needs: `Remover.prune`."""
        return self._remover.prune(everything=everything)

    async def pull(
        self, name: str, access: Access = ANONYMOUS, *, progress: Progress = lambda _: None, news: LayerNews = quiet
    ) -> Pulled:
        """Fetch an image from its registry: `Exchange.pull`."""
        self._unpacked.trim()
        return await self._exchange.pull(name, access, progress=progress, news=news)

    async def push(self, name: str, target: str = "", access: Access = ANONYMOUS) -> str:
        """Send an image to a registry: `Exchange.push`."""
        return await self._exchange.push(name, target, access)

    async def check_login(self, domain: str, access: Access) -> None:
        """Ask a registry whether it takes credentials: `Exchange.check_login`."""
        await self._exchange.check_login(domain, access)

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
                return await self._maker.make(contents, folder, names_of(name, contents), settings, label, progress)

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
                    await self._maker.make(contents, folder, names_of("", contents), b"", label, progress)
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
        record, _ = self._index.find(base)
        label = f"the changes to {short_id(record.id)}"
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
            return await self._maker.make(contents, folder, names, b"", label, lambda _: None)

    async def kernel(self, name: str, folder: Path) -> KernelFiles:
        """The files of an image that is a kernel, in ``folder``. Raises ``InvalidInputError`` when it is none."""
        record, _ = self._index.find(name)
        with self._kept_layers(record) as kept:
            async with open_layers(kept, folder, self._limits, self._unpacked) as layers:
                sources = [layer.source for layer in layers]
                found = await in_thread(lambda _: extract_kernel(sources, folder, self._limits, name))
                keep_fresh(layers, self._unpacked)
                return found

    @contextlib.contextmanager
    def _kept_layers(self, record: Record) -> Generator[builtins.list[Layer]]:
        """The layers of an image as they came, which stays meanwhile."""
        document = self._blobs.path(manifest_digest(record)).read_bytes()
        manifest = parse_manifest(document, "manifest", self._limits)
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._index.use(record.id, "what reads its layers"))
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
            record, by_name = self._index.find(name)
            wanted.setdefault(record.id, (record, set()))[1].update([by_name] if by_name and "@" not in by_name else ())
        images: builtins.list[SavedImage] = []
        with contextlib.ExitStack() as stack:
            for record, known in wanted.values():
                digest = manifest_digest(record)
                stack.enter_context(self._index.use(record.id, "a save"))
                document = self._blobs.path(digest).read_bytes()
                full = tuple(sorted(known))
                images.append(SavedImage(full, tuple(map(reference.familiar, full)), digest, document))
            yield archive_pieces(images, self._blobs.folder, self._limits)

    def tag(self, name: str, target: str) -> Image:
        """Give an image one more name; if another image has it, it moves.

        Raises:
            NotFoundError: there is no such image.
            InvalidInputError: a malformed name.
        """
        record, _ = self._index.find(name)
        wanted = reference.parse(target)
        if wanted.digest is not None:
            raise InvalidInputError(
                f"{target}: a tag names an image, a digest cannot be given", hint="such as team/app:1"
            )
        self._catalogue.add_references(record.id, (str(wanted),))
        return self._index.resolve(record.id)

    def _scratch(self) -> contextlib.AbstractContextManager[Path]:
        """See ``Layout.scratch``; what is kept only to save time makes room first."""
        self._unpacked.trim()
        return self._layout.scratch()
