"""A registry that misbehaves: an HTTP server of the distribution API (OCI, "Endpoints") whose answers tests spoil."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.unit.images.tarballs import OciLayout, digest

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Hostile:
    """One that runs; `answers` come first, by the end of the path that is asked for."""

    port: int
    documents: dict[str, tuple[str, bytes]] = field(default_factory=dict[str, tuple[str, bytes]])
    answers: dict[str, Answer] = field(default_factory=dict[str, Answer])
    asked: list[str] = field(default_factory=list[str])
    over: threading.Event = field(default_factory=threading.Event)

    def name(self, tag: str = "1") -> str:
        return f"127.0.0.1:{self.port}/team/app:{tag}"

    def put(self, layout: OciLayout, **change: Any) -> dict[str, Any]:
        """An image, its manifest changed; the manifest."""
        for name, data in layout.files.items():
            if name.startswith("blobs/"):
                self.documents[f"blobs/sha256:{name.rpartition('/')[2]}"] = ("application/octet-stream", data)
        original = layout.files[f"blobs/sha256/{layout.manifests[0]['digest'][7:]}"]
        manifest = {**json.loads(original), **change}
        self.put_manifest(json.dumps(manifest).encode())
        return manifest

    def put_manifest(self, document: bytes, kind: str = "application/vnd.oci.image.manifest.v1+json") -> None:
        for tag in ("1", digest(document)):
            self.documents[f"manifests/{tag}"] = (kind, document)


def status(code: int, **headers: str) -> Answer:
    """A plain answer without a body."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


def body(data: bytes, *, length: int | None = None) -> Answer:
    """``data``, with a length of our choice before it; then the connection ends."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(data) if length is None else length))
        request.end_headers()
        request.wfile.write(data)
        request.close_connection = True

    return answer


@contextmanager
def hostile(certificate: tuple[Path, Path] | None = None) -> Generator[Hostile]:
    """Runs one, with TLS when it is given a certificate and its key."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.rpartition("/team/app/")[2] or self.path
            registry.asked.append(path)
            try:
                if path in registry.answers:
                    registry.answers[path](self)
                elif path in registry.documents:
                    kind, data = registry.documents[path]
                    self.send_response(200)
                    self.send_header("Content-Type", kind)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    if self.command != "HEAD":
                        self.wfile.write(data)
                else:
                    status(200 if self.path == "/v2/" else 404)(self)
            except OSError:
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    registry = Hostile(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield registry
    finally:
        registry.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def make_certificate(folder: Path, *, days: int) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 by itself, and its key; with negative ``days`` one that has expired."""
    key, request, extension = folder / "key.pem", folder / "request.pem", folder / "extension"
    certificate = folder / "certificate.pem"
    extension.write_text("subjectAltName=IP:127.0.0.1\n")
    for command in (
        ["req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request, "-subj", "/CN=127.0.0.1"],
        [
            "x509",
            "-req",
            "-in",
            request,
            "-signkey",
            key,
            "-out",
            certificate,
            "-days",
            str(days),
            "-extfile",
            extension,
        ],
    ):
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    return certificate, key
