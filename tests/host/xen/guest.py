"""A zone for tests: Debian's cloud kernel, busybox, and a script as its first process."""

from __future__ import annotations

import asyncio
import lzma
import stat
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from zonal.xen.abi.grant_table import GNTTAB_RESERVED_CONSOLE
from zonal.xen.build.kernel import load_kernel
from zonal.xen.console import Console
from zonal.xen.console_log import ConsoleLog
from zonal.xen.devices.xenbus import detach, find_devices
from zonal.xen.domain import DevicePlan, Domain, DomainConfig, create_domain
from zonal.xen.events import EventDevice
from zonal.xen.grants import GrantDevice
from zonal.xen.hypercall import Hypervisor
from zonal.xen.store import Store
from zonal.xen.virt import Virt

_PRELUDE = """#!/busybox sh
/busybox mkdir -p /bin /proc /sys /dev
/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in /modules/*.ko; do insmod "$module"; done
echo guest-ready
"""


@dataclass
class Guest:
    """A running zone, its console and what a test needs of the host."""

    domain: Domain
    store: Store
    console: Console
    log: ConsoleLog

    async def expect(self, text: bytes) -> bytes:
        """Waits until the console has said ``text``; gives all it has said so far."""
        said = b""
        async for piece in self.log.follow():
            said += piece
            if text in said:
                return said
        raise AssertionError(f"the console was closed before {text!r}: {said[-1000:]!r}")


def initrd(script: str, modules: tuple[str, ...]) -> bytes:
    """An uncompressed cpio archive (newc) of busybox, modules by name, and ``script`` as ``/init``."""
    folder = kernel_path().name.removeprefix("vmlinuz-")
    files = [("init", (_PRELUDE + script).encode(), 0o755), ("busybox", Path("/bin/busybox").read_bytes(), 0o755)]
    for number, name in enumerate(modules):
        (path,) = Path("/lib/modules", folder).rglob(f"{name}.ko.xz")
        files.append((f"modules/{number}-{name}.ko", lzma.decompress(path.read_bytes()), 0o644))
    return b"".join(_cpio(files))


def kernel_path() -> Path:
    return max(Path("/boot").glob("vmlinuz-*cloud-amd64"))


@asynccontextmanager
async def boot_guest(
    folder: Path,
    script: str,
    *,
    modules: tuple[str, ...] = (),
    devices: tuple[DevicePlan, ...] = (),
    mebibytes: int = 128,
    vcpus: int = 1,
    most_mebibytes: int = 0,
    virt: Virt = Virt.PV,
) -> AsyncGenerator[Guest]:
    """Boots a zone that runs ``script`` with busybox, and destroys it at the end."""
    kernel = load_kernel(kernel_path(), Path("/var/tmp/zonal-test-kernels"))
    (folder / "initrd").write_bytes(initrd(script, modules))
    config = DomainConfig(
        name="zonal-test",
        kernel=kernel,
        memory=mebibytes << 20,
        most_memory=most_mebibytes << 20,
        vcpus=vcpus,
        virt=virt,
        command_line="console=hvc0 quiet panic=-1",
        initrd=folder / "initrd",
        devices=devices,
    )
    with Hypervisor() as hypervisor:
        async with await Store.connect() as store:
            domain = await create_domain(hypervisor, store, config)
            try:
                with (
                    EventDevice() as events,
                    GrantDevice() as grants,
                    grants.map(domain.domain_id, [GNTTAB_RESERVED_CONSOLE]) as page,
                    events.bind_interdomain(domain.domain_id, domain.built.console_port) as event,
                ):
                    log = ConsoleLog(folder / "console.log")
                    with Console(page.buffer, event, log, name=config.name) as console:
                        async with asyncio.TaskGroup() as group:
                            pump = group.create_task(console.run())
                            await domain.start()
                            yield Guest(domain, store, console, log)
                            pump.cancel()
                    log.close()
            finally:
                await detach(store, await find_devices(store, domain.domain_id), timeout=60, zone_runs=False)
                await domain.destroy()


def _cpio(files: list[tuple[str, bytes, int]]) -> Iterator[bytes]:
    entries = [("modules", b"", stat.S_IFDIR | 0o755)]
    entries += [(name, data, stat.S_IFREG | mode) for name, data, mode in files]
    for number, (name, data, mode) in enumerate([*entries, ("TRAILER!!!", b"", 0)]):
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        yield header + bytes(-len(header) % 4)
        yield data + bytes(-len(data) % 4)
