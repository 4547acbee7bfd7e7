"""Shows the console of a running domain, and sends it what is typed, line by line.

Run as root in Xen's host, for a domain whose console nobody else reads (an event channel has one end in the host):

python3 examples/console.py 5
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from zonal.errors import ZonalError
from zonal.xen.abi.grant_table import GNTTAB_RESERVED_CONSOLE
from zonal.xen.console import Console
from zonal.xen.console_log import ConsoleLog
from zonal.xen.events import EventDevice
from zonal.xen.grants import GrantDevice
from zonal.xen.store import Store


async def show(log: ConsoleLog) -> None:
    """Prints all that the console says."""
    async for piece in log.follow():
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()


async def type_in(console: Console) -> None:
    """Sends the lines of stdin until it ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        await console.send(line)


async def attach(domain_id: int, log_path: Path) -> None:
    """Reads and writes the console's ring until interrupted."""
    async with await Store.connect() as store:
        port = await store.read_int(f"/local/domain/{domain_id}/console/port", 1, 0x1FFFF)
    with (
        EventDevice() as events,
        GrantDevice() as grants,
        grants.map(domain_id, [GNTTAB_RESERVED_CONSOLE]) as page,
        events.bind_interdomain(domain_id, port) as event,
        Console(page.buffer, event, ConsoleLog(log_path), name=f"domain {domain_id}") as console,
    ):
        async with asyncio.TaskGroup() as group:
            group.create_task(console.run())
            group.create_task(show(console.log))
            group.create_task(type_in(console))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("domain", type=int, help="the domain's number, as `xl list` shows it")
    arguments = parser.parse_args()
    with suppress(KeyboardInterrupt), tempfile.TemporaryDirectory() as folder:
        try:
            asyncio.run(attach(arguments.domain, Path(folder) / "console.log"))
        except ZonalError as error:
            sys.exit(f"console: {error}")


if __name__ == "__main__":
    main()
