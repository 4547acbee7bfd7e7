"""Images as one archive: an OCI layout whose ``manifest.json`` makes it docker's as well, as docker has it since 25."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from zonal.images import tarwriter
from zonal.images.limits import Limits
from zonal.images.manifest import OCI_INDEX, Descriptor, as_object, parse_manifest
from zonal.images.tarformat import padded

PIECE: Final = 256 << 10
"""Bytes given out at a time."""


@dataclass(frozen=True, slots=True)
class SavedImage:
    """An image to be written."""

    names: tuple[str, ...]
    """As docker has them in full, ``docker.io/library/app:1``."""
    short_names: tuple[str, ...]
    digest: str
    """Of its manifest."""
    manifest: bytes


def archive_pieces(images: Sequence[SavedImage], blobs: Path, limits: Limits) -> Iterator[bytes]:
    """The archive's bytes; blobs are read from the folder of that name (``sha256/HEX``) meanwhile.

    The same images give the same bytes, each blob once.
    """
    manifests: list[dict[str, Any]] = []
    entries: list[dict[str, Any]] = []
    written: set[str] = set()
    yield _member("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
    for image in images:
        manifest = parse_manifest(image.manifest, image.digest, limits)
        descriptor = as_object(Descriptor(manifest.media_type, image.digest, len(image.manifest)))
        for name in image.names or ("",):
            annotations = {
                "io.containerd.image.name": name,
                "org.opencontainers.image.ref.name": name.rpartition(":")[2],
            }
            manifests.append({**descriptor, **({"annotations": annotations} if name else {})})
        entries.append(
            {
                "Config": _path(manifest.config.digest),
                "RepoTags": list(image.short_names) or None,
                "Layers": [_path(layer.digest) for layer in manifest.layers],
            }
        )
        for digest in (image.digest, *manifest.digests):
            if digest not in written:
                written.add(digest)
                yield from _file(_path(digest), blobs / digest.replace(":", "/"))
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}
    yield _member("index.json", json.dumps(index).encode())
    yield _member("manifest.json", json.dumps(entries).encode())
    yield tarwriter.END


def _path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _member(name: str, data: bytes) -> bytes:
    return tarwriter.file(name.encode(), len(data)) + data.ljust(padded(len(data)), b"\0")


def _file(name: str, path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        size = left = path.stat().st_size
        yield tarwriter.file(name.encode(), size)
        while left:
            piece = file.read(min(PIECE, left))
            if not piece:
                raise EOFError(f"{path} has become shorter")
            left -= len(piece)
            yield piece
    yield bytes(padded(size) - size)
