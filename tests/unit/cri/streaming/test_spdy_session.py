"""SPDY sessions with a client that knows of windows, and with one that breaks the rules."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from tests.unit.cri.streaming.conftest import exec_url
from tests.unit.cri.streaming.local_handler import LocalHandler
from tests.unit.cri.streaming.spdy_client import SpdyClient
from zonal.cri.api import runtime_pb2 as pb
from zonal.cri.streaming.link import HELD_LIMIT, Timeouts
from zonal.cri.streaming.server import StreamingServer
from zonal.cri.streaming.spdy import MAX_STREAMS
from zonal.cri.streaming.spdy_frames import (
    MAX_CONTROL,
    FrameType,
    GoAwayStatus,
    Ping,
    ResetStatus,
    Settings,
    WindowUpdate,
    control_frame,
    data_frame,
    go_away_frame,
    ping_frame,
    reset_frame,
    settings_frame,
    window_update_frame,
)

ERROR, STDIN, STDOUT, STDERR = 1, 3, 5, 7
V4 = "v4.channel.k8s.io"
BIG = 0x7FFFFFFF - (64 << 10)
"""What the session's window can grow by at once."""


async def begin(server: StreamingServer, *command: str, container: str = "here") -> SpdyClient:
    client = await SpdyClient.connect(exec_url(server, *command, container=container), V4)
    for number, kind in ((ERROR, "error"), (STDIN, "stdin"), (STDOUT, "stdout"), (STDERR, "stderr")):
        client.open(number, streamtype=kind)
    return client


def status(client: SpdyClient) -> dict[str, object]:
    return json.loads(client.data[ERROR])


async def test_a_command_from_its_streams_to_its_status(server: StreamingServer) -> None:
    client = await begin(server, "sh", "-c", "cat; echo err >&2; exit 9")
    client.send(data_frame(STDIN, b"some ") + data_frame(STDIN, b"input", fin=True))
    await client.receive_all()
    assert client.replied == {ERROR, STDIN, STDOUT, STDERR}
    assert (client.data[STDOUT], client.data[STDERR]) == (b"some input", b"err\n")
    assert status(client) == {
        "metadata": {},
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": "command terminated with non-zero exit code: exit status 9",
        "details": {"causes": [{"reason": "ExitCode", "message": "9"}]},
    }
    assert client.ended == {ERROR, STDIN, STDOUT, STDERR}
    assert client.gone_away == GoAwayStatus.OK
    client.close()


async def test_success_is_said_in_so_many_words(server: StreamingServer) -> None:
    client = await begin(server, "true")
    await client.receive_all()
    assert status(client) == {"metadata": {}, "status": "Success"}
    client.close()


async def test_windows_are_kept_to_and_stall_only_their_own_stream(server: StreamingServer) -> None:
    script = "head -c 300000 /dev/zero & sleep 0.1; head -c 200000 /dev/zero >&2; wait"
    client = await SpdyClient.connect(exec_url(server, "sh", "-c", script), V4)
    client.send(settings_frame(1000) + window_update_frame(0, BIG))
    for number, kind in ((ERROR, "error"), (STDIN, "stdin"), (STDOUT, "stdout"), (STDERR, "stderr")):
        client.open(number, streamtype=kind)
    client.send(window_update_frame(STDERR, 1 << 20))
    while len(client.data.get(STDERR, b"")) < 200000:
        assert await client.receive()
    assert len(client.data.get(STDOUT, b"")) <= 1000
    client.send(window_update_frame(STDOUT, 299000))
    client.send(window_update_frame(ERROR, 1000))
    await client.receive_all()
    assert len(client.data[STDOUT]) == 300000
    assert status(client)["status"] == "Success"
    client.close()


async def test_the_window_of_the_session_is_kept_to(server: StreamingServer) -> None:
    client = await SpdyClient.connect(exec_url(server, "head", "-c", "300000", "/dev/zero"), V4)
    client.send(settings_frame(1 << 20))
    for number, kind in ((ERROR, "error"), (STDIN, "stdin"), (STDOUT, "stdout"), (STDERR, "stderr")):
        client.open(number, streamtype=kind)
    while len(client.data.get(STDOUT, b"")) < 64 << 10:
        assert await client.receive()
    assert len(client.data[STDOUT]) == 64 << 10
    client.send(window_update_frame(0, 1 << 20))
    await client.receive_all()
    assert len(client.data[STDOUT]) == 300000
    client.close()


