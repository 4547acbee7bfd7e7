"""Debian's docker-registry on loopback, and images put into it by its HTTP API."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.unit.images.tarballs import OciLayout, digest

PASSWORD = 'a secret: with\\odd "characters"'
USER = "tester"


@dataclass(frozen=True)
class Registry:
    """One that runs."""

    folder: Path
    port: int
    headers: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def request(self, method: str, path: str, body: bytes = b"", kind: str = "") -> http.client.HTTPResponse:
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        link.request(method, path, body, {"Content-Type": kind or "application/octet-stream", **self.headers})
        answer = link.getresponse()
        answer.read()
        assert answer.status < 300, (method, path, answer.status)
        return answer

    def put_blob(self, repository: str, data: bytes) -> None:
        begun = self.request("POST", f"/v2/{repository}/blobs/uploads/")
        place = begun.headers["Location"].removeprefix(f"http://{self.host}")
        self.request("PUT", f"{place}{'&' if '?' in place else '?'}digest={digest(data)}", data)

    def put(self, repository: str, tag: str, layout: OciLayout, **change: Any) -> str:
        """An image of an OCI layout, its manifest changed; the name to pull it by."""
        manifest_digest = layout.manifests[0]["digest"]
        document = layout.files[f"blobs/sha256/{manifest_digest[7:]}"]
        for name, data in layout.files.items():
            if name.startswith("blobs/") and data != document:
                self.put_blob(repository, data)
        manifest = {**json.loads(document), **change}
        self.request("PUT", f"/v2/{repository}/manifests/{tag}", json.dumps(manifest).encode(), manifest["mediaType"])
        return f"{self.host}/{repository}:{tag}"

    def stored(self, blob: str) -> Path:
        """The file of a blob in the registry's own storage."""
        digits = blob.removeprefix("sha256:")
        return self.folder / "data/docker/registry/v2/blobs/sha256" / digits[:2] / digits / "data"


@contextmanager
def registry(
    folder: Path, *, password: bool = False, certificate: tuple[Path, Path] | None = None
) -> Generator[Registry]:
    """Runs a registry; with ``password``, for `USER` only; with a certificate and its key, by TLS."""
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings: dict[str, Any] = {
        "version": "0.1",
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    if password:
        line = subprocess.run(["htpasswd", "-Bbn", USER, PASSWORD], check=True, capture_output=True).stdout
        (folder / "htpasswd").write_bytes(line)
        settings["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    if certificate is not None:
        settings["http"]["tls"] = dict(zip(("certificate", "key"), map(str, certificate), strict=True))
    (folder / "config.yml").write_text(json.dumps(settings))  # JSON is YAML
    process = subprocess.Popen(
        ["docker-registry", "serve", str(folder / "config.yml")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OTEL_TRACES_EXPORTER": "none"},
    )
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
        yield Registry(folder, port)
    finally:
        process.kill()
        process.wait()


def make_authority(folder: Path, *addresses: str) -> tuple[Path, tuple[Path, Path]]:
    """A certificate of an authority, and one that it has given to a registry at these addresses, with its key."""
    folder.mkdir()
    (folder / "names").write_text("subjectAltName=" + ",".join(f"IP:{address}" for address in addresses))
    key = "req -newkey rsa:2048 -nodes"
    for command in (
        f"{key} -x509 -days 2 -subj /CN=authority -keyout ca.key -out ca.pem",
        f"{key} -subj /CN=registry -keyout key.pem -out request.pem",
        "x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out registry.pem",
    ):
        subprocess.run(["openssl", *command.split()], check=True, capture_output=True, cwd=folder)
    return folder / "ca.pem", (folder / "registry.pem", folder / "key.pem")
