"""Images as people use them, built of Debian's packages on this machine: nginx, redis, PostgreSQL, a web application.

Each has Debian's root filesystem, a layer of packages, and one of settings that replaces, removes and hides files of
the ones below. What is built is kept in the cache folder, by all that decides what is in it.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.lab import image_builder
from zonal.images.bootstrap import BootstrappedRoot, bootstrap, cache_folder
from zonal.images.manifest import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST

_FORMAT = 1
"""Raised when what is built changes in a manner that recipes do not show."""
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_INSTALL = (
    "printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d; "
    "apt-get install -q -y --no-install-recommends -o Dpkg::Options::=--force-unsafe-io -o APT::Sandbox::User=root "
    "-o APT::Keep-Downloaded-Packages=true {}; rm /usr/sbin/policy-rc.d; rm -f /var/log/apt/* /var/cache/apt/*.bin"
)


@dataclass(frozen=True)
class RealImage:
    """What an image is made of."""

    name: str
    base: str
    steps: tuple[str, ...]
    config: Mapping[str, Any]
    zstd: bool = False
    """Whether its layers above the base are compressed by zstd, and not by gzip."""
    written: Mapping[str, str] = field(default_factory=dict[str, str])
    """Files of the last layer, by their paths; those in a ``bin`` are programs."""


def _file(name: str) -> str:
    """A program for an image."""
    return (Path(__file__).with_name("image_files") / name).read_text()


NGINX = RealImage(
    name="nginx",
    base="debian:12",
    steps=(
        _INSTALL.format("nginx"),
        "rm -r /var/www/html; mkdir /var/www/html; rm /etc/nginx/sites-enabled/default; rm -r /usr/share/nginx/html",
    ),
    config={"Cmd": ["nginx", "-g", "daemon off;"], "Env": [_PATH], "ExposedPorts": {"80/tcp": {}}},
    written={
        "/var/www/html/index.html": "<h1>Served from a zone</h1>\n",
        "/etc/nginx/conf.d/site.conf": "server { listen 80; root /var/www/html; index index.html; }\n",
        "/usr/local/bin/get": _file("get"),
    },
)

REDIS = RealImage(
    name="redis",
    base="debian:12",
    steps=(
        _INSTALL.format("redis-server"),
        "mkdir /data; chown redis:redis /data; rm -r /var/lib/redis; rm /etc/redis/redis.conf",
    ),
    config={
        "Cmd": ["redis-server", "/etc/redis/zone.conf"],
        "Env": [_PATH],
        "User": "redis",
        "WorkingDir": "/data",
        "Volumes": {"/data": {}},
    },
    written={"/etc/redis/zone.conf": "dir /data\nappendonly yes\nappendfsync always\nbind 127.0.0.1\nsave ''\n"},
)

PYTHON = RealImage(
    name="app",
    base="debian:13",
    zstd=True,
    steps=(
        _INSTALL.format("python3-bottle"),
        "useradd --system application; rm -r /etc/cron.daily; mkdir /etc/cron.daily",
    ),
    config={
        "Entrypoint": ["python3", "app.py"],
        "Cmd": ["8000"],
        "Env": [_PATH, "GREETING=Hello", "PYTHONDONTWRITEBYTECODE=1"],
        "User": "application",
        "WorkingDir": "/srv/app",
    },
    written={
        "/usr/local/bin/get": _file("get"),
        "/srv/app/app.py": """\
import os
import sqlite3
import sys

import bottle


@bottle.get("/square/<number:int>")
def square(number: int):
    with sqlite3.connect(":memory:") as database:
        (result,) = database.execute("SELECT ? * ?", (number, number)).fetchone()
    return {"greeting": os.environ["GREETING"], "square": result, "user": os.getuid() != 0}


