"""Images from registries and to them."""

from __future__ import annotations

import asyncio
import weakref

from zonal.errors import InvalidInputError
from zonal.images import archive, reference, skopeo
from zonal.images.archive import Contents
from zonal.images.blobs import Blobs
from zonal.images.catalogue import Catalogue
from zonal.images.image import Pulled
from zonal.images.index import ImageIndex, manifest_digest
from zonal.images.layout import Layout
from zonal.images.limits import Limits
from zonal.images.making import ImageMaker, Progress, digest_of
from zonal.images.manifest import Descriptor, parse_manifest
from zonal.images.pull import LayerNews, Puller, quiet
from zonal.images.skopeo import ANONYMOUS, Access
from zonal.images.work import in_thread


class Exchange:
    """Pulls into one store and pushes from it; a name that two pull at once is pulled once."""

    def __init__(
        self,
        layout: Layout,
        catalogue: Catalogue,
        blobs: Blobs,
        index: ImageIndex,
        maker: ImageMaker,
        limits: Limits,
    ) -> None:
        self._layout = layout
        self._catalogue = catalogue
        self._blobs = blobs
        self._index = index
        self._maker = maker
        self._limits = limits
        self._puller = Puller(blobs, limits)
        self._pulls: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

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
            with self._layout.scratch() as folder:
                progress(f"asking {wanted.domain} for {wanted.familiar}")
                async with self._puller.pull(wanted, access, folder, news) as arriving:
                    names = (f"{wanted.repository}@{arriving.digest}",)
                    by = wanted if wanted.digest is None else wanted.without_tag()
                    names = (str(by), *names)
                    known = self._catalogue.by_id(digest_of(arriving.config))
                    if (
                        known
                        and known.manifest == digest_of(arriving.manifest)
                        and self._blobs.has_all(arriving.manifest)
                    ):
                        new = not set(names) <= set(known.references)
                        self._catalogue.add_references(known.id, names)
                        return Pulled(self._index.resolve(known.id), new)
                    contents = Contents("oci", (), arriving.config, arriving.manifest)
                    try:
                        image = await self._maker.make(
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
        record, _ = self._index.find(name)
        wanted = reference.parse(target or name)
        if wanted.digest is not None:
            raise InvalidInputError(f"{name}: an image is pushed by a tag, not by a digest")
        kept = manifest_digest(record)
        manifest = self._blobs.path(kept).read_bytes()
        media_type = parse_manifest(manifest, f"manifest of {name}", self._limits).media_type
        with self._layout.scratch() as folder, self._index.use(record.id, f"a push of {name}"):
            archive.write_layout(folder / "oci", Descriptor(media_type, kept, len(manifest)))
            with skopeo.options(wanted, access, folder, prefix="dest-") as arguments:
                shared = f"--src-shared-blob-dir={self._blobs.folder}"
                source = f"oci:{folder / 'oci'}"
                digest = await in_thread(
                    lambda stop: skopeo.push(source, wanted, [shared, *arguments], folder, stop=stop)
                )
        self._catalogue.add_references(record.id, (f"{wanted.repository}@{digest}",))
        return digest

    async def check_login(self, domain: str, access: Access) -> None:
        """Whether a registry takes credentials. Raises ``AccessDeniedError`` if not, and other ``ZonalError``."""
        reference.parse(f"{domain}/login")
        with self._layout.scratch() as folder:
            await in_thread(lambda stop: skopeo.check_login(domain, access, folder, stop=stop))
