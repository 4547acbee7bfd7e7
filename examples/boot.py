"""Boots a Linux kernel as a paravirtualised domain, and shows its console until it shuts down.

Run as root in Xen's host:

python3 examples/boot.py /boot/vmlinuz-6.12-cloud-amd64 --memory 128 --append "console=hvc0"
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from zonal.errors import ZonalError
from zonal.xen.abi.grant_table import GNTTAB_RESERVED_CONSOLE
from zonal.xen.build.kernel import load_kernel
from zonal.xen.console import Console
from zonal.xen.console_log import ConsoleLog
from zonal.xen.domain import Domain, DomainConfig, create_domain
from zonal.xen.events import EventDevice
from zonal.xen.grants import GrantDevice
from zonal.xen.hypercall import Hypervisor
from zonal.xen.store import Store


async def show_console(domain: Domain, log: Path) -> None:
    """Copies the console to stdout until the domain has shut down."""
    with (
        EventDevice() as events,
        GrantDevice() as grants,
        grants.map(domain.domain_id, [GNTTAB_RESERVED_CONSOLE]) as page,
        events.bind_interdomain(domain.domain_id, domain.built.console_port) as event,
        Console(page.buffer, event, ConsoleLog(log), name=domain.config.name) as console,
    ):
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(console.run())
            printer = group.create_task(print_log(console.log))
            reason = await domain.wait_shutdown()
            while console.drain():
                pass
            print(f"\n{domain.config.name} has shut down, reason {reason}")
            reader.cancel()
            printer.cancel()


async def print_log(log: ConsoleLog) -> None:
    """Prints what is appended to the log."""
    async for chunk in log.follow():
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()


async def boot(arguments: argparse.Namespace) -> None:
    """One domain, from its kernel file to its end."""
    with Hypervisor() as hypervisor, tempfile.TemporaryDirectory() as folder:
        async with await Store.connect() as store:
            kernel = load_kernel(arguments.kernel, arguments.cache)
            begin = time.monotonic()
            config = DomainConfig(
                name=arguments.name,
                kernel=kernel,
                memory=arguments.memory << 20,
                vcpus=arguments.vcpus,
                command_line=arguments.append,
                initrd=arguments.initrd,
            )
            domain = await create_domain(hypervisor, store, config)
            try:
                print(f"domain {domain.domain_id} built in {time.monotonic() - begin:.3f} s", file=sys.stderr)
                await domain.start()
                await show_console(domain, Path(folder) / "console.log")
            finally:
                await domain.destroy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kernel", type=Path, help="an x86-64 vmlinux or vmlinuz with CONFIG_XEN_PV")
    parser.add_argument("--initrd", type=Path)
    parser.add_argument("--memory", type=int, default=128, metavar="MIB")
    parser.add_argument("--vcpus", type=int, default=1)
    parser.add_argument("--name", default="example")
    parser.add_argument("--append", default="console=hvc0", help="the kernel's command line")
    parser.add_argument("--cache", type=Path, default=Path("/var/tmp/zonal-kernels"), help="for decompressed kernels")
    arguments = parser.parse_args()
    with suppress(KeyboardInterrupt):
        try:
            asyncio.run(boot(arguments))
        except ZonalError as error:
            sys.exit(f"boot: {error}")


if __name__ == "__main__":
    main()
