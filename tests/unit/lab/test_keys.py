"""The keys of a lab: private, and good for mutual TLS whatever the clock says."""

from __future__ import annotations

import datetime
import socket
import ssl
import stat
import subprocess
import threading
from pathlib import Path

import pytest
from cryptography import x509

from zonal.lab.keys import FOR_SERVER, make_keys


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lab") / "keys"
    make_keys(folder)
    return folder


def test_nobody_else_can_read_them(keys: Path) -> None:
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys.iterdir()} == {0o600}


def test_the_authority_can_sign_no_more(keys: Path) -> None:
    assert not (keys / "ca.key").exists()
    assert set(FOR_SERVER) <= {path.name for path in keys.iterdir()}


def test_no_clock_is_wrong_for_them(keys: Path) -> None:
    for name in ("ca.pem", "server.pem", "client.pem"):
        certificate = x509.load_pem_x509_certificate((keys / name).read_bytes())
        assert certificate.not_valid_before_utc <= datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
        assert certificate.not_valid_after_utc.year == 9999


def connect(server: ssl.SSLContext, client: ssl.SSLContext) -> bytes:
    """What the server says to a client that gets in."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with theirs:
            try:
                with server.wrap_socket(theirs, server_side=True) as tls:
                    tls.sendall(b"welcome")
            except ssl.SSLError:
                return

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with ours, client.wrap_socket(ours, server_hostname="127.0.0.1") as tls:
            return tls.recv(16)
    finally:
        thread.join()


def server_context(keys: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys / "server.pem", keys / "server.key")
    context.load_verify_locations(keys / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(keys: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(keys / "ca.pem"))


def test_each_side_accepts_the_other(keys: Path) -> None:
    client = client_context(keys)
    client.load_cert_chain(keys / "client.pem", keys / "client.key")
    assert connect(server_context(keys), client) == b"welcome"


def test_a_client_of_another_lab_is_refused(keys: Path, tmp_path: Path) -> None:
    make_keys(tmp_path / "keys")
    client = client_context(keys)
    client.load_cert_chain(tmp_path / "keys/client.pem", tmp_path / "keys/client.key")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        assert connect(server_context(keys), client)


def test_a_server_of_another_lab_is_refused(keys: Path, tmp_path: Path) -> None:
    make_keys(tmp_path / "keys")
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(server_context(tmp_path / "keys"), client_context(keys))


def test_ssh_reads_its_key(keys: Path) -> None:
    shown = subprocess.run(["ssh-keygen", "-y", "-f", keys / "ssh_user"], check=True, capture_output=True, text=True)
    assert shown.stdout.split()[:2] == (keys / "ssh_user.pub").read_text().split()[:2]
