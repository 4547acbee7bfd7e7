"""The accounts of one stream: what each side of it knows, and the rules of credit.

A stream goes one way. Offsets count its bytes from its very beginning, across sessions. The receiver tells how many
bytes it has consumed; the sender has at most ``WINDOW`` bytes under way beyond that, and forgets nothing unconsumed.
"""

from __future__ import annotations

from zonal.agent.protocol.frames import ProtocolError

WINDOW = 128 * 1024
"""Bytes that a sender may have sent and the receiver not consumed."""
CREDIT_STEP = WINDOW // 4
"""A receiver tells of this many newly consumed bytes at once, at the latest."""


class SendAccount:
    """The sender's side: ``consumed`` <= ``sent`` <= ``consumed`` + ``WINDOW``."""

    def __init__(self, offset: int = 0) -> None:
        self.consumed = offset
        self.sent = offset

    def room(self) -> int:
        """Bytes that may be sent now."""
        return self.consumed + WINDOW - self.sent

    def credit(self, consumed: int) -> int:
        """The receiver has consumed so many in all; gives how many of them are new. Raises ``ProtocolError``."""
        if not self.consumed < consumed <= self.sent:
            raise ProtocolError(f"credit for {consumed} bytes; {self.consumed} were consumed, {self.sent} sent")
        new = consumed - self.consumed
        self.consumed = consumed
        return new


class ReceiveAccount:
    """The receiver's side: ``told`` <= ``consumed`` <= ``received`` <= ``told`` + ``WINDOW``."""

    def __init__(self, offset: int = 0) -> None:
        self.told = offset
        self.consumed = offset
        self.received = offset
        self.ended = False

    def data(self, count: int) -> None:
        """So many bytes came. Raises ``ProtocolError``."""
        if self.ended:
            raise ProtocolError("data after the end")
        if self.received + count > self.told + WINDOW:
            raise ProtocolError(f"{count} bytes, with credit for {self.told + WINDOW - self.received}")
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
        if self.consumed - self.told >= CREDIT_STEP or (self.ended and self.consumed == self.received > self.told):
            self.told = self.consumed
            return self.told
        return None
