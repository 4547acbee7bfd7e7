"""What zonald and a client on its host agree on of sockets that carry streams; see ``zonal.daemon.stream_sockets``."""

from __future__ import annotations

import struct
from pathlib import Path

TOKEN_SIZE = 16
"""Bytes by which a client names its socket, the first that it sends."""
HEADER = struct.Struct("<II")
"""Before each piece of output: 1 for standard output or 2 for standard error, and the number of bytes."""


def streams_path(control: Path) -> Path:
    """Where the sockets of a control API are to be had that listens on the unix socket ``control``."""
    return control.with_name(control.name + ".streams")
