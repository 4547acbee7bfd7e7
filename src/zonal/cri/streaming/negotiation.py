"""Which protocol a client and we speak: SPDY/3.1 or a WebSocket, and what inside of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal, TypeAlias

from zonal.cri.streaming import port_forward, remote_command
from zonal.cri.streaming.calls import PortForward, RemoteCommand
from zonal.cri.streaming.http import HttpError, Request, upgrade_response, websocket_headers

Call: TypeAlias = RemoteCommand | PortForward
_SPDY = "SPDY/3.1"
_PROTOCOL_HEADER = "X-Stream-Protocol-Version"


@dataclass(frozen=True)
class Agreement:
    """What is spoken from here on, and the answer to the request that says so."""

    transport: Literal["spdy", "websocket"]
    protocol: str
    response: bytes


def agree(request: Request, call: Call) -> Agreement:
    """The first protocol that the client offers and we know. Raises ``HttpError``."""
    if request.upgrades_to("websocket"):
        return _websocket(request, call)
    if request.upgrades_to(_SPDY):
        return _spdy(request, call)
    raise HttpError(
        HTTPStatus.BAD_REQUEST,
        f"streams go over {_SPDY} or a WebSocket: the request's Connection and Upgrade headers ask for neither",
        (("Upgrade", f"{_SPDY}, websocket"),),
    )


def _spdy(request: Request, call: Call) -> Agreement:
    known = remote_command.SPDY_PROTOCOLS if isinstance(call, RemoteCommand) else port_forward.SPDY_PROTOCOLS
    offered = request.tokens(_PROTOCOL_HEADER.lower())
    if not offered:
        return Agreement("spdy", known[-1], upgrade_response(_SPDY, ()))
    protocol = _first(offered, known, "X-Accepted-Stream-Protocol-Versions")
    return Agreement("spdy", protocol, upgrade_response(_SPDY, ((_PROTOCOL_HEADER, protocol),)))


def _websocket(request: Request, call: Call) -> Agreement:
    if isinstance(call, RemoteCommand):
        known, default = remote_command.WEBSOCKET_PROTOCOLS, "channel.k8s.io"
    else:
        known, default = port_forward.WEBSOCKET_PROTOCOLS, "v4.channel.k8s.io"
    offered = request.tokens("sec-websocket-protocol")
    protocol = _first(offered, known, "Sec-WebSocket-Protocol") if offered else default
    if isinstance(call, PortForward) and not protocol.startswith(port_forward.TUNNEL_PREFIX) and not call.ports:
        raise HttpError(HTTPStatus.BAD_REQUEST, f"{protocol} needs ports, and the request for the URL named none")
    headers = websocket_headers(request, protocol if offered else "")
    return Agreement("websocket", protocol, upgrade_response("websocket", headers))


def _first(offered: Sequence[str], known: Sequence[str], header: str) -> str:
    protocol = next((each for each in offered if each in known), None)
    if protocol is None:
        text = f"none of the protocols {', '.join(offered)[:200]} is known; these are: {', '.join(known)}"
        raise HttpError(HTTPStatus.FORBIDDEN, text, [(header, each) for each in known])
    return protocol
