"""Which image a name stands for: names, ids and beginnings of ids; and leases, which keep an image while it is used."""

from __future__ import annotations

import builtins
import re
from typing import Final

from zonal.errors import InvalidInputError, NotFoundError, WrongStateError
from zonal.images import config, reference
from zonal.images.blobs import Blobs
from zonal.images.catalogue import Catalogue, Record
from zonal.images.config import PLATFORM, ImageConfig
from zonal.images.image import Image
from zonal.images.layout import Layout
from zonal.images.lease import Lease

_ID: Final = re.compile(r"(?:sha256:)?([0-9a-f]{2,64})")


class ImageIndex:
    """The images of one store, as the catalogue has them."""

    def __init__(self, layout: Layout, catalogue: Catalogue, blobs: Blobs) -> None:
        self._layout = layout
        self._catalogue = catalogue
        self._blobs = blobs
        self.leases: set[Lease[Image]] = set()

    def list(self) -> builtins.list[Image]:
        """Every image, the one imported last first."""
        return [self.image(record) for record in self._catalogue.images()]

    def resolve(self, name: str) -> Image:
        """The image that a name, an id, or the beginning of an id (two digits or more) stands for.

        Raises:
            NotFoundError: there is none.
            InvalidInputError: malformed, or the beginning of several ids.
        """
        return self.image(self.find(name)[0])

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
            raise unknown(image_id)
        return Lease(self.leases, self.image(record), user)

    def used(self) -> set[str]:
        """The ids of the images that somebody uses."""
        return {lease.held.id for lease in self.leases}

    def find(self, name: str) -> tuple[Record, str | None]:
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
                    raise unknown(name)
                return found, None
            found = self._catalogue.by_name(str(wanted))
            if found is not None:
                return found, str(wanted)
        if not digits:
            raise unknown(name)
        matches = self._catalogue.by_id_prefix(f"sha256:{digits[1]}", 2)
        if len(matches) > 1:
            raise InvalidInputError(f"{name} is the beginning of several images' ids", hint="give more of its digits")
        if not matches:
            raise unknown(name)
        return matches[0], None

    def image(self, record: Record) -> Image:
        """A record as others see it."""
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


def unknown(name: str) -> NotFoundError:
    """The error for a name that stands for no image."""
    return NotFoundError(
        f"there is no image {name}",
        hint="`zonal image ls` shows what is there; `zonal image import` or `zonal image bootstrap` adds to it",
    )


def short_id(image_id: str) -> str:
    """An id as people type it."""
    return image_id.removeprefix("sha256:")[:12]


def manifest_digest(record: Record) -> str:
    """The digest of an image's manifest. Raises ``WrongStateError`` for an image whose layers were not kept."""
    if record.manifest is None:
        what = f"{short_id(record.id)} was imported by an older Zonal, without its layers"
        raise WrongStateError(what, hint="import it again")
    return record.manifest
