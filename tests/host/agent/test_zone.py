"""The whole way into a zone: domain, kernel, initrd, system image, agent, channel, session."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

from tests.host.agent.workload import ROOT, read_all, running, start
from tests.host.agent.zone import RELEASE, running_zone
from zonal.zones.session import open_session

POWER_OFF = 0  # SHUTDOWN_poweroff of Xen's public sched.h
MOST_RESIDENT = 14 << 20


async def test_a_zone_runs_workloads_outlives_sessions_and_powers_off() -> None:
    async with running_zone() as zone:
        async with open_session(await zone.connect("first"), timeout=60) as session:
            greeting = await session.greeted(60)
            assert greeting.kernel_release == RELEASE
            assert greeting.resident_bytes < MOST_RESIDENT
            await session.call("configure", {"hostname": "zone-1", "sysctls": {"kernel.panic_on_oops": "1"}})
            await session.call("prepare_root", {"id": ROOT, "device": "/dev/xvdb"})
            async with running(session, "sh", "-c", "uname -r; exit 3") as workload:
                out, _, ended = await workload.finish()
                assert (out.decode().strip(), ended.status) == (RELEASE, 3)
            async with running(session, "sh", "-c", "cat /proc/sys/kernel/random/boot_id") as workload:
                out, _, _ = await workload.finish()
                assert out.decode() != Path("/proc/sys/kernel/random/boot_id").read_text()
            async with running(session, "md5sum") as workload, asyncio.TaskGroup() as group:
                finishing = group.create_task(workload.finish())
                await workload.stdin.write(bytes(3_000_000))
                workload.stdin.end()
                out, _, _ = await finishing
                assert out.decode().split()[0] == hashlib.md5(bytes(3_000_000)).hexdigest()
            long = await start(session, "sh", "-c", "echo one; read x; head -c 1000000 /dev/zero; exit 5")
            assert await long.stdout.read() == b"one\n"
            long.stdout.done(4)
            await long.stdin.write(b"go\n")
            received = len(await long.stdout.read())
            assert received
            consumed = {long.stdout.number: long.stdout.offset}
        async with open_session(await zone.connect("second"), consumed=consumed) as session:
            assert await read_all(session.outputs[long.stdout.number]) == bytes(1_000_000)
            assert (await session.wait_exited("w")).status == 5
            await session.call("forget", {"id": "w"})
            await session.call("power_off", {"grace_ms": 1000})
            assert await zone.domain.wait_shutdown() == POWER_OFF


async def test_a_fault_of_the_agent_is_on_the_console_and_ends_the_domain() -> None:
    async with running_zone() as zone:
        channel = await zone.connect("first")
        async with open_session(channel, timeout=60) as session:
            await session.call("prepare_root", {"id": ROOT, "device": "/dev/xvdb"})
            await start(session, "sleep", "1000")
            # A host that names a grant of the agent's own store makes no sense: the store refuses, the agent gives up.
            home = f"/local/domain/{zone.domain.domain_id}"
            await zone.store.remove(f"{home}/zonal/channel")
            await zone.store.write(f"{home}/zonal/host", "second")
            reason = await zone.domain.wait_shutdown()
            assert reason != POWER_OFF
        console = zone.console.tail(20_000).decode(errors="replace")
        assert "StoreError" in console
        assert "Attempted to kill init" in console


async def test_a_zone_without_its_system_image_says_so_and_ends() -> None:
    async with running_zone(disks=False) as zone:
        reason = await zone.domain.wait_shutdown()
        assert reason != POWER_OFF
        console = zone.console.tail(20_000).decode(errors="replace")
        assert "the initrd cannot find the system image: no /dev/xvda" in console
