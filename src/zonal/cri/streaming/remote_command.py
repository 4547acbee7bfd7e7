"""Exec and attach, as clients speak them: SPDY streams named by their headers, or channels of a WebSocket."""

from __future__ import annotations

import asyncio

from zonal.cri.streaming.attending import attend
from zonal.cri.streaming.calls import RemoteCommand
from zonal.cri.streaming.channels import ChannelSocket
from zonal.cri.streaming.handler import RemoteStreams, StreamHandler
from zonal.cri.streaming.link import Inflow, Link, Timeouts
from zonal.cri.streaming.outcome import Outcome, perform
from zonal.cri.streaming.resizes import no_sizes, sizes
from zonal.cri.streaming.spdy import SpdySession, SpdyStream
from zonal.cri.streaming.websocket import WebSocket

SPDY_PROTOCOLS = ("v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io")
"""The first is the default of clients that name none."""
WEBSOCKET_PROTOCOLS = (
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
)
_STDIN, _STDOUT, _STDERR, _ERROR, _RESIZE = range(5)


async def serve_spdy(
    link: Link, protocol: str, call: RemoteCommand, handler: StreamHandler, timeouts: Timeouts
) -> None:
    """Does what is asked over SPDY, until the client has gone or has been told how it ended."""
    wanted = _wanted(call, protocol)
    streams: dict[str, SpdyStream] = {}
    complete = asyncio.Event()

    def accept(stream: SpdyStream) -> bool:
        kind = stream.headers.get("streamtype", "")
        if kind in streams or kind not in ("error", "stdin", "stdout", "stderr", "resize"):
            return False
        streams[kind] = stream
        if kind == "error":
            stream.on_lost = link.abort  # the client waits for nothing any more
        elif kind not in wanted:
            stream.inflow.drop()
        if wanted <= streams.keys():
            complete.set()
        return True

    async def work() -> None:
        try:
            async with asyncio.timeout(timeouts.creation):
                await complete.wait()
        except TimeoutError:
            missing = ", ".join(sorted(wanted - streams.keys()))
            await report(Outcome(0, f"the client did not open its streams in time: {missing}", "Timeout", 504))
            return
        remote = RemoteStreams(
            tty=call.tty,
            stdin=aiter(streams["stdin"]) if call.stdin else None,
            stdout=streams["stdout"].write if call.stdout else None,
            stderr=streams["stderr"].write if call.stderr else None,
            resizes=sizes(aiter(streams["resize"])) if "resize" in wanted else no_sizes(),
        )
        outcome = await perform(handler, call, remote)
        for kind in ("stdout", "stderr"):
            if kind in streams:
                await streams[kind].finish()
        await report(outcome)

    async def report(outcome: Outcome) -> None:
        if (stream := streams.get("error")) is not None:
            if text := outcome.status() if protocol.startswith("v4.") else outcome.text():
                await stream.write(text)
            await stream.finish()

    await attend(SpdySession(link, accept), work(), timeouts)


async def serve_websocket(
    socket: WebSocket, protocol: str, call: RemoteCommand, handler: StreamHandler, timeouts: Timeouts
) -> None:
    """Does what is asked over a WebSocket, until the client has gone or has been told how it ended."""
    stdin, resize = Inflow(), Inflow()
    inflows = ({_STDIN: stdin} if call.stdin else {}) | ({_RESIZE: resize} if call.tty else {})
    channels = ChannelSocket(socket, inflows, text="base64" in protocol, closes=protocol.startswith("v5."))

    async def stdout(data: bytes) -> None:
        await channels.write(_STDOUT, data)

    async def stderr(data: bytes) -> None:
        await channels.write(_STDERR, data)

    async def work() -> None:
        # As Kubernetes' servers do, so that a client sees that it is connected.
        await channels.write(_STDOUT if call.stdout else _STDERR if call.stderr else _ERROR, b"")
        remote = RemoteStreams(
            tty=call.tty,
            stdin=aiter(stdin) if call.stdin else None,
            stdout=stdout if call.stdout else None,
            stderr=stderr if call.stderr else None,
            resizes=sizes(resize) if call.tty else no_sizes(),
        )
        outcome = await perform(handler, call, remote)
        if text := outcome.status() if protocol.startswith(("v4.", "v5.")) else outcome.text():
            await channels.write(_ERROR, text)

    await attend(channels, work(), timeouts)


def _wanted(call: RemoteCommand, protocol: str) -> set[str]:
    """The streams without which it does not begin."""
    resize = call.tty and protocol.startswith(("v3.", "v4."))
    asked = {"stdin": call.stdin, "stdout": call.stdout, "stderr": call.stderr, "resize": resize}
    return {"error"} | {kind for kind, wanted in asked.items() if wanted}
