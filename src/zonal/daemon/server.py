"""Where zonald listens: a unix socket of root's alone, and for the lab TCP with certificates on both sides."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import stat
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio

from zonal.api.streams import streams_path
from zonal.daemon.control import Services, make_control
from zonal.daemon.rpc import CHANNEL_OPTIONS
from zonal.daemon.stream_sockets import serving_streams
from zonal.errors import AccessDeniedError, AlreadyExistsError, InvalidInputError, UnavailableError

log = logging.getLogger(__name__)

STOP_GRACE = 5.0
"""Seconds that calls get to end once zonald stops."""
MAX_SOCKET_PATH = 107
"""Bytes: ``sun_path`` of linux/un.h, less the NUL."""
_SERVER_OPTIONS = (
    *CHANNEL_OPTIONS,
    # A second zonald must not silently share the port of the first.
    ("grpc.so_reuseport", 0),
)


@dataclass(frozen=True)
class TlsListener:
    """A TCP address, ``HOST:PORT``, and the folder of ``ca.pem``, ``server.pem`` and ``server.key``."""

    address: str
    folder: Path


@asynccontextmanager
async def serving(services: Services, socket: Path, tls: TlsListener | None = None) -> AsyncGenerator[None]:
    """Serves the control API within the block; at its end attached clients are told, and zones go on.

    Raises ``ZonalError`` when it cannot listen there. The caller holds the lock on ``socket``.
    """
    stopping = asyncio.Event()
    _check_length(streams_path(socket))
    async with serving_streams(streams_path(socket)) as sockets:
        server: grpc.aio.Server = cast("Any", grpc.aio).server(
            handlers=[make_control(services, stopping, sockets)], options=_SERVER_OPTIONS
        )
        bind_socket(server, socket)
        try:
            if tls:
                _bind_tls(server, tls)
            await server.start()
            try:
                yield
            finally:
                stopping.set()
                await server.stop(STOP_GRACE)
        finally:
            socket.unlink(missing_ok=True)


@contextmanager
def only_instance(path: Path) -> Generator[None]:
    """Holds a lock file within the block. Raises ``AlreadyExistsError`` when another process has it."""
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = file.read(16).strip() or "unknown"
            raise AlreadyExistsError(
                f"another zonald runs already, process {holder}: it holds {path}",
                hint="stop it first: systemctl stop zonald",
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def prepare_folder(folder: Path) -> None:
    """Makes a folder that only we can enter, or checks that one is so. Raises ``AccessDeniedError``."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        raise AccessDeniedError(
            f"the folder {folder} cannot be made or entered: {error.strerror}", hint="run zonald as root"
        ) from error
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise AccessDeniedError(
            f"the folder {folder} is open to others than user {os.geteuid()}",
            hint=f"chown {os.geteuid()} {folder} && chmod 700 {folder}, or choose another folder",
        )


def _check_length(socket: Path) -> None:
    if len(os.fsencode(socket)) > MAX_SOCKET_PATH:
        raise InvalidInputError(
            f"the socket's path has more than {MAX_SOCKET_PATH} bytes: {socket}", hint="give a shorter one to --socket"
        )


def bind_socket(server: grpc.aio.Server, socket: Path) -> None:
    """Has it listen on a unix socket that only we can connect to. Raises ``ZonalError``."""
    _check_length(socket)
    # What a killed zonald left; that none runs is known from the lock.
    socket.unlink(missing_ok=True)
    before = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix:{socket}")
    except RuntimeError as error:
        raise UnavailableError(f"cannot listen on {socket}", hint="is its folder there and writable?") from error
    finally:
        os.umask(before)
    socket.chmod(0o600)


def _bind_tls(server: grpc.aio.Server, tls: TlsListener) -> None:
    try:
        ca, chain, key = ((tls.folder / name).read_bytes() for name in ("ca.pem", "server.pem", "server.key"))
    except OSError as error:
        raise InvalidInputError(
            f"the certificates cannot be read: {error.filename}: {error.strerror}",
            hint="--tls-dir needs ca.pem, server.pem and server.key",
        ) from error
    credentials = grpc.ssl_server_credentials([(key, chain)], root_certificates=ca, require_client_auth=True)
    try:
        port = server.add_secure_port(tls.address, credentials)
    except RuntimeError as error:
        raise UnavailableError(
            f"cannot listen on {tls.address}", hint="is the address this machine's, and the port free?"
        ) from error
    log.info("listening on %s (TCP, port %d, with certificates)", tls.address, port)
