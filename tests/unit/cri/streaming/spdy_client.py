"""A SPDY client that does as it is told, also what it should not."""

from __future__ import annotations

import asyncio
from typing import Self
from urllib.parse import urlsplit

from zonal.cri.streaming.spdy_frames import Data, Frame, FrameReader, FrameWriter, GoAway, Headers, Reset


class SpdyClient:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.frames = FrameWriter()
        self.incoming: list[Frame] = []
        self.data: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.replied: set[int] = set()
        self.reset: dict[int, int] = {}
        self.gone_away: int | None = None
        self._parser = FrameReader()

    @classmethod
    async def connect(cls, url: str, *protocols: str) -> Self:
        reader, writer, head = await upgrade(url, "SPDY/3.1", *(f"X-Stream-Protocol-Version: {p}" for p in protocols))
        assert head.startswith("HTTP/1.1 101 "), head
        return cls(reader, writer)

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def open(self, number: int, **headers: str) -> None:
        self.send(self.frames.open(number, headers))

    async def receive(self) -> bool:
        """Takes what comes next; says whether it was not the end."""
        data = await self.reader.read(64 << 10)
        for frame in self._parser.feed(data):
            self.incoming.append(frame)
            match frame:
                case Data(stream, piece, fin):
                    self.data[stream] = self.data.get(stream, b"") + piece
                    if fin:
                        self.ended.add(stream)
                case Headers(stream):
                    self.replied.add(stream)
                case Reset(stream, status):
                    self.reset[stream] = status
                case GoAway(status):
                    self.gone_away = status
                case _:
                    pass
        return bool(data)

    async def receive_all(self) -> None:
        while await self.receive():
            pass

    def close(self) -> None:
        self.writer.transport.abort()


async def upgrade(
    url: str, protocol: str, *headers: str, method: str = "POST"
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str]:
    """A connection, after the head of the answer, which comes with it."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    upgrading = (f"Upgrade: {protocol}", "Connection: Upgrade") if protocol else ()
    lines = (f"{method} {parts.path} HTTP/1.1", f"Host: {parts.netloc}", *upgrading, *headers, "", "")
    writer.write("\r\n".join(lines).encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    return reader, writer, head
