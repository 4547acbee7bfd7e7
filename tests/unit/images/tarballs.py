"""Archives made for tests, by Python's own tarfile, and trees read back from them by it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zonal.images.tarformat import Source


def entry(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = len(data)
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def file(name: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, data=data, **fields)


def folder(name: str, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, tarfile.DIRTYPE, **fields)


def symlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, tarfile.SYMTYPE, linkname=target)


def hard_link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, tarfile.LNKTYPE, linkname=target)


def tarball(*entries: tuple[tarfile.TarInfo, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return buffer.getvalue()


@contextmanager
def source(data: bytes, label: str = "test.tar") -> Generator[Source]:
    fd = os.memfd_create("test")
    try:
        os.write(fd, data)
        yield Source(fd, 0, len(data), label)
    finally:
        os.close(fd)


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def configuration(layers: Sequence[bytes], settings: Mapping[str, Any] | None = None, **fields: Any) -> bytes:
    document: dict[str, Any] = {
        "architecture": "amd64",
        "os": "linux",
        "config": dict(settings or {}),
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
        **fields,
    }
    return json.dumps(document).encode()


class OciLayout:
    """An OCI image layout in the making: what each part points at can be spoilt before it is written."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}
        self.manifests: list[dict[str, Any]] = []

    def blob(self, data: bytes, media_type: str) -> dict[str, Any]:
        self.files[f"blobs/sha256/{digest(data)[7:]}"] = data
        return {"mediaType": media_type, "digest": digest(data), "size": len(data)}

    def image(self, layers: Sequence[bytes], config: bytes | None = None, **descriptor: Any) -> dict[str, Any]:
        """Add an image's blobs; its manifest's descriptor."""
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self.blob(
                configuration(layers) if config is None else config, "application/vnd.oci.image.config.v1+json"
            ),
            "layers": [
                self.blob(gzip.compress(layer, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip")
                for layer in layers
            ],
        }
        document = json.dumps(manifest).encode()
        return {**self.blob(document, "application/vnd.oci.image.manifest.v1+json"), **descriptor}

    def add(self, layers: Sequence[bytes], config: bytes | None = None, **descriptor: Any) -> OciLayout:
        self.manifests.append(self.image(layers, config, **descriptor))
        return self

    def tar(self) -> bytes:
        index = {"schemaVersion": 2, "manifests": self.manifests}
        files = {**self.files, "index.json": json.dumps(index).encode()}
        return tarball(folder("blobs"), folder("blobs/sha256"), *(file(name, data) for name, data in files.items()))


def docker_archive(
    layers: Sequence[bytes], config: bytes | None = None, names: Sequence[str] = ("app:1",), **manifest: Any
) -> bytes:
    config = configuration(layers) if config is None else config
    paths = [f"{hashlib.sha256(b'id' + layer).hexdigest()}/layer.tar" for layer in layers]
    described = {"Config": f"{digest(config)[7:]}.json", "RepoTags": list(names), "Layers": paths, **manifest}
    return tarball(
        *(file(path, layer) for path, layer in zip(paths, layers, strict=True)),
        file(f"{digest(config)[7:]}.json", config),
        file("manifest.json", json.dumps([described]).encode()),
    )


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
