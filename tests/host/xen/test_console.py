"""A real zone's console: everything it says is kept, and input reaches it."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.host.xen.guest import boot_guest
from zonal.xen import console as layout
from zonal.xen.console import Console, ConsoleClosedError
from zonal.xen.console_log import ConsoleLog
from zonal.xen.events import EventChannel, EventDevice
from zonal.xen.ring import RingCorruptError

_SCRIPT = r"""
stty -echo
while read line; do
    case "$line" in
        flood) i=0
               while [ $i -lt 2000 ]; do echo "flood $i: some more text"; i=$((i + 1)); done
               echo flood-done;;
        end) echo bye; poweroff -f;;
        *) echo "got: $line";;
    esac
done
"""


async def test_a_zone_is_heard_and_spoken_to(tmp_path: Path) -> None:
    async with boot_guest(tmp_path, _SCRIPT) as guest:
        said = await guest.expect(b"guest-ready")
        assert b"Linux version" in said or b"Run /init" in said or said.strip().endswith(b"guest-ready")
        await guest.console.send(b"hello\n")
        await guest.expect(b"got: hello\r\n")
        long = b"x" * 3000  # three times the ring; a terminal line has at most 4095 bytes
        await guest.console.send(long + b"\n")
        await guest.expect(b"got: " + long)
        await guest.console.send(b"flood\n")
        said = await guest.expect(b"flood-done")
        assert b"".join(b"flood %d: some more text\r\n" % number for number in range(2000)) in said
        await guest.console.send(b"end\n")
        assert await guest.domain.wait_shutdown() == 0
        while guest.console.drain():
            pass
        assert b"bye" in guest.log.tail()


@pytest.fixture
async def event() -> AsyncIterator[EventChannel]:
    with EventDevice() as events, events.bind_unbound(0) as event:
        yield event


async def test_impossible_counters_end_the_console(tmp_path: Path, event: EventChannel) -> None:
    page = bytearray(4096)
    log = ConsoleLog(tmp_path / "console.log")
    with Console(memoryview(page), event, log, name="zone x") as console:
        page[1024:1029] = b"hello"
        struct.pack_into("=I", page, layout.COUNTERS_OFFSET + 4 * layout.OUT_PROD, 5)
        assert console.drain() == 5
        struct.pack_into("=I", page, layout.COUNTERS_OFFSET + 4 * layout.OUT_PROD, 3000)
        with pytest.raises(RingCorruptError, match="console of zone x, output is corrupt: 3000 bytes written and 5"):
            await console.run()
        struct.pack_into("=I", page, layout.COUNTERS_OFFSET + 4 * layout.IN_CONS, 7)
        with pytest.raises(RingCorruptError, match="console of zone x, input is corrupt: 0 bytes written and 7"):
            await console.send(b"x")
    assert log.tail() == b"hello"
    with pytest.raises(ConsoleClosedError):
        await console.send(b"x")
    page.clear()  # nothing holds a view of the page any more
