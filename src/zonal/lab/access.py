"""The ways into a running lab: zonald's control API over mutual TLS, and ssh."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any, cast

import grpc
import grpc.aio

from zonal.api.control_pb2 import InfoReply, InfoRequest, ListZonesReply, ListZonesRequest, Zone
from zonal.api.control_pb2_grpc import ControlStub
from zonal.errors import UnavailableError
from zonal.lab.commands import environment
from zonal.lab.paths import LabPaths
from zonal.lab.requirements import require

# A lab that has just begun to listen must be found within moments, not after gRPC's patient back-off. The second number
# is also how long one attempt may take: QEMU takes connections that nobody in the lab listens for yet. Only for whoever
# tries again: on a busy host a handshake may well take longer.
_EAGER = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 2000),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


# A socket's name may have 107 bytes (unix(7)), and ssh adds 17 of its own while it makes one.
_CONTROL_PATH_LENGTH = 90


@dataclass(frozen=True)
class Endpoint:
    """Where a lab's zonald answers, and what to show it."""

    target: str
    """As gRPC takes it, such as ``127.0.0.1:40123``."""
    credentials: grpc.ChannelCredentials


def endpoint(paths: LabPaths, port: int) -> Endpoint:
    """The endpoint of the lab whose zonald is reached on ``port`` of 127.0.0.1."""
    authority, key, certificate = ((paths.keys / name).read_bytes() for name in ("ca.pem", "client.key", "client.pem"))
    return Endpoint(f"127.0.0.1:{port}", grpc.ssl_channel_credentials(authority, key, certificate))


async def answer(reached: Endpoint, seconds: float) -> InfoReply:
    """What zonald says of itself, once it answers; raises `UnavailableError` when it does not within ``seconds``."""
    try:
        async with asyncio.timeout(seconds), _channel(reached) as channel:
            # The generated stub has no types.
            call = cast("Any", ControlStub)(channel).Info(InfoRequest(), wait_for_ready=True)
            return cast("InfoReply", await call)
    except (TimeoutError, grpc.aio.AioRpcError) as error:
        reason = error.details() if isinstance(error, grpc.aio.AioRpcError) else f"no answer in {seconds:.0f} s"
        raise UnavailableError(f"zonald in the lab does not answer on {reached.target}: {reason}") from error


async def zones_alive(reached: Endpoint, seconds: float) -> list[Zone]:
    """Those that run, or are to be started by their policy; raises `UnavailableError` as ``answer`` does."""
    try:
        async with _channel(reached) as channel:
            call = cast("Any", ControlStub)(channel).ListZones(ListZonesRequest(), timeout=seconds)
            return list(cast("ListZonesReply", await call).zones)
    except grpc.aio.AioRpcError as error:
        raise UnavailableError(f"zonald in the lab does not list its zones: {error.details()}") from error


def _channel(reached: Endpoint) -> grpc.aio.Channel:
    return grpc.aio.secure_channel(reached.target, reached.credentials, options=list(_EAGER))


def ssh_command(paths: LabPaths, port: int, command: Sequence[str], *, terminal: bool = False) -> list[str]:
    """The ssh command line that runs ``command`` (one line for the shell there) in the lab, or a shell without one."""
    return [
        *(require("ssh"), "-F", "none", "-p", str(port), "-l", "root"),
        *("-i", str(paths.keys / "ssh_user"), "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none"),
        *("-o", f'UserKnownHostsFile="{paths.keys / "known_hosts"}"', "-o", "GlobalKnownHostsFile=none"),
        *("-o", "HostKeyAlias=lab", "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes"),
        *("-o", "LogLevel=ERROR", "-o", "ConnectTimeout=30", "-o", "ServerAliveInterval=30"),
        *_shared_connection(paths, port),
        *(["-t"] if terminal else ["-T"]),
        *("127.0.0.1", *command),
    ]


def _shared_connection(paths: LabPaths, port: int) -> list[str]:
    """Keeps a connection for the next command: making one takes an emulated host a second."""
    control = paths.folder / f"ssh-{port}"
    if len(str(control)) > _CONTROL_PATH_LENGTH:
        return []
    return ["-o", "ControlMaster=auto", "-o", f'ControlPath="{control}"', "-o", "ControlPersist=60"]


def run_in_lab(paths: LabPaths, port: int, command: str, stdin: bytes | IO[bytes] = b"") -> bytes:
    """Runs a shell command in the lab as root and gives its output; raises `UnavailableError` when it fails."""
    argv = ssh_command(paths, port, [command])
    if isinstance(stdin, bytes):
        done = subprocess.run(argv, input=stdin, capture_output=True, check=False, env=environment())
    else:
        done = subprocess.run(argv, stdin=stdin, capture_output=True, check=False, env=environment())
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip()
        raise UnavailableError(f"in the lab {paths.name}: {command.splitlines()[0]!r} failed: {reason}")
    return done.stdout
