"""Published ports: which port of the host leads to which port of a zone, and holding them so that nobody else has them.

The plugin portmap makes the way by address translation, which takes the packets before any socket could. So a socket
is held besides, as docker does, by which everybody else on the host is told that the port is taken.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Final

from zonal.errors import AccessDeniedError, AlreadyExistsError, InvalidInputError

PROTOCOLS: Final = ("tcp", "udp")
MAX_PORT: Final = 65535
MAX_PORTS: Final = 256
"""That one zone may publish."""


@dataclass(frozen=True, slots=True)
class Port:
    """One published port; ``host_ip`` empty for all addresses of the host, ``host_port`` 0 for one that is free."""

    zone_port: int
    host_port: int = 0
    host_ip: str = ""
    protocol: str = "tcp"

    def __str__(self) -> str:
        address = f"[{self.host_ip}]" if ":" in self.host_ip else self.host_ip
        return f"{address + ':' if address else ''}{self.host_port}:{self.zone_port}/{self.protocol}"

    def mapping(self) -> dict[str, Any]:
        """As CNI's convention for ``portMappings`` has it."""
        values: dict[str, Any] = {
            "hostPort": self.host_port,
            "containerPort": self.zone_port,
            "protocol": self.protocol,
        }
        return values | ({"hostIP": self.host_ip} if self.host_ip else {})


def check_ports(ports: Sequence[Port]) -> None:
    """Raises ``InvalidInputError`` for what cannot be published."""
    if len(ports) > MAX_PORTS:
        raise InvalidInputError(f"{len(ports)} ports are too many for one zone", hint=f"at most {MAX_PORTS}")
    seen: set[tuple[str, int, str]] = set()
    for port in ports:
        if port.protocol not in PROTOCOLS:
            raise InvalidInputError(f"{port.protocol!r} ports cannot be published", hint="tcp or udp")
        if not 1 <= port.zone_port <= MAX_PORT or not 0 <= port.host_port <= MAX_PORT:
            raise InvalidInputError(f"{port} is not a pair of ports", hint=f"ports are 1 to {MAX_PORT}")
        if port.host_ip:
            try:
                ipaddress.ip_address(port.host_ip)
            except ValueError as error:
                raise InvalidInputError(f"{port.host_ip!r} is not an address of this host") from error
        key = (port.host_ip, port.host_port, port.protocol)
        if port.host_port and key in seen:
            raise InvalidInputError(f"the host's port {port.host_port}/{port.protocol} is to be published twice")
        seen.add(key)


class HeldPorts:
    """Sockets that hold ports of the host, by whom they are held for."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[ExitStack, tuple[Port, ...]]] = {}

    def hold(self, holder: str, ports: Sequence[Port]) -> tuple[Port, ...]:
        """The ports, those that were left open chosen. Raises ``AlreadyExistsError`` naming who has one already."""
        chosen: list[Port] = []
        with ExitStack() as stack:
            for port in ports:
                chosen.append(self._bind(stack, port))
            self._held[holder] = (stack.pop_all(), tuple(chosen))
        return tuple(chosen)

    def release(self, holder: str) -> None:
        """Gives them up; none held is fine."""
        if holder in self._held:
            self._held.pop(holder)[0].close()

    def close(self) -> None:
        """Gives up all of them."""
        for holder in list(self._held):
            self.release(holder)

    def _bind(self, stack: ExitStack, port: Port) -> Port:
        addresses = [port.host_ip] if port.host_ip else ["0.0.0.0", "::"]
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            kind = socket.SOCK_STREAM if port.protocol == "tcp" else socket.SOCK_DGRAM
            try:
                holding = stack.enter_context(socket.socket(family, kind | socket.SOCK_CLOEXEC))
                if family == socket.AF_INET6:
                    holding.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                if kind == socket.SOCK_STREAM:
                    # Connections that have ended some seconds ago do not count; whoever listens does.
                    holding.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                holding.bind((address, port.host_port))
                if kind == socket.SOCK_STREAM:
                    holding.listen(1)
            except OSError as error:
                if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL) and not port.host_ip:
                    continue  # a host without IPv6
                raise self._refusal(port, error) from error
            port = replace(port, host_port=holding.getsockname()[1])
        return port

    def _refusal(self, port: Port, error: OSError) -> Exception:
        name = f"{port.host_ip + ' ' if port.host_ip else ''}port {port.host_port}/{port.protocol}"
        if error.errno == errno.EADDRINUSE:
            for holder, (_, ports) in self._held.items():
                if any(each.host_port == port.host_port and each.protocol == port.protocol for each in ports):
                    return AlreadyExistsError(f"the host's {name} is taken by {holder}", hint="publish another one")
            return AlreadyExistsError(f"the host's {name} is taken by another program", hint="publish another one")
        if error.errno == errno.EADDRNOTAVAIL:
            return InvalidInputError(f"{port.host_ip} is not an address of this host", hint="ip address lists them")
        if error.errno == errno.EACCES:
            return AccessDeniedError(f"the host's {name} cannot be taken: {error.strerror}")
        return error
