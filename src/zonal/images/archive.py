"""What an archive holds: a root filesystem, an OCI image layout, or what ``docker save`` wrote.

Nothing is unpacked: a layer is a range of the archive's file. Documents are bounded and their digests checked here;
layers are checked by whoever reads them (`layers`).
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from zonal.errors import InvalidInputError
from zonal.images import tarformat as tar
from zonal.images.arrival import Arrival
from zonal.images.config import PLATFORM, parse_config
from zonal.images.documents import Node, read_object, read_objects
from zonal.images.limits import DEFAULT, Limits
from zonal.images.manifest import (
    MANIFEST_TYPES,
    OCI_INDEX,
    Descriptor,
    Manifest,
    as_object,
    check_count,
    descriptor_of,
    parse_manifest,
)
from zonal.images.tarformat import Source
from zonal.images.tarreader import read_members

FORMATS: Final = ("auto", "rootfs", "oci", "docker")

_OCI_NAMES: Final = frozenset({"oci-layout", "index.json"})
_TOP_NAMES: Final = re.compile(
    r"oci-layout|index\.json|manifest\.json|repositories|blobs(?:/.*)?|[0-9a-f]{64}(?:\.json|\.tar|/.*)?"
)
"""What is at the top of an OCI layout or of a docker archive; a root filesystem has something else within it."""

_MEMBERS: Final = 16 * 1024
"""Members of an OCI or docker archive: a few a layer."""
_MANIFESTS: Final = 1024
"""Entries of all indexes together."""
_NESTING: Final = 4
_INDEX_TYPES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_NAME_ANNOTATIONS: Final = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer, compressed or not, and what it has to turn out to be."""

    source: Source
    digest: str | None
    """Of the bytes as they are; None where nothing states it."""
    diff_id: str | None
    """Of the uncompressed tar; None for a root filesystem, which comes without a configuration."""
    verified: str | None = None
    """The digest of the bytes as they are, where that is known by now and need not be made again."""
    stored: bool = False
    """Whether they are a blob of the store's own, which was verified when it came."""
    arrival: Arrival | None = None
    """Of one that is still on its way; what is said of it above holds once it is there."""


@dataclass(frozen=True, slots=True)
class Contents:
    """An image in an archive."""

    format: str
    """``rootfs``, ``oci`` or ``docker``."""
    layers: tuple[Layer, ...]
    config: bytes | None
    """The configuration's document; None for a root filesystem."""
    manifest: bytes | None = None
    """The OCI manifest's document, where there is one."""
    names: tuple[str, ...] = field(default=())
    """Names that the archive gives the image, as they stand there."""

    def of_digest(self, digest: str) -> Contents:
        """The same, where the digest of the whole archive is known: that is the diff id of a root filesystem."""
        if self.format != "rootfs":
            return self
        return replace(self, layers=(replace(self.layers[0], verified=digest),))


def read_archive(source: Source, format: str, limits: Limits = DEFAULT) -> Contents:
    """Find the one image in an uncompressed archive.

    Raises:
        InvalidInputError: unknown format, nothing to run in it, several images, another platform, a document that is
            malformed or does not match its digest.
    """
    found = read_archives(source, format, limits)
    if len(found) > 1:
        names = [name for contents in found for name in contents.names]
        raise InvalidInputError(
            f"{source.label} holds {len(found)} images{': ' if names else ''}{', '.join(names)}",
            hint="take in all of them with `zonal image load`, or make an archive of the one that you want",
        )
    return found[0]


def read_archives(source: Source, format: str, limits: Limits = DEFAULT) -> list[Contents]:
    """Find all images for our platform in an uncompressed archive, at least one.

    Raises:
        InvalidInputError: as for `read_archive`, but for their number.
    """
    if format not in FORMATS:
        raise InvalidInputError(f"there is no image format {format!r}", hint=f"it is one of {', '.join(FORMATS)}")
    if format == "rootfs":
        return [_rootfs(source)]
    files = _list_files(source, limits, probing=format == "auto")
    if files is None:
        return [_rootfs(source)]
    if format == "oci" or (format == "auto" and files.keys() >= _OCI_NAMES):
        return _Oci(source, files, limits).read()
    if format == "docker" or "manifest.json" in files:
        return _docker(source, files, limits)
    if any(name in files for name in (*_OCI_NAMES, "repositories")):
        raise InvalidInputError(f"{source.label} looks like an image's archive, but has neither index nor manifest")
    return [_rootfs(source)]


