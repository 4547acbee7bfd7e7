"""Remove images, and what no image needs any more; and tell what they take on the disk."""

from __future__ import annotations

from zonal.errors import WrongStateError
from zonal.images import reference
from zonal.images.blobs import Blobs
from zonal.images.catalogue import Catalogue
from zonal.images.image import Pruned, Removed, Usage
from zonal.images.index import ImageIndex, short_id
from zonal.images.layout import Layout
from zonal.images.unpacked import Unpacked


class Remover:
    """Removes from one store; an image that somebody uses stays."""

    def __init__(
        self, layout: Layout, catalogue: Catalogue, blobs: Blobs, unpacked: Unpacked, index: ImageIndex
    ) -> None:
        self._layout = layout
        self._catalogue = catalogue
        self._blobs = blobs
        self._unpacked = unpacked
        self._index = index

    def usage(self) -> Usage:
        """What the images take on the disk, and what would be free without those that no zone uses."""
        used = self._index.used()
        records = self._catalogue.images()
        trees = {record.chain_id: self._tree_size(record.chain_id) for record in records}
        kept = {record.chain_id for record in records if record.id in used}
        needed = {digest for record in records if record.id in used for digest in self._blobs.of(record)}
        blobs = self._blobs.sizes()
        size = sum(trees.values()) + sum(blobs.values()) + self._unpacked.size
        held = sum(trees[chain_id] for chain_id in kept) + sum(blobs.get(digest, 0) for digest in needed)
        return Usage(len(records), len(used), size, size - held)

    def _tree_size(self, chain_id: str) -> int:
        """Bytes that an erofs takes on the disk, its holes left out."""
        return self._layout.erofs(chain_id).stat().st_blocks * 512

    def remove(self, name: str, *, force: bool = False) -> Removed:
        """Take a name away, and the image with its last name; by id, the image with all its names.

        Raises:
            NotFoundError: there is no such image.
            WrongStateError: a zone uses it; or it has several names, was named by its id, and ``force`` is not given.
        """
        record, by_name = self._index.find(name)
        tags = [each for each in record.references if "@" not in each]
        if by_name is not None and (tags if "@" in by_name else tags != [by_name]):
            self._catalogue.remove_reference(by_name)
            return Removed((reference.familiar(by_name),), ())
        if by_name is None and len(tags) > 1 and not force:
            names = ", ".join(map(reference.familiar, tags))
            what = f"image {short_id(record.id)} has several names: {names}"
            raise WrongStateError(what, hint="remove it by each of them, or use --force")
        if users := sorted({lease.user for lease in self._index.leases if lease.held.id == record.id}):
            raise WrongStateError(
                f"image {name} is in use by {', '.join(users)}", hint="remove what uses it first: `zonal zone rm`"
            )
        mine = self._blobs.of(record)
        if self._catalogue.remove_image(record.id):
            self._layout.erofs(record.chain_id).unlink(missing_ok=True)
        self._blobs.remove(mine, self._catalogue.images())
        self._unpacked.remove_unless(self._blobs.has)
        return Removed(tuple(map(reference.familiar, record.references)), (record.id,))

    def prune(self, *, everything: bool = False) -> Pruned:
        """Remove images without a tag, or with ``everything`` all that no zone uses, and layers that no image has."""
        used = self._index.used()
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