async def test_a_client_that_keeps_to_our_windows_gets_on(server: StreamingServer) -> None:
    size = 80 << 20  # more than the session's window too
    client = await begin(server, "wc", "-c")
    windows: dict[int, int] = {0: 64 << 10, STDIN: 64 << 10}
    sent = seen = 0
    while sent < size:
        for frame in client.incoming[seen:]:
            if isinstance(frame, WindowUpdate):
                windows[frame.stream] += frame.delta
            elif isinstance(frame, Settings) and frame.initial_window is not None:
                windows[STDIN] += frame.initial_window - (64 << 10)
        seen = len(client.incoming)
        allowed = min(*windows.values(), size - sent)
        if not allowed:
            assert await client.receive()
            continue
        client.send(data_frame(STDIN, bytes(allowed), fin=sent + allowed == size))
        await client.writer.drain()
        sent += allowed
        windows = {stream: window - allowed for stream, window in windows.items()}
    await client.receive_all()
    assert int(client.data[STDOUT]) == size
    client.close()


async def test_a_full_stream_does_not_stall_others(server: StreamingServer) -> None:
    """Input that nobody reads, as much as was announced, and then pings and another stream's end."""
    client = await begin(server, "sleep", "1000")
    client.send(data_frame(STDIN, bytes(HELD_LIMIT)))
    client.send(ping_frame(77))
    while Ping(77) not in client.incoming:
        assert await client.receive()
    assert Settings(HELD_LIMIT) in client.incoming
    client.close()


async def test_a_client_without_windows_is_held_back_by_tcp(server: StreamingServer, handler: LocalHandler) -> None:
    """What is sent beyond the window stays in the sockets, not in our memory."""
    client = await begin(server, "sleep", "1000")
    await handler.begun.wait()
    frame = data_frame(STDIN, bytes(1 << 20))

    async def flood() -> None:
        while True:
            client.send(frame)
            await client.writer.drain()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await flood()
    client.close()
    await handler.over.wait()  # noticed although nothing is read: by the pings


async def test_pings_are_answered_and_those_of_ours_are_not_taken_for_a_client_s(server: StreamingServer) -> None:
    client = await begin(server, "cat")
    client.send(ping_frame(1) + ping_frame(12345) + ping_frame(2))
    client.send(data_frame(STDIN, b"", fin=True))
    await client.receive_all()
    numbers = [frame.number for frame in client.incoming if isinstance(frame, Ping)]
    assert [number for number in numbers if number % 2] == [1, 12345]
    client.close()


async def test_a_reset_of_the_error_stream_ends_it_all(server: StreamingServer, handler: LocalHandler) -> None:
    client = await begin(server, "sleep", "1000")
    await handler.begun.wait()
    client.send(reset_frame(ERROR, ResetStatus.CANCEL))
    await handler.over.wait()
    client.close()


async def test_go_away_with_all_streams_reset_ends_it_all(server: StreamingServer, handler: LocalHandler) -> None:
    client = await begin(server, "sleep", "1000")
    await handler.begun.wait()
    client.send(b"".join(reset_frame(number, ResetStatus.CANCEL) for number in (STDIN, STDOUT, STDERR)))
    client.send(go_away_frame(0, GoAwayStatus.OK))
    client.send(reset_frame(ERROR, ResetStatus.CANCEL))
    await handler.over.wait()
    client.close()


async def test_output_that_the_client_has_reset_is_told_as_an_error(server: StreamingServer) -> None:
    client = await begin(server, "sh", "-c", "cat; head -c 1000000 /dev/zero")
    client.send(reset_frame(STDOUT, ResetStatus.CANCEL) + data_frame(STDIN, b"", fin=True))
    await client.receive_all()
    assert status(client)["reason"] == "InternalError"
    client.close()


@pytest.mark.parametrize(
    "wrong",
    [
        data_frame(0, b"x"),
        data_frame(99, b"x"),
        b"\x80\x02" + control_frame(FrameType.PING, 0, bytes(4))[2:],
        control_frame(FrameType.SYN_STREAM, 0, bytes(10) + b"no zlib"),
        control_frame(FrameType.SYN_STREAM, 0, b""),
        control_frame(FrameType.WINDOW_UPDATE, 0, bytes(4)),
        control_frame(FrameType.SETTINGS, 0, b"\xff\xff\xff\xff"),
        control_frame(FrameType.GOAWAY, 0, bytes(MAX_CONTROL + 1)),
        window_update_frame(0, 0x7FFFFFFF),
    ],
)
async def test_what_is_no_spdy_ends_the_session(server: StreamingServer, wrong: bytes) -> None:
    client = await begin(server, "cat")
    client.send(wrong)
    await assert_ended(client)


