"""Where figures for Prometheus are to be had: ``--metrics``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from zonal.errors import InvalidInputError

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class MetricsAddress:
    """A unix socket, or an address and a TCP port."""

    socket: Path | None = None
    host: str = LOOPBACK
    port: int = 0

    def __str__(self) -> str:
        if self.socket is not None:
            return str(self.socket)
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_metrics_address(text: str) -> MetricsAddress:
    """``9100`` (of the loopback alone), ``ADDRESS:9100``, or a unix socket's path. Raises ``InvalidInputError``."""
    path = text.removeprefix("unix:")
    if path.startswith("/"):
        return MetricsAddress(socket=Path(path))
    match = re.fullmatch(r"(?:(?P<host>[0-9.]+|\[[0-9a-fA-F:.]+\]):)?(?P<port>[0-9]{1,5})", text, re.ASCII)
    try:
        host = str(ip_address((match["host"] or LOOPBACK).strip("[]"))) if match else ""
    except ValueError:
        host = ""
    if match is None or not host or not 1 <= int(match["port"]) <= 65535:
        raise InvalidInputError(
            f"--metrics {text!r} is neither [ADDRESS:]PORT nor the path of a unix socket",
            hint="such as 9100 (only from this machine), 192.0.2.1:9100, [2001:db8::1]:9100 or /run/zonal/metrics.sock",
        )
    return MetricsAddress(host=host, port=int(match["port"]))
