"""Waits for an interface that comes later, in a namespace of its own. Run by test_links.py under unshare(1)."""

from __future__ import annotations

import asyncio

from zonal.network.links import wait_link


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
    print("found")


asyncio.run(main())