@pytest.mark.parametrize("number", [2, 1, 7, 0])
async def test_a_client_s_streams_are_odd_and_grow(server: StreamingServer, number: int) -> None:
    client = await begin(server, "cat")
    client.open(number, streamtype="stdin")
    await assert_ended(client)


async def assert_ended(client: SpdyClient) -> None:
    """As a session ends with a client that breaks its rules."""
    with contextlib.suppress(ConnectionError):
        await client.receive_all()
        assert client.gone_away == GoAwayStatus.PROTOCOL_ERROR
    assert ERROR not in client.data
    client.close()


async def test_streams_of_no_known_kind_are_refused(server: StreamingServer) -> None:
    client = await begin(server, "cat")
    client.open(9, streamtype="nonsense")
    client.open(11, streamtype="stdout")
    client.send(data_frame(STDIN, b"fine", fin=True))
    await client.receive_all()
    assert client.reset == {9: ResetStatus.REFUSED_STREAM, 11: ResetStatus.REFUSED_STREAM}
    assert client.data[STDOUT] == b"fine"
    client.close()


async def test_streams_are_bounded(server: StreamingServer) -> None:
    url = server.port_forward_url(pb.PortForwardRequest(pod_sandbox_id="here"))
    client = await SpdyClient.connect(url, "portforward.k8s.io")
    for index in range(MAX_STREAMS + 3):
        client.open(2 * index + 1, streamtype="error", requestid=str(index), port="80")
    client.send(ping_frame(1))
    while Ping(1) not in client.incoming:
        assert await client.receive()
    assert list(client.reset) == [2 * MAX_STREAMS + 1, 2 * MAX_STREAMS + 3, 2 * MAX_STREAMS + 5]
    client.close()


async def test_streams_that_never_come_are_told(handler: LocalHandler) -> None:
    async with StreamingServer(handler, timeouts=Timeouts(creation=0.05)) as server:
        client = await SpdyClient.connect(exec_url(server, "cat"), V4)
        client.open(ERROR, streamtype="error")
        await client.receive_all()
        assert "stderr, stdin, stdout" in str(status(client)["message"])
        client.close()


async def test_half_a_pair_is_given_up(handler: LocalHandler) -> None:
    async with StreamingServer(handler, timeouts=Timeouts(creation=0.05)) as server:
        url = server.port_forward_url(pb.PortForwardRequest(pod_sandbox_id="here"))
        client = await SpdyClient.connect(url, "portforward.k8s.io")
        client.open(1, streamtype="error", requestid="0", port="80")
        while not client.reset:
            assert await client.receive()
        assert client.reset == {1: ResetStatus.CANCEL}
        client.close()


async def test_a_pair_that_the_client_takes_back_is_forgotten(server: StreamingServer) -> None:
    url = server.port_forward_url(pb.PortForwardRequest(pod_sandbox_id="here"))
    client = await SpdyClient.connect(url, "portforward.k8s.io")
    for number in range(1, 4 * MAX_STREAMS, 2):
        client.open(number, streamtype="error", requestid="again", port="80")
        client.send(reset_frame(number, ResetStatus.CANCEL))
        await client.writer.drain()
    client.send(ping_frame(1))
    while Ping(1) not in client.incoming:
        assert await client.receive()
    assert client.reset == {}
    client.close()


async def test_an_idle_client_is_hung_up_on(handler: LocalHandler) -> None:
    async with StreamingServer(handler, timeouts=Timeouts(idle=0.2, ping=0.05)) as server:
        client = await begin(server, "sleep", "1000")
        with contextlib.suppress(ConnectionError):
            await client.receive_all()
        client.close()
        await handler.over.wait()


@pytest.mark.parametrize("port", ["", "0", "65536", "-1", "eighty", "²", "99999999999"])
async def test_a_port_that_is_none_is_told(server: StreamingServer, port: str) -> None:
    url = server.port_forward_url(pb.PortForwardRequest(pod_sandbox_id="here"))
    client = await SpdyClient.connect(url, "portforward.k8s.io")
    client.open(1, streamtype="error", requestid="0", port=port)
    client.open(3, streamtype="data", requestid="0", port=port)
    while 1 not in client.ended:
        assert await client.receive()
    assert client.data[1].startswith(b"error forwarding port ")
    client.close()


async def test_a_client_that_stops_reading_loses_nothing(server: StreamingServer) -> None:
    """The command has long ended when its output is taken."""
    client = await begin(server, "head", "-c", "3000000", "/dev/zero")
    await asyncio.sleep(0.3)
    await client.receive_all()
    assert len(client.data[STDOUT]) == 3000000
    assert status(client)["status"] == "Success"
    client.close()