def _rootfs(source: Source) -> Contents:
    return Contents("rootfs", (Layer(source, None, None),), None)


def _list_files(source: Source, limits: Limits, *, probing: bool) -> dict[str, Source] | None:
    """Every file of an OCI or docker archive by its name; None, when probing, as soon as it is clearly neither."""
    files: dict[str, Source] = {}
    links: dict[str, str] = {}
    for count, member in enumerate(read_members(source, limits)):
        name = os.fsdecode(member.name).strip("/").removeprefix("./")
        if name in ("", "."):
            continue
        if probing and not _TOP_NAMES.fullmatch(name):
            return None
        if count > _MEMBERS:
            raise InvalidInputError(f"{source.label} has more than {_MEMBERS} members, too many for an image's archive")
        if member.kind == tar.REGULAR and member.sparse is None:
            files[name] = Source(source.fd, member.data, member.size, f"{source.label}: {name}")
        elif member.kind == tar.SYMLINK:
            # docker once wrote a layer that two images share as a link from one to the other.
            links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), os.fsdecode(member.link)))
        elif member.kind == tar.HARD_LINK:
            links[name] = posixpath.normpath(os.fsdecode(member.link))
    for name, target in links.items():
        if target in files:
            files[name] = files[target]
    return files


def _document(files: dict[str, Source], name: str, archive: Source, limits: Limits) -> bytes:
    found = files.get(name)
    if found is None:
        raise InvalidInputError(f"{archive.label} lacks {name}", hint="the file is incomplete, or of another format")
    if found.size > limits.document_bytes:
        raise InvalidInputError(f"{found.label} has {found.size} bytes, more than {limits.document_bytes}")
    data = os.pread(found.fd, found.size, found.offset)
    if len(data) != found.size:
        raise InvalidInputError(f"{found.label} is truncated", hint="make or fetch the file again")
    return data


def _digest(document: bytes) -> str:
    return f"sha256:{hashlib.sha256(document).hexdigest()}"


def write_layout(folder: Path, manifest: Descriptor) -> None:
    """Write an OCI layout of one image in a new folder, its blobs being elsewhere."""
    folder.mkdir()
    (folder / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [as_object(manifest)]}
    (folder / "index.json").write_text(json.dumps(index))


def pair_layers(
    manifest: Manifest, diff_ids: Sequence[str], label: str, sources: Sequence[Source]
) -> tuple[Layer, ...]:
    """The layers of a manifest with what the configuration says that they hold. Raises ``InvalidInputError``."""
    if len(manifest.layers) != len(diff_ids):
        raise InvalidInputError(f"{label} has {len(manifest.layers)} layers, the configuration {len(diff_ids)}")
    triples = zip(sources, manifest.layers, diff_ids, strict=True)
    return tuple(Layer(source, descriptor.digest, diff_id) for source, descriptor, diff_id in triples)


