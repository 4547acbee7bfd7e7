"""What zonald and a share server have agreed upon, besides the orders' own fields."""

from __future__ import annotations

from typing import Final

MAX_ORDER: Final = 4096
"""Bytes of an order or an answer, each one message of JSON on a unix socket (SOCK_SEQPACKET)."""
SOCKET: Final = "shares.sock"
"""In the zone's folder."""
