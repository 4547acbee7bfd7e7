"""A zone for the tests of the agent: a real domain with the system image, an image of busybox, and its channel."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from zonal.xen.abi.grant_table import GNTTAB_RESERVED_CONSOLE
from zonal.xen.build.kernel import load_kernel
from zonal.xen.channel import Channel
from zonal.xen.console import Console
from zonal.xen.console_log import ConsoleLog
from zonal.xen.devices.vbd import disk_from_path, plan_vbd
from zonal.xen.domain import Domain, DomainConfig, create_domain, domain_path
from zonal.xen.events import EventDevice
from zonal.xen.grants import GrantDevice
from zonal.xen.hypercall import Hypervisor
from zonal.xen.loop import open_loop
from zonal.xen.store import Store
from zonal.zones.initrd import build_initrd
from zonal.zones.system_image import build_system_image

RELEASE = sorted(path.name for path in Path("/lib/modules").iterdir() if "cloud" in path.name)[-1]
KERNEL = Path(f"/boot/vmlinuz-{RELEASE}")
CACHE = Path("/var/tmp/zonal-agent-tests")


@dataclass(frozen=True)
class Zone:
    """A running domain and what a session with it needs."""

    domain: Domain
    store: Store
    events: EventDevice
    grants: GrantDevice
    console: ConsoleLog

    async def connect(self, epoch: str, timeout: float = 60.0) -> Channel:
        """A fresh channel."""
        home = domain_path(self.domain.domain_id)
        await self.store.write(f"{home}/zonal/host", epoch)
        return await Channel.connect(
            self.store,
            self.events,
            self.grants,
            self.domain.domain_id,
            f"{home}/zonal/channel",
            timeout=timeout,
            epoch=epoch,
        )


def busybox_image() -> Path:
    """An erofs with busybox, users and groups: the smallest useful image."""
    image = CACHE / "busybox.erofs"
    root = CACHE / "busybox"
    if not image.exists():
        for name in ("bin", "dev", "etc", "proc", "root", "sys", "tmp"):
            (root / name).mkdir(parents=True, exist_ok=True)
        (root / "bin/busybox").write_bytes(Path("/usr/bin/busybox").read_bytes())
        (root / "bin/busybox").chmod(0o755)
        applets = subprocess.run(["/usr/bin/busybox", "--list"], capture_output=True, text=True, check=True)
        for applet in applets.stdout.split():
            if applet != "busybox":
                (root / "bin" / applet).unlink(missing_ok=True)
                (root / "bin" / applet).symlink_to("busybox")
        (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nanna:x:1000:100::/home/anna:/bin/sh\n")
        (root / "etc/group").write_text("root:x:0:\nusers:x:100:\naudio:x:29:anna\nvideo:x:44:bert,anna\n")
        (root / "bin/not-executable").write_text("text\n")
        subprocess.run(["mkfs.erofs", "--quiet", "-T0", "--all-root", image, root], check=True)
    return image


@asynccontextmanager
async def running_zone(
    *, memory: int = 128 << 20, append: str = "panic=-1", disks: bool = True
) -> AsyncGenerator[Zone]:
    """Boots, with the system image and busybox's as ``disks`` or without any; leaves nothing behind."""
    CACHE.mkdir(exist_ok=True)
    system = await asyncio.to_thread(build_system_image, CACHE)
    (CACHE / "initrd").write_bytes(build_initrd(Path("/lib/modules") / RELEASE, Path("/usr/bin/busybox")))
    async with AsyncExitStack() as stack:
        hypervisor = stack.enter_context(Hypervisor())
        store = await stack.enter_async_context(await Store.connect())
        present = [
            disk_from_path(name, stack.enter_context(open_loop(path, read_only=True)).path)
            for name, path in (("xvda", system), ("xvdb", busybox_image()))
            if disks
        ]
        config = DomainConfig(
            name=f"agent-test-{os.getpid()}",
            kernel=load_kernel(KERNEL, CACHE),
            memory=memory,
            command_line=f"console=hvc0 loglevel=4 {append}".strip(),
            initrd=CACHE / "initrd",
            devices=tuple(lambda domain_id, disk=disk: plan_vbd(domain_id, disk) for disk in present),
            readable=(("zonal/host", ""),),
            writable=("zonal/channel",),
        )
        domain = await create_domain(hypervisor, store, config)
        stack.push_async_callback(domain.destroy)
        events = stack.enter_context(EventDevice())
        grants = stack.enter_context(GrantDevice())
        page = stack.enter_context(grants.map(domain.domain_id, [GNTTAB_RESERVED_CONSOLE]))
        port = stack.enter_context(events.bind_interdomain(domain.domain_id, domain.built.console_port))
        (CACHE / "console.log").unlink(missing_ok=True)
        log = ConsoleLog(CACHE / "console.log")
        console = stack.enter_context(Console(page.buffer, port, log, name="agent-test"))
        group = await stack.enter_async_context(asyncio.TaskGroup())
        reader = group.create_task(console.run())
        stack.callback(reader.cancel)
        await domain.start()
        yield Zone(domain, store, events, grants, log)