class _Oci:
    """An OCI image layout: image specification 1.1, "Image Layout"."""

    def __init__(self, source: Source, files: dict[str, Source], limits: Limits) -> None:
        self._source = source
        self._files = files
        self._limits = limits
        self._seen = 0

    def read(self) -> list[Contents]:
        layout = read_object(self._top("oci-layout"), f"{self._source.label}: oci-layout")
        if not layout.text("imageLayoutVersion").startswith("1."):
            raise layout.refuse("imageLayoutVersion", f"is {layout.text('imageLayoutVersion')!r}, not 1.0.0")
        found: dict[Descriptor, list[str]] = {}
        others: set[str] = set()
        index = read_object(self._top("index.json"), f"{self._source.label}: index.json")
        self._collect(index, 0, (), found, others)
        if not found:
            what = f"is for {', '.join(sorted(others))}" if others else "holds no image"
            raise InvalidInputError(f"{self._source.label} {what}", hint=f"a zone runs {PLATFORM} only")
        return [self._image(self._read(descriptor), tuple(dict.fromkeys(names))) for descriptor, names in found.items()]

    def _collect(
        self,
        index: Node,
        depth: int,
        names: tuple[str, ...],
        found: dict[Descriptor, list[str]],
        others: set[str],
    ) -> None:
        """Gather manifests for our platform with the names given to them, and to indexes above, and other platforms."""
        if depth > _NESTING:
            raise InvalidInputError(f"{self._source.label}: its indexes are nested too deep")
        for descriptor in index.nodes("manifests"):
            self._seen += 1
            if self._seen > _MANIFESTS:
                raise InvalidInputError(f"{self._source.label}: its indexes hold more than {_MANIFESTS} manifests")
            media_type = descriptor.text("mediaType")
            platform = descriptor.node("platform")
            spelling = f"{platform.text('os')}/{platform.text('architecture')}"
            annotations = descriptor.node("annotations")
            given = (*names, *(name for key in _NAME_ANNOTATIONS if (name := annotations.text(key))))
            if media_type in _INDEX_TYPES:
                index_within = read_object(self._read(descriptor_of(descriptor)), descriptor.label)
                self._collect(index_within, depth + 1, given, found, others)
            elif media_type not in MANIFEST_TYPES or ("platform" in descriptor and spelling != PLATFORM):
                if not spelling.startswith("unknown/"):
                    others.add(spelling if media_type in MANIFEST_TYPES else media_type or "nothing that is named")
            else:
                found.setdefault(descriptor_of(descriptor), []).extend(given)

    def _image(self, document: bytes, names: tuple[str, ...]) -> Contents:
        label = f"{self._source.label}: manifest"
        manifest = parse_manifest(document, label, self._limits)
        config = self._read(manifest.config)
        diff_ids = parse_config(config, f"{self._source.label}: configuration").diff_ids
        layers = pair_layers(manifest, diff_ids, label, [self._find(descriptor) for descriptor in manifest.layers])
        return Contents("oci", layers, config, document, names)

    def _find(self, descriptor: Descriptor) -> Source:
        """The blob that a descriptor points at, its size checked."""
        name, size = _blob_name(descriptor), descriptor.size
        found = self._files.get(name)
        if found is None:
            raise InvalidInputError(f"{self._source.label} lacks {name}", hint="the file is incomplete")
        if found.size != size:
            raise InvalidInputError(f"{found.label} has {found.size} bytes, where its descriptor says {size}")
        return found

    def _read(self, descriptor: Descriptor) -> bytes:
        """The document that a descriptor points at, its digest checked."""
        found = self._find(descriptor)
        data = _document(self._files, _blob_name(descriptor), self._source, self._limits)
        if _digest(data) != descriptor.digest:
            raise InvalidInputError(f"{found.label} is corrupt: its digest is {_digest(data)}")
        return data

    def _top(self, name: str) -> bytes:
        return _document(self._files, name, self._source, self._limits)


def _blob_name(descriptor: Descriptor) -> str:
    return f"blobs/sha256/{descriptor.digest.removeprefix('sha256:')}"


def _docker(source: Source, files: dict[str, Source], limits: Limits) -> list[Contents]:
    """What ``docker save`` writes: one entry an image in manifest.json, as moby's image specification v1.2 has it."""
    entries = read_objects(_document(files, "manifest.json", source, limits), f"{source.label}: manifest.json")
    if not 0 < len(entries) <= _MANIFESTS:
        raise InvalidInputError(f"{source.label} holds {len(entries)} images")
    return [_docker_image(source, entry, files, limits) for entry in entries]


def _docker_image(source: Source, entry: Node, files: dict[str, Source], limits: Limits) -> Contents:
    name = entry.text("Config")
    config = _document(files, name, source, limits)
    stated = re.search(r"[0-9a-f]{64}", name)
    if stated and _digest(config) != f"sha256:{stated[0]}":
        raise InvalidInputError(f"{source.label}: {name} is corrupt: its digest is {_digest(config)}")
    diff_ids = parse_config(config, f"{source.label}: {name}").diff_ids
    paths = entry.texts("Layers")
    check_count(len(paths), source.label, limits)
    if len(paths) != len(diff_ids):
        raise InvalidInputError(f"{source.label}: manifest.json has {len(paths)} layers, {name} {len(diff_ids)}")
    layers: list[Layer] = []
    for path, diff_id in zip(paths, diff_ids, strict=True):
        blob = files.get(posixpath.normpath(path))
        if blob is None:
            raise InvalidInputError(f"{source.label} lacks the layer {path[:200]}", hint="the file is incomplete")
        layers.append(Layer(blob, None, diff_id))
    return Contents("docker", tuple(layers), config, None, entry.texts("RepoTags"))
