"""Waits for an interface that comes later, in a namespace of its own. Run by test_links.py under unshare(1)."""

from __future__ import annotations

import asyncio
import socket

from zonal.network.links import Traffic, read_traffic, set_link_up, wait_link
from zonal.network.netlink import Netlink


async def main() -> None:
    waiting = asyncio.create_task(wait_link("later"))
    for name in ("other", "later"):
        await asyncio.sleep(0.1)
        assert not waiting.done()
        process = await asyncio.create_subprocess_exec("ip", "link", "add", name, "type", "bridge")
        assert await process.wait() == 0
    link = await asyncio.wait_for(waiting, 30)
    assert (link.name, link.mtu) == ("later", 1500)
    assert await wait_link("later") == link
    with Netlink() as netlink:
        set_link_up(netlink, 1)
        before = read_traffic(netlink, "lo")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(bytes(1000), ("127.0.0.1", 9))
        now = read_traffic(netlink, "lo")
        assert 1000 < now.received.bytes - before.received.bytes == now.sent.bytes - before.sent.bytes < 3000
        assert now.received.packets > before.received.packets
        assert (now.received.errors, now.sent.errors) == (0, 0)
        assert now.of_peer == Traffic(now.sent, now.received)
        assert read_traffic(netlink, "none") == Traffic()
    print("found")


asyncio.run(main())
