"""The accounts of one stream: what each side of it knows, and the rules of credit.

A stream goes one way. Offsets count its bytes from its very beginning, across sessions. The receiver tells how many
bytes it has consumed; the sender has at most a window of bytes under way beyond that, and forgets nothing unconsumed.
Both sides say their window in HELLO, and the smaller one holds.
"""

from __future__ import annotations

from zonal.agent.protocol.frames import ProtocolError

WINDOW = 256 * 1024
"""Bytes that a sender may have sent and the receiver not consumed: as many as there is room for in the ring."""
LEAST_WINDOW = 128 * 1024
"""The same for a peer that does not say."""


def common_window(said: object) -> int:
    """The window of a session with a peer that has ``said`` this in its HELLO. Raises ``ProtocolError``."""
    if said is None:
        return LEAST_WINDOW
    if not isinstance(said, int) or isinstance(said, bool) or said < LEAST_WINDOW:
        raise ProtocolError(f"a window of {said!r:.20}, at least {LEAST_WINDOW} bytes")
    return min(said, WINDOW)


def credit_step(window: int) -> int:
    """A receiver tells of this many newly consumed bytes at once, at the latest."""
    return window // 4


class SendAccount:
    """The sender's side: ``consumed`` <= ``sent`` <= ``consumed`` + ``window``."""

    def __init__(self, offset: int = 0, window: int = LEAST_WINDOW) -> None:
        self.window = window
        self.consumed = offset
        self.sent = offset

    def room(self) -> int:
        """Bytes that may be sent now."""
        return self.consumed + self.window - self.sent

    def credit(self, consumed: int) -> int:
        """The receiver has consumed so many in all; gives how many of them are new. Raises ``ProtocolError``."""
        if not self.consumed < consumed <= self.sent:
            raise ProtocolError(f"credit for {consumed} bytes; {self.consumed} were consumed, {self.sent} sent")
        new = consumed - self.consumed
        self.consumed = consumed
        return new


class ReceiveAccount:
    """The receiver's side: ``told`` <= ``consumed`` <= ``received`` <= ``told`` + ``window``."""

    def __init__(self, offset: int = 0, window: int = LEAST_WINDOW) -> None:
        self.window = window
        self.told = offset
        self.consumed = offset
        self.received = offset
        self.ended = False

    def data(self, count: int) -> None:
        """So many bytes came. Raises ``ProtocolError``."""
        if self.ended:
            raise ProtocolError("data after the end")
        if self.received + count > self.told + self.window:
            raise ProtocolError(f"{count} bytes, with credit for {self.told + self.window - self.received}")
        self.received += count

    def end(self, total: int) -> None:
        """The sender says that it sent ``total`` bytes and sends no more. Raises ``ProtocolError``."""
        if self.ended:
            raise ProtocolError("a second end")
        if total != self.received:
            raise ProtocolError(f"end after {total} bytes; {self.received} came")
        self.ended = True

    def consume(self, count: int) -> int | None:
        """So many bytes are done with; gives the offset to send as CREDIT when it is time for one."""
        self.consumed += count
        enough = self.consumed - self.told >= credit_step(self.window)
        if enough or (self.ended and self.consumed == self.received > self.told):
            self.told = self.consumed
            return self.told
        return None
