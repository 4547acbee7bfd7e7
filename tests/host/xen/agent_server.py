"""An echoing server on the agent's end of the channel, as a program. It publishes below the host's own directory.

Usage: ``agent_server.py EPOCH``. Says ``ready`` once it can be connected to, and ends when the client has left.
"""

from __future__ import annotations

import select
import sys

from zonal.agent.channel import Channel
from zonal.agent.ring import ChannelClosedError
from zonal.agent.store import Store


def main() -> None:
    channel = Channel(Store(), sys.argv[1])
    print("ready", flush=True)
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)
    held = b""
    while True:
        try:
            if not held:
                held = channel.receive(65536)
            held = held[channel.send(memoryview(held)) :] if held else held
            channel.flush()
            if not held and (held := channel.receive(65536)):
                continue
        except ChannelClosedError:
            break
        poll.poll()
        channel.acknowledge()
    channel.close()
    print("done", flush=True)


main()
