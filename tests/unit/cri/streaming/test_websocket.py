"""WebSockets, with the client of Python's ``websockets``, and with bytes that are none."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from tests.unit.cri.streaming.conftest import exec_url
from tests.unit.cri.streaming.local_handler import LocalHandler
from zonal.cri.api import runtime_pb2 as pb
from zonal.cri.streaming.channels import ChannelSocket
from zonal.cri.streaming.link import Inflow
from zonal.cri.streaming.server import StreamingServer
from zonal.cri.streaming.websocket import WebSocket

STDIN, STDOUT, STDERR, ERROR, RESIZE = range(5)
CLOSE = 255
V4 = "v4.channel.k8s.io"
V5 = "v5.channel.k8s.io"


@asynccontextmanager
async def connected(url: str, protocol: str = V5) -> AsyncGenerator[ClientConnection]:
    protocols = [Subprotocol(protocol)] if protocol else None
    url = url.replace("http://", "ws://")
    async with connect(url, subprotocols=protocols, compression=None, max_size=None, proxy=None) as socket:
        assert socket.subprotocol == (protocol or None)
        yield socket


async def received(socket: ClientConnection) -> dict[int, bytes]:
    """All that comes, by channel; asserts that it ends in good order."""
    data: dict[int, bytes] = {}
    async for message in socket:
        if isinstance(message, str):
            channel, piece = int(message[0]), base64.b64decode(message[1:], validate=True)
        else:
            channel, piece = message[0], message[1:]
        data[channel] = data.get(channel, b"") + piece
    assert socket.close_code == 1000
    return data


async def test_v5_closes_input(server: StreamingServer) -> None:
    async with connected(exec_url(server, "sh", "-c", "cat; echo err >&2; exit 4")) as socket:
        await socket.send(bytes((STDIN,)) + b"input")
        await socket.send(bytes((CLOSE, STDIN)))
        data = await received(socket)
    assert (data[STDOUT], data[STDERR]) == (b"input", b"err\n")
    assert json.loads(data[ERROR])["details"] == {"causes": [{"reason": "ExitCode", "message": "4"}]}


@pytest.mark.parametrize("protocol", [V4, "v4.base64.channel.k8s.io", "channel.k8s.io", "base64.channel.k8s.io", ""])
async def test_older_protocols(server: StreamingServer, protocol: str) -> None:
    def message(data: bytes) -> bytes | str:
        return f"{STDIN}{base64.b64encode(data).decode()}" if "base64" in protocol else bytes((STDIN,)) + data

    async with connected(exec_url(server, "sh", "-c", "head -c 7; exit 6"), protocol) as socket:
        await socket.send(message(b"seven"))
        await socket.send(message(b"!!"))
        data = await received(socket)
    assert data[STDOUT] == b"seven!!"
    if protocol.startswith("v4."):
        assert json.loads(data[ERROR])["reason"] == "NonZeroExitCode"
    else:
        assert data[ERROR] == b"command terminated with non-zero exit code: exit status 6"


async def test_the_first_message_is_empty(server: StreamingServer) -> None:
    async with connected(exec_url(server, "cat", stdout=False)) as socket:
        assert await socket.recv() == bytes((STDERR,))


async def test_success_before_v4_is_silence(server: StreamingServer) -> None:
    async with connected(exec_url(server, "true"), "channel.k8s.io") as socket:
        assert ERROR not in await received(socket)


async def test_much_both_ways_in_fragments(server: StreamingServer) -> None:
    data = os.urandom(8 << 20)

    async def send(socket: ClientConnection) -> None:
        def fragments() -> list[bytes]:
            message = bytes((STDIN,)) + data
            return [message[:1], b"", *(message[start : start + 50001] for start in range(1, len(message), 50001))]

        async def each() -> AsyncGenerator[bytes]:
            for fragment in fragments():
                yield fragment

        await socket.send(each())
        await socket.send(bytes((CLOSE, STDIN)))

    async with connected(exec_url(server, "cat")) as socket:
        _, back = await asyncio.gather(send(socket), received(socket))
    assert back[STDOUT] == data


async def test_terminal_sizes(server: StreamingServer) -> None:
    script = "until [ \"$(stty size)\" = '10 20' ]; do sleep 0.05; done; echo so"
    async with connected(exec_url(server, "sh", "-c", script, tty=True)) as socket:
        for size in ('{"Width": 1, "Height": 0}', "{}", '{"Width": 300, "Hei', 'ght": 5}{"Width":20,"Height":10}\n'):
            await socket.send(bytes((RESIZE,)) + size.encode())
        assert (await received(socket))[STDOUT] == b"so\r\n"


async def test_sizes_that_are_none_end_the_sizes_only(server: StreamingServer) -> None:
    async with connected(exec_url(server, "sh", "-c", "read line; echo $line", tty=True)) as socket:
        await socket.send(bytes((RESIZE,)) + 100000 * b"[")
        await socket.send(bytes((STDIN,)) + b"fine\n")
        assert b"fine" in (await received(socket))[STDOUT]


async def test_channels_that_are_not_the_client_s_are_passed_over(server: StreamingServer) -> None:
    async with connected(exec_url(server, "cat")) as socket:
        for channel in (STDOUT, ERROR, RESIZE, 99):
            await socket.send(bytes((channel,)) + b"nonsense")
            await socket.send(bytes((CLOSE, channel)))
        await socket.send(b"")
        await socket.send(bytes((STDIN,)) + b"input")
        await socket.send(bytes((CLOSE, STDIN)))
        assert (await received(socket))[STDOUT] == b"input"


@pytest.mark.parametrize(
    ("protocol", "message"),
    [(V5, b"\xff"), (V5, b"\xff\0\0"), ("v4.base64.channel.k8s.io", "0!"), ("base64.channel.k8s.io", "0abc")],
)
async def test_messages_that_are_none_end_it(server: StreamingServer, protocol: str, message: str | bytes) -> None:
    async with connected(exec_url(server, "cat"), protocol) as socket:
        await socket.send(message)
        with pytest.raises(ConnectionClosed) as ended:
            while True:
                await socket.recv()
        assert ended.value.rcvd is not None and ended.value.rcvd.code == 1003


async def test_pings_are_answered(server: StreamingServer) -> None:
    async with connected(exec_url(server, "cat")) as socket:
        await (await socket.ping())


async def test_a_client_that_closes_ends_the_handler(server: StreamingServer, handler: LocalHandler) -> None:
    async with connected(exec_url(server, "sleep", "1000")):
        await handler.begun.wait()
    await handler.over.wait()


async def test_input_that_nobody_reads_is_held_back(server: StreamingServer, handler: LocalHandler) -> None:
    async with connected(exec_url(server, "sleep", "1000")) as socket:
        await handler.begun.wait()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                while True:
                    await socket.send(bytes((STDIN,)) + bytes(1 << 20))
        socket.transport.abort()
        await handler.over.wait()


async def test_port_forward(server: StreamingServer) -> None:
    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(shout, "127.0.0.1", 0) as listener:
        port = cast("int", listener.sockets[0].getsockname()[1])
        request = pb.PortForwardRequest(pod_sandbox_id="here", port=[port, 1])
        async with connected(server.port_forward_url(request), V4) as socket:
            await socket.send(b"\0hello\n")
            data = await received(socket)
    assert data[0] == port.to_bytes(2, "little") + b"HELLO\n"
    assert data[1] == port.to_bytes(2, "little")
    assert data[2] == b"\1\0"
    assert data[3] == b"\1\0error forwarding port 1 to pod here: nothing listens on port 1"


class MemoryLink:
    """A link whose client has sent ``chunks`` and gone."""

    def __init__(self, chunks: list[bytes]) -> None:
        self._chunks = chunks
        self.written = 0

    async def read(self) -> bytes:
        return self._chunks.pop(0) if self._chunks else b""

    async def write(self, data: bytes) -> None:
        self.written += len(data)

    async def finish(self) -> None:
        pass

    def unsent(self) -> int:
        return 0

    def abort(self) -> None:
        pass


@given(st.lists(st.binary(min_size=1, max_size=300)), st.booleans(), st.booleans())
async def test_noise_ends_in_good_order(chunks: list[bytes], text: bool, closes: bool) -> None:
    stdin = Inflow()
    link = MemoryLink(chunks)
    await ChannelSocket(WebSocket(link), {STDIN: stdin}, text=text, closes=closes).read_all()
    assert stdin.ended
    assert link.written < 10000


def masked(opcode: int, payload: bytes, *, fin: bool) -> bytes:
    size = len(payload)
    head = (
        bytes((opcode | (0x80 if fin else 0), 0x80 | size))
        if size < 126
        else bytes((opcode | (0x80 if fin else 0), 0xFE)) + size.to_bytes(2)
    )
    return head + bytes(4) + payload


@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 2, 8, 9, 10]), st.binary(max_size=200), st.booleans())),
    st.integers(1, 60),
    st.booleans(),
)
async def test_frames_of_noise_end_in_good_order(frames: list[tuple[int, bytes, bool]], cut: int, text: bool) -> None:
    wire = b"".join(masked(opcode, payload, fin=fin) for opcode, payload, fin in frames)
    stdin = Inflow()
    link = MemoryLink([wire[start : start + cut] for start in range(0, len(wire), cut)])
    await ChannelSocket(WebSocket(link), {STDIN: stdin}, text=text, closes=True).read_all()
    assert stdin.ended


@given(st.lists(st.binary(min_size=1, max_size=100), min_size=1), st.integers(1, 40))
async def test_fragments_arrive_whole(pieces: list[bytes], cut: int) -> None:
    message = b"0" + base64.b64encode(b"".join(pieces))
    fragments = [message[start : start + cut] for start in range(0, len(message), cut)]
    wire = [
        masked(1 if index == 0 else 0, fragment, fin=index == len(fragments) - 1)
        for index, fragment in enumerate(fragments)
    ]
    taken: list[bytes] = []
    stdin = Inflow()

    async def take() -> None:
        taken.extend([data async for data in stdin])

    class Waiting(MemoryLink):
        async def read(self) -> bytes:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            return await super().read()

    await asyncio.gather(take(), ChannelSocket(WebSocket(Waiting(wire)), {STDIN: stdin}, text=True).read_all())
    assert b"".join(taken) == b"".join(pieces)
