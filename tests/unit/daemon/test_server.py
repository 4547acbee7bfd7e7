from __future__ import annotations

import datetime
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.unit.daemon.local_zones import open_local_services
from zonal.api import control_pb2 as pb
from zonal.cli.client import Control
from zonal.cli.connect import open_socket
from zonal.daemon.server import TlsListener, only_instance, prepare_folder, serving
from zonal.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    InvalidInputError,
    UnavailableError,
    ZonalError,
)

TIMEOUT = 30


def info(channel: grpc.Channel) -> pb.InfoReply:
    with channel:
        return Control(channel).call("Info", pb.InfoRequest(), pb.InfoReply)


@contextmanager
def zonald(folder: Path) -> Generator[tuple[subprocess.Popen[bytes], Path]]:
    path = folder / "run" / "zonald.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        (folder / "notify").unlink(missing_ok=True)
        ready.bind(str(folder / "notify"))
        ready.settimeout(TIMEOUT)
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.unit.daemon.local_zonald", str(path), str(folder / "state")],
            env=os.environ | {"NOTIFY_SOCKET": str(folder / "notify")},
            stderr=subprocess.PIPE,
        )
        try:
            assert ready.recv(100) == b"READY=1"
            yield process, path
        finally:
            process.kill()
            process.communicate()


def test_only_its_owner_can_reach_it(folder: Path) -> None:
    with zonald(folder) as (_, path):
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert (folder / "state").stat().st_mode & 0o777 == 0o700


def test_it_ends_when_told_and_removes_its_socket(folder: Path) -> None:
    with zonald(folder) as (process, path):
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0
        assert not path.exists()


def test_a_client_is_told_that_it_stops(folder: Path) -> None:
    with zonald(folder) as (process, path), open_socket(path) as channel:
        run = pb.RunRequest(spec=pb.RunSpec(image="local:1", command=["sh", "-c", "echo on; sleep 1000"], name="named"))
        seen = b""
        with pytest.raises(UnavailableError, match="the zone goes on") as caught:
            for reply in Control(channel).converse("Run", [run], pb.RunReply):
                seen += reply.stdout
                if seen:
                    process.send_signal(signal.SIGTERM)
        assert "zonal zone logs -f named" in (caught.value.hint or "")


def test_one_that_was_killed_is_followed_by_another(folder: Path) -> None:
    with zonald(folder) as (process, path):
        process.kill()
        process.wait(TIMEOUT)
        assert path.exists()
    with zonald(folder) as (_, path):
        assert info(open_socket(path)).xen_version


def test_a_client_is_told_when_it_was_killed(folder: Path) -> None:
    with zonald(folder) as (process, path), open_socket(path) as channel:
        run = pb.RunRequest(spec=pb.RunSpec(image="local:1", command=["sh", "-c", "echo on; exec sleep 5"]))
        with pytest.raises(UnavailableError, match="connection to zonald failed"):
            for reply in Control(channel).converse("Run", [run], pb.RunReply):
                if reply.stdout:
                    process.kill()


def test_a_second_one_is_refused(folder: Path) -> None:
    lock = folder / "lock"
    with only_instance(lock):
        with pytest.raises(AlreadyExistsError, match=f"process {os.getpid()}") as caught, only_instance(lock):
            pass
        assert caught.value.hint
    with only_instance(lock):
        pass


def test_an_open_folder_is_refused(folder: Path) -> None:
    prepare_folder(folder / "new" / "er")
    assert (folder / "new" / "er").stat().st_mode & 0o777 == 0o700
    (folder / "new").chmod(0o750)
    with pytest.raises(AccessDeniedError, match="open to others"):
        prepare_folder(folder / "new")
    (folder / "file").touch()
    with pytest.raises(ZonalError):
        prepare_folder(folder / "file" / "x")


async def test_a_path_that_is_too_long_is_refused(folder: Path) -> None:
    async with open_local_services(folder) as services:
        with pytest.raises(InvalidInputError, match="107 bytes"):
            async with serving(services, folder / ("x" * 120)):
                pass


def run_main(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zonal.daemon.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT)


def test_without_xen_it_says_so_and_ends(folder: Path) -> None:
    done = run_main("--socket", str(folder / "s"), "--state-dir", str(folder / "state"))
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "zonald: Xen cannot be reached: there is no /dev/xen/privcmd"
    assert "Traceback" not in done.stderr
    assert not (folder / "state").exists()


def test_a_listener_without_certificates_is_refused() -> None:
    done = run_main("--listen-tls", "127.0.0.1:0")
    assert (done.returncode, done.stderr.splitlines()[0]) == (1, "zonald: --listen-tls needs --tls-dir")


@pytest.mark.parametrize("text", ["soon", "0", "-1", "inf", "nan", "86401"])
def test_a_patience_that_is_none_is_refused(text: str) -> None:
    done = run_main(f"--agent-timeout={text}")
    assert done.returncode == 1
    assert repr(text) in done.stderr.splitlines()[0]


class Authority:
    """A certificate authority for one test."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        self._certificate = self._sign(self._name, self._key.public_key(), authority=True)

    @property
    def pem(self) -> bytes:
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, name: str) -> tuple[bytes, bytes]:
        """Key and certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._sign(subject, key.public_key(), authority=False)
        return (
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
            certificate.public_bytes(serialization.Encoding.PEM),
        )

    def _sign(self, subject: x509.Name, public_key: Any, *, authority: bool) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(self._key, hashes.SHA256())
        )


async def test_over_tcp_only_clients_with_a_certificate_are_served(folder: Path) -> None:
    ours, theirs = Authority(), Authority()
    key, certificate = ours.issue("server")
    for name, data in (("ca.pem", ours.pem), ("server.key", key), ("server.pem", certificate)):
        (folder / name).write_bytes(data)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        target = f"localhost:{free.getsockname()[1]}"
    async with (
        open_local_services(folder) as services,
        serving(services, folder / "s", TlsListener(target, folder)),
    ):
        for client, served in ((ours.issue("client"), True), (theirs.issue("stranger"), False), ((None, None), False)):
            credentials = grpc.ssl_channel_credentials(ours.pem, *client)
            channel = cast("Any", grpc.aio).secure_channel(target, credentials)
            async with channel:
                call = channel.unary_unary(
                    "/zonal.control.v1.Control/Info",
                    request_serializer=pb.InfoRequest.SerializeToString,
                    response_deserializer=pb.InfoReply.FromString,
                )
                if served:
                    assert (await call(pb.InfoRequest())).xen_version
                else:
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        await call(pb.InfoRequest())
                    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_missing_certificates_are_told(folder: Path) -> None:
    async with open_local_services(folder) as services:
        with pytest.raises(InvalidInputError, match=r"ca\.pem"):
            async with serving(services, folder / "s", TlsListener("127.0.0.1:0", folder)):
                pass
        assert not (folder / "s").exists()
