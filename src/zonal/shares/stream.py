"""A session over a stream: each message begins with its length."""

from __future__ import annotations

import time
from typing import BinaryIO

from zonal.shares import wire
from zonal.shares.session import Session


def serve(requests: BinaryIO, replies: BinaryIO, session: Session) -> None:
    """Answers until the client has gone, or sends what cannot be a message."""
    try:
        while head := requests.read(4):
            size = int.from_bytes(head, "little")
            if len(head) < 4 or not wire.HEADER.size <= size <= session.message_size:
                return
            rest = requests.read(size - 4)
            if len(rest) != size - 4:
                return
            session.look_at_clock(time.monotonic())
            replies.write(session.handle(head + rest))
            replies.flush()
    finally:
        session.close()
