"""An image's manifest: its configuration and layers, by digest, size and media type.

OCI image specification 1.1, "Image Manifest", and Docker's image manifest version 2, schema 2, which differ in the
names of their media types only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from zonal.errors import InvalidInputError
from zonal.images import compression
from zonal.images.documents import Node, read_object
from zonal.images.limits import Limits

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
MANIFEST_TYPES: Final = (OCI_MANIFEST, "application/vnd.docker.distribution.manifest.v2+json")
_CONFIG_TYPES: Final = (OCI_CONFIG, "application/vnd.docker.container.image.v1+json")
_LAYER_TYPES: Final = re.compile(
    r"application/vnd\.oci\.image\.layer\.(?:nondistributable\.)?v1\.tar(?:\+gzip|\+zstd)?"
    r"|application/vnd\.docker\.image\.rootfs\.(?:diff|foreign\.diff)\.tar(?:\.gzip|\.zstd)?"
)
_OCI_LAYERS: Final = {None: "tar", "gzip": "tar+gzip", "zstd": "tar+zstd"}


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What points at a blob."""

    media_type: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest that has been checked; the layers from the lowest up."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    media_type: str = OCI_MANIFEST

    @property
    def digests(self) -> tuple[str, ...]:
        """All blobs that it needs."""
        return (self.config.digest, *(layer.digest for layer in self.layers))


def parse_manifest(document: bytes, label: str, limits: Limits) -> Manifest:
    """Read a manifest.

    Raises:
        InvalidInputError: malformed, not that of a container image, or past a limit.
    """
    manifest = read_object(document, label)
    if manifest.text("mediaType") not in ("", *MANIFEST_TYPES):
        raise manifest.refuse("mediaType", f"is {manifest.text('mediaType')!r}, not that of an image")
    config = descriptor_of(manifest.node("config"))
    if config.media_type not in _CONFIG_TYPES:
        kind = config.media_type or "something unnamed"
        raise InvalidInputError(f"{label}: it is not a container image, but {kind}")
    if config.size > limits.document_bytes:
        raise InvalidInputError(f"{label}: its configuration has more than {limits.document_bytes} bytes")
    nodes = manifest.nodes("layers")
    check_count(len(nodes), label, limits)
    layers: list[Descriptor] = []
    for node in nodes:
        layer = descriptor_of(node)
        if not _LAYER_TYPES.fullmatch(layer.media_type):
            raise node.refuse("mediaType", f"is {layer.media_type!r}, which is not a layer's")
        if not layer.size:
            raise node.refuse("size", "is 0, and no layer is empty")
        layers.append(layer)
    if max(layer.size for layer in layers) > limits.layer_bytes or sum(x.size for x in layers) > limits.total_bytes:
        raise InvalidInputError(f"{label}: its layers have more than {limits.total_bytes} bytes")
    return Manifest(config, tuple(layers), manifest.text("mediaType") or OCI_MANIFEST)


def check_count(count: int, label: str, limits: Limits) -> None:
    """Raises ``InvalidInputError`` for an image with no layers, or with too many."""
    if not count:
        raise InvalidInputError(f"{label} has no layers", hint="there is nothing in it to run")
    if count > limits.layers:
        raise InvalidInputError(f"{label} has {count} layers, more than {limits.layers}")


def make_manifest(config: Descriptor, layers: Sequence[Descriptor]) -> bytes:
    """An OCI manifest, the same bytes for the same image."""
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": as_object(config),
        "layers": [as_object(layer) for layer in layers],
    }
    return json.dumps(document, separators=(",", ":")).encode()


def as_object(descriptor: Descriptor) -> dict[str, str | int]:
    """The JSON object of a descriptor."""
    return {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size}


def layer_type(head: bytes) -> str | None:
    """OCI's media type for a layer with these first bytes; None when OCI has none for its compression."""
    suffix = _OCI_LAYERS.get(compression.recognise(head))
    return suffix and f"application/vnd.oci.image.layer.v1.{suffix}"


def descriptor_of(node: Node) -> Descriptor:
    """Read a descriptor; raises ``InvalidInputError``."""
    return Descriptor(node.text("mediaType"), node.digest("digest"), node.size("size"))