bottle.run(host="127.0.0.1", port=int(sys.argv[1]), quiet=True)
""",
    },
)

POSTGRESQL = RealImage(
    name="postgresql",
    base="debian:13",
    zstd=True,
    steps=(
        # No cluster of Debian's; and not the compiler for queries, which is half of the image.
        "mkdir /etc/postgresql-common; echo create_main_cluster = false > /etc/postgresql-common/createcluster.conf",
        _INSTALL.format("postgresql-17") + "; rm -f /usr/lib/x86_64-linux-gnu/libLLVM*",
        "rm -r /etc/postgresql-common; cd /var/lib/postgresql; mkdir -m 700 data; chown postgres:postgres data",
    ),
    config={
        "Cmd": ["serve"],
        "Env": [f"{_PATH}:/usr/lib/postgresql/17/bin", "PGDATA=/var/lib/postgresql/data"],
        "User": "postgres",
        "Volumes": {"/var/lib/postgresql/data": {}},
        "StopSignal": "SIGINT",
    },
    written={
        "/usr/local/bin/begin": _file("begin"),
        "/usr/local/bin/serve": _file("serve"),
        "/usr/local/bin/commits": _file("commits"),
    },
)

ALL = (NGINX, REDIS, PYTHON, POSTGRESQL)


@dataclass(frozen=True)
class BuiltImage:
    """An OCI image layout on this machine."""

    image: RealImage
    layout: Path

    def push(self, target: str, *options: str) -> None:
        """Sends it to a registry, by skopeo."""
        command = ["skopeo", "copy", "--quiet", *options, f"oci:{self.layout}", f"docker://{target}"]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def built(image: RealImage) -> BuiltImage:
    """The image, made now if it has not been before; by one process at a time."""
    folder = cache_folder() / "test-images"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(folder / "lock"):
        base = asyncio.run(bootstrap(image.base))
        parts = [_FORMAT, asdict(image), base.path.name, base.path.stat().st_mtime_ns]
        digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        layout = folder / f"{image.name}-{digest[:16]}"
        if not layout.exists():
            for old in folder.glob(f"{image.name}-*"):
                shutil.rmtree(old)
            with tempfile.TemporaryDirectory(dir=folder, prefix="making-") as scratch:
                _make(image, base, folder / f"apt-{base.path.stem}-{base.path.stat().st_mtime_ns}", Path(scratch))
                (Path(scratch) / "layout").replace(layout)
        return BuiltImage(image, layout)


def _make(image: RealImage, base: BootstrappedRoot, lists: Path, scratch: Path) -> None:
    work, layout = scratch / "work", scratch / "layout"
    work.mkdir()
    (layout / "blobs/sha256").mkdir(parents=True)
    *before, last = image.steps
    last = "; ".join((last, *(_writing(path, text) for path, text in image.written.items())))
    tars = image_builder.build(base.path, (*before, last), lists, work)
    packed = [_packed(base.path, layout, zstd=False), *(_packed(tar, layout, zstd=image.zstd) for tar in tars)]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": dict(image.config),
        "rootfs": {"type": "layers", "diff_ids": [diff_id for diff_id, _ in packed]},
        "history": [{"created_by": step} for step in (image.base, *image.steps)],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _document(config, OCI_CONFIG, layout),
        "layers": [descriptor for _, descriptor in packed],
    }
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [_document(manifest, OCI_MANIFEST, layout)]}
    (layout / "index.json").write_text(json.dumps(index))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def _writing(path: str, text: str) -> str:
    end = "END-OF-FILE"
    program = f"chmod +x {path}" if "/bin/" in path else "true"
    return f"mkdir -p {os.path.dirname(path)}; cat > {path} <<'{end}'\n{text}{end}\n{program}"  # noqa: PTH120


def _packed(tar: Path, layout: Path, *, zstd: bool) -> tuple[str, dict[str, Any]]:
    """A layer in the layout: the digest of its tar, and its descriptor."""
    program: Sequence[str] = ("zstd", "-q", "-3", "-T0", "-c") if zstd else ("gzip", "-1", "-n", "-c")
    packed = layout / "packing"
    with tar.open("rb") as source, packed.open("wb") as target:
        subprocess.run(program, stdin=source, stdout=target, check=True)
    descriptor = {
        "mediaType": f"application/vnd.oci.image.layer.v1.tar+{'zstd' if zstd else 'gzip'}",
        "digest": _digest(packed),
        "size": packed.stat().st_size,
    }
    packed.replace(layout / "blobs/sha256" / str(descriptor["digest"])[7:])
    return _digest(tar), descriptor


def _document(document: Mapping[str, Any], media_type: str, layout: Path) -> dict[str, Any]:
    data = json.dumps(document).encode()
    digest = hashlib.sha256(data).hexdigest()
    (layout / "blobs/sha256" / digest).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


@contextmanager
def _locked(path: Path) -> Generator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
