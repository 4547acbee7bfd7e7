"""What an archive holds: a root filesystem, an OCI image layout, or what ``docker save`` wrote.

Nothing is unpacked: a layer is a range of the archive's file. Documents are bounded and their digests checked here;
layers are checked by whoever reads them (`layers`).
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from dataclasses import dataclass, field, replace
from typing import Final

from zonal.errors import InvalidInputError
from zonal.images import tarformat as tar
from zonal.images.config import PLATFORM, parse_config
from zonal.images.documents import Node, read_object, read_objects
from zonal.images.limits import DEFAULT, Limits
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
_MANIFEST_TYPES: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_CONFIG_TYPES: Final = (
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
)
_LAYER_TYPES: Final = re.compile(
    r"application/vnd\.oci\.image\.layer\.(?:nondistributable\.)?v1\.tar(?:\+gzip|\+zstd)?"
    r"|application/vnd\.docker\.image\.rootfs\.(?:diff|foreign\.diff)\.tar(?:\.gzip|\.zstd)?"
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
    """The diff id of an uncompressed layer that need not be verified any more."""


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
    """Find the image in an uncompressed archive.

    Raises:
        InvalidInputError: unknown format, nothing to run in it, several images, another platform, a document that is
            malformed or does not match its digest.
    """
    if format not in FORMATS:
        raise InvalidInputError(f"there is no image format {format!r}", hint=f"it is one of {', '.join(FORMATS)}")
    if format == "rootfs":
        return _rootfs(source)
    files = _list_files(source, limits, probing=format == "auto")
    if files is None:
        return _rootfs(source)
    if format == "oci" or (format == "auto" and files.keys() >= _OCI_NAMES):
        return _Oci(source, files, limits).read()
    if format == "docker" or "manifest.json" in files:
        return _docker(source, files, limits)
    if any(name in files for name in (*_OCI_NAMES, "repositories")):
        raise InvalidInputError(f"{source.label} looks like an image's archive, but has neither index nor manifest")
    return _rootfs(source)


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


def _check_layers(count: int, label: str, limits: Limits) -> None:
    if not count:
        raise InvalidInputError(f"{label} has no layers", hint="there is nothing in it to run")
    if count > limits.layers:
        raise InvalidInputError(f"{label} has {count} layers, more than {limits.layers}")


class _Oci:
    """An OCI image layout: image specification 1.1, "Image Layout"."""

    def __init__(self, source: Source, files: dict[str, Source], limits: Limits) -> None:
        self._source = source
        self._files = files
        self._limits = limits
        self._seen = 0

    def read(self) -> Contents:
        layout = read_object(self._top("oci-layout"), f"{self._source.label}: oci-layout")
        if not layout.text("imageLayoutVersion").startswith("1."):
            raise layout.refuse("imageLayoutVersion", f"is {layout.text('imageLayoutVersion')!r}, not 1.0.0")
        found: dict[str, Node] = {}
        names: list[str] = []
        others: set[str] = set()
        index = read_object(self._top("index.json"), f"{self._source.label}: index.json")
        self._collect(index, 0, found, names, others)
        if not found:
            what = f"is for {', '.join(sorted(others))}" if others else "holds no image"
            raise InvalidInputError(f"{self._source.label} {what}", hint=f"a zone runs {PLATFORM} only")
        if len(found) > 1:
            raise InvalidInputError(
                f"{self._source.label} holds {len(found)} images{': ' if names else ''}{', '.join(names)}",
                hint="make an archive of the one that you want",
            )
        document = self._read(next(iter(found.values())))
        return self._image(document, tuple(dict.fromkeys(names)))

    def _collect(self, index: Node, depth: int, found: dict[str, Node], names: list[str], others: set[str]) -> bool:
        """Gather manifests for our platform, the names given to them, and other platforms; whether there was one."""
        if depth > _NESTING:
            raise InvalidInputError(f"{self._source.label}: its indexes are nested too deep")
        any_matched = False
        for descriptor in index.nodes("manifests"):
            self._seen += 1
            if self._seen > _MANIFESTS:
                raise InvalidInputError(f"{self._source.label}: its indexes hold more than {_MANIFESTS} manifests")
            media_type = descriptor.text("mediaType")
            platform = descriptor.node("platform")
            spelling = f"{platform.text('os')}/{platform.text('architecture')}"
            if media_type in _INDEX_TYPES:
                index_within = read_object(self._read(descriptor), descriptor.label)
                matched = self._collect(index_within, depth + 1, found, names, others)
            elif media_type not in _MANIFEST_TYPES or ("platform" in descriptor and spelling != PLATFORM):
                if not spelling.startswith("unknown/"):
                    others.add(spelling if media_type in _MANIFEST_TYPES else media_type or "nothing that is named")
                continue
            else:
                matched = True
                found.setdefault(descriptor.digest("digest"), descriptor)
            if matched:
                annotations = descriptor.node("annotations")
                names.extend(name for key in _NAME_ANNOTATIONS if (name := annotations.text(key)))
                any_matched = True
        return any_matched

    def _image(self, document: bytes, names: tuple[str, ...]) -> Contents:
        label = f"{self._source.label}: manifest"
        manifest = read_object(document, label)
        if manifest.text("mediaType") not in ("", *_MANIFEST_TYPES):
            raise manifest.refuse("mediaType", f"is {manifest.text('mediaType')!r}, not that of an image")
        configuration = manifest.node("config")
        if configuration.text("mediaType") not in _CONFIG_TYPES:
            kind = configuration.text("mediaType")
            raise InvalidInputError(f"{label}: it is not a container image, but {kind or 'something unnamed'}")
        config = self._read(configuration)
        diff_ids = parse_config(config, f"{self._source.label}: configuration").diff_ids
        descriptors = manifest.nodes("layers")
        _check_layers(len(descriptors), self._source.label, self._limits)
        if len(descriptors) != len(diff_ids):
            raise InvalidInputError(f"{label} has {len(descriptors)} layers, the configuration {len(diff_ids)}")
        layers: list[Layer] = []
        for descriptor, diff_id in zip(descriptors, diff_ids, strict=True):
            if not _LAYER_TYPES.fullmatch(descriptor.text("mediaType")):
                raise descriptor.refuse("mediaType", f"is {descriptor.text('mediaType')!r}, which is not a layer's")
            layers.append(Layer(self._find(descriptor), descriptor.digest("digest"), diff_id))
        return Contents("oci", tuple(layers), config, document, names)

    def _find(self, descriptor: Node) -> Source:
        """The blob that a descriptor points at, its size checked."""
        name, size = _blob_name(descriptor), descriptor.size("size")
        found = self._files.get(name)
        if found is None:
            raise InvalidInputError(f"{self._source.label} lacks {name}", hint="the file is incomplete")
        if found.size != size:
            raise InvalidInputError(f"{found.label} has {found.size} bytes, where its descriptor says {size}")
        return found

    def _read(self, descriptor: Node) -> bytes:
        """The document that a descriptor points at, its digest checked."""
        found = self._find(descriptor)
        data = _document(self._files, _blob_name(descriptor), self._source, self._limits)
        if _digest(data) != descriptor.digest("digest"):
            raise InvalidInputError(f"{found.label} is corrupt: its digest is {_digest(data)}")
        return data

    def _top(self, name: str) -> bytes:
        return _document(self._files, name, self._source, self._limits)


def _blob_name(descriptor: Node) -> str:
    return f"blobs/sha256/{descriptor.digest('digest').removeprefix('sha256:')}"


def _docker(source: Source, files: dict[str, Source], limits: Limits) -> Contents:
    """What ``docker save`` writes: one entry an image in manifest.json, as moby's image specification v1.2 has it."""
    entries = read_objects(_document(files, "manifest.json", source, limits), f"{source.label}: manifest.json")
    if len(entries) != 1:
        names = [name for entry in entries for name in entry.texts("RepoTags")[:1]]
        raise InvalidInputError(
            f"{source.label} holds {len(entries)} images{': ' if names else ''}{', '.join(names)}",
            hint="make an archive of the one that you want",
        )
    entry = entries[0]
    name = entry.text("Config")
    config = _document(files, name, source, limits)
    stated = re.search(r"[0-9a-f]{64}", name)
    if stated and _digest(config) != f"sha256:{stated[0]}":
        raise InvalidInputError(f"{source.label}: {name} is corrupt: its digest is {_digest(config)}")
    diff_ids = parse_config(config, f"{source.label}: {name}").diff_ids
    paths = entry.texts("Layers")
    _check_layers(len(paths), source.label, limits)
    if len(paths) != len(diff_ids):
        raise InvalidInputError(f"{source.label}: manifest.json has {len(paths)} layers, {name} {len(diff_ids)}")
    layers: list[Layer] = []
    for path, diff_id in zip(paths, diff_ids, strict=True):
        blob = files.get(posixpath.normpath(path))
        if blob is None:
            raise InvalidInputError(f"{source.label} lacks the layer {path[:200]}", hint="the file is incomplete")
        layers.append(Layer(blob, None, diff_id))
    return Contents("docker", tuple(layers), config, None, entry.texts("RepoTags"))
