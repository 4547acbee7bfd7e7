"""Sockets that carry streams: what is sent arrives, and nobody who connects can hold zonald up or make it grow."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zonal.api.streams import HEADER, TOKEN_SIZE, streams_path
from zonal.cli.stream_socket import StreamSocket, open_stream_socket
from zonal.daemon import stream_sockets
from zonal.daemon.stream_sockets import StreamSockets, serving_streams
from zonal.errors import InvalidInputError

BIG = os.urandom(1 << 20)


@pytest.fixture(name="control")
def a_path(tmp_path: Path) -> Path:
    return tmp_path / "zonald.sock"


@pytest.fixture(name="sockets")
async def the_sockets(control: Path) -> AsyncIterator[StreamSockets]:
    async with serving_streams(streams_path(control)) as sockets:
        yield sockets


def opened(control: Path) -> StreamSocket:
    client = open_stream_socket(control)
    assert client is not None
    return client


def gone(link: socket.socket) -> bool:
    """Whether the other side hangs up."""
    link.settimeout(5)
    try:
        return link.recv(1) == b""
    except ConnectionError:
        return True


async def test_bytes_pass_both_ways_and_input_ends_before_output(control: Path, sockets: StreamSockets) -> None:
    client = await asyncio.to_thread(opened, control)

    def send() -> None:
        client.send(BIG)
        client.end()

    def receive() -> dict[int, bytes]:
        got = {1: bytearray(), 2: bytearray()}
        for stream, piece in client.output():
            got[stream] += piece
        return {stream: bytes(data) for stream, data in got.items()}

    sending, receiving = asyncio.create_task(asyncio.to_thread(send)), asyncio.create_task(asyncio.to_thread(receive))
    async with sockets.claimed(client.token) as served:
        assert served is not None
        came = bytearray()
        while data := await served.read():
            came += data
        assert bytes(came) == BIG
        for begin in range(0, len(BIG), 100_000):
            await served.write(1, BIG[begin : begin + 100_000])
        await served.write(2, b"and an error")
    assert await receiving == {1: BIG, 2: b"and an error"}
    await sending
    client.close()


async def test_who_does_not_read_is_waited_for(control: Path, sockets: StreamSockets) -> None:
    client = await asyncio.to_thread(opened, control)
    async with sockets.claimed(client.token) as served:
        assert served is not None

        async def flood() -> None:
            while True:
                await served.write(1, bytes(32 << 10))

        flooding = asyncio.create_task(flood())
        await asyncio.sleep(0.2)
        transport = cast("asyncio.Transport", served._transport)  # pyright: ignore[reportPrivateUsage]
        assert transport.get_write_buffer_size() < 256 << 10
        # Its end lets the writer go on, into nothing.
        client.close()
        await served.read()
        await asyncio.wait_for(served.write(1, b"x"), 5)
        flooding.cancel()


async def test_input_that_nobody_takes_stays_with_the_client(control: Path, sockets: StreamSockets) -> None:
    client = await asyncio.to_thread(opened, control)
    sending = asyncio.create_task(asyncio.to_thread(client.send, BIG * 4))
    async with sockets.claimed(client.token) as served:
        assert served is not None
        await asyncio.sleep(0.2)
        assert not sending.done()
        assert served._held <= 2 * stream_sockets.MAX_HELD  # pyright: ignore[reportPrivateUsage]
        got = 0
        while got < len(BIG) * 4:
            got += len(await served.read())
    await sending
    client.close()


@pytest.mark.parametrize("token", [b"short", bytes(TOKEN_SIZE + 1), bytes(TOKEN_SIZE)])
async def test_a_call_that_names_no_socket_is_refused(
    sockets: StreamSockets, token: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_sockets, "CLAIM_TIMEOUT", 0.1)
    with pytest.raises(InvalidInputError):
        async with sockets.claimed(token):
            pass
    assert not sockets._named  # pyright: ignore[reportPrivateUsage]


async def test_a_call_without_a_token_has_no_socket(sockets: StreamSockets) -> None:
    async with sockets.claimed(b"") as served:
        assert served is None


@pytest.mark.parametrize("said", [b"", b"half", bytes(TOKEN_SIZE)])
async def test_a_connection_that_no_call_names_is_ended(
    control: Path, sockets: StreamSockets, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_sockets, "CLAIM_TIMEOUT", 0.1)
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(str(streams_path(control)))
        link.sendall(said)
        assert await asyncio.to_thread(gone, link)
    await asyncio.sleep(0.05)
    assert not sockets._waiting  # pyright: ignore[reportPrivateUsage]
    assert not sockets._named  # pyright: ignore[reportPrivateUsage]


async def test_a_second_connection_of_one_name_is_ended(control: Path, sockets: StreamSockets) -> None:
    client = await asyncio.to_thread(opened, control)
    async with sockets.claimed(client.token) as served:
        assert served is not None
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(streams_path(control)))
            link.sendall(client.token)
            client.send(b"mine")
            assert await served.read() == b"mine"
    client.close()


async def test_only_so_many_wait(control: Path, sockets: StreamSockets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_sockets, "MAX_WAITING", 3)
    links = [socket.socket(socket.AF_UNIX) for _ in range(4)]
    for link in links:
        await asyncio.to_thread(link.connect, str(streams_path(control)))
        await asyncio.sleep(0.05)
    assert await asyncio.to_thread(gone, links[3])
    assert len(sockets._waiting) == 3  # pyright: ignore[reportPrivateUsage]
    for link in links:
        link.close()


async def test_the_socket_is_its_owner_s_alone_and_goes_with_the_service(control: Path) -> None:
    path = streams_path(control)
    async with serving_streams(path):
        assert path.stat().st_mode & 0o777 == 0o600
    assert not path.exists()
    assert open_stream_socket(control) is None


@given(
    pieces=st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(min_size=1, max_size=40)), max_size=12),
    cuts=st.lists(st.integers(1, 30), min_size=1, max_size=20),
)
def test_output_is_put_together_however_it_is_cut(pieces: list[tuple[int, bytes]], cuts: list[int]) -> None:
    ours, theirs = socket.socketpair()
    client = StreamSocket(ours)
    wire = b"".join(HEADER.pack(stream, len(data)) + data for stream, data in pieces)
    whole, at, number = {1: b"", 2: b""}, 0, 0
    output = client.output()
    sent: list[bytes] = []
    while at < len(wire):
        sent.append(wire[at : at + cuts[number % len(cuts)]])
        at += len(sent[-1])
        number += 1
    receive = iter(sent)

    def next_piece(view: memoryview) -> int:
        data = next(receive, b"")
        view[: len(data)] = data
        return len(data)

    client._receive = next_piece  # pyright: ignore[reportPrivateUsage]
    for stream, piece in output:
        whole[stream] += bytes(piece)
    assert whole == {stream: b"".join(data for each, data in pieces if each == stream) for stream in (1, 2)}
    theirs.close()
    client.close()
