"""What a streaming URL stands for: a request of the CRI, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zonal.cri.api import runtime_pb2 as pb
from zonal.errors import InvalidInputError

MAX_PORTS = 100
"""In one port-forward request: a WebSocket's channels are numbered with one byte."""


@dataclass(frozen=True)
class RemoteCommand:
    """Exec, or, where ``command`` is ``None``, attach."""

    container_id: str
    command: tuple[str, ...] | None
    tty: bool
    stdin: bool
    stdout: bool
    stderr: bool


@dataclass(frozen=True)
class PortForward:
    """Connections to ports of a sandbox; which, SPDY clients say as they go, and WebSocket clients beforehand."""

    sandbox_id: str
    ports: tuple[int, ...]


def exec_call(request: pb.ExecRequest) -> RemoteCommand:
    """The request, checked. Raises ``InvalidInputError``."""
    if not request.cmd:
        raise InvalidInputError("exec is without a command")
    return _remote_command(request, tuple(request.cmd))


def attach_call(request: pb.AttachRequest) -> RemoteCommand:
    """The request, checked. Raises ``InvalidInputError``."""
    return _remote_command(request, None)


def port_forward_call(request: pb.PortForwardRequest) -> PortForward:
    """The request, checked. Raises ``InvalidInputError``."""
    if not request.pod_sandbox_id:
        raise InvalidInputError("port-forward names no sandbox")
    if len(request.port) > MAX_PORTS:
        raise InvalidInputError(f"port-forward of {len(request.port)} ports, more than {MAX_PORTS}")
    return PortForward(request.pod_sandbox_id, checked_ports(request.port))


def checked_ports(ports: Sequence[int]) -> tuple[int, ...]:
    """The same. Raises ``InvalidInputError``."""
    for port in ports:
        if not 0 < port < 1 << 16:
            raise InvalidInputError(f"port {port} is not between 1 and 65535")
    return tuple(ports)


def _remote_command(request: pb.ExecRequest | pb.AttachRequest, command: tuple[str, ...] | None) -> RemoteCommand:
    verb = "attach" if command is None else "exec"
    if not request.container_id:
        raise InvalidInputError(f"{verb} names no container")
    if not (request.stdin or request.stdout or request.stderr):
        raise InvalidInputError(f"{verb} with no stream: one of stdin, stdout and stderr must be asked for")
    if request.tty and request.stderr:
        raise InvalidInputError(f"{verb} with a terminal has no stderr of its own", hint="leave out stderr or tty")
    return RemoteCommand(request.container_id, command, request.tty, request.stdin, request.stdout, request.stderr)
