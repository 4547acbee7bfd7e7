"""Devices in a real zone: disks that it reads and writes, a network interface, and taking them away again."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from tests.host.xen.guest import boot_guest, kernel_path
from zonal.errors import DeadlineError
from zonal.xen.build.kernel import load_kernel
from zonal.xen.devices.vbd import Disk, plan_vbd, vbd
from zonal.xen.devices.vif import Interface, host_interface, mark_ready, plan_vif, random_mac, vif
from zonal.xen.devices.xenbus import (
    Device,
    DeviceError,
    XenbusState,
    detach,
    find_devices,
    read_state,
    wait_connected,
)
from zonal.xen.domain import DomainConfig, create_domain
from zonal.xen.hypercall import Hypervisor
from zonal.xen.loop import open_loop
from zonal.xen.store import Entry, Store

_SCRIPT = r"""
echo "sum: $(sha256sum < /dev/xvda)"
(echo x > /dev/xvda) 2> /dev/null && echo "wrote to a read-only disk"
dd if=/dev/xvda of=/dev/xvdb bs=64k 2> /dev/null; sync; echo disk-done
ifconfig eth0 10.231.0.2 netmask 255.255.255.252 up
echo "mac: $(cat /sys/class/net/eth0/address)"
ping -c 3 -W 10 10.231.0.1 > /dev/null && echo network-done || echo network-failed
while [ -e /sys/block/xvdb ]; do sleep 0.1; done
echo disk-gone
while [ -e /sys/class/net/eth0 ]; do sleep 0.1; done
echo all-gone
sleep 1000
"""
_SIZE = 4 << 20


def make_files(folder: Path) -> tuple[Path, Path]:
    image, scratch = folder / "image", folder / "scratch"
    image.write_bytes(b"".join(hashlib.sha256(number.to_bytes(4)).digest() for number in range(_SIZE // 32)))
    scratch.write_bytes(bytes(_SIZE))
    return image, scratch


def backing_files() -> list[str]:
    return [path.read_text().strip() for path in Path("/sys/block").glob("loop*/loop/backing_file")]


async def run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command)
    assert await process.wait() == 0, command


async def test_devices_of_a_running_zone(tmp_path: Path) -> None:
    image, scratch = make_files(tmp_path)
    interface = Interface(0, random_mac())
    with open_loop(image, read_only=True) as first, open_loop(scratch, read_only=False, direct=True) as second:
        disks = [Disk("xvda", first.path, first.device), Disk("xvdb", second.path, second.device, writable=True)]
        plans = (
            partial(plan_vbd, disk=disks[0]),
            partial(plan_vbd, disk=disks[1]),
            partial(plan_vif, interface=interface),
        )
        modules = ("xen-blkfront", "xen-netfront")
        async with boot_guest(tmp_path, _SCRIPT, modules=modules, devices=plans) as guest:
            domain_id, store = guest.domain.domain_id, guest.store
            one, two = (vbd(domain_id, disk) for disk in disks)
            network = vif(domain_id, interface)
            for device in (one, two):
                await wait_connected(store, device, timeout=120)
            # Served from here on by the backend alone.
            first.close()
            second.close()
            assert {str(image), str(scratch)} <= set(backing_files())
            said = await guest.expect(b"disk-done")
            assert f"sum: {hashlib.sha256(image.read_bytes()).hexdigest()}".encode() in said
            assert b"wrote to a read-only disk" not in said
            assert scratch.read_bytes() == image.read_bytes()

            with pytest.raises(DeadlineError, match=r"vif 0 of domain \d+ was not connected .* the backend is"):
                await wait_connected(store, network, timeout=0.05)
            name = host_interface(domain_id, interface)
            await run("ip", "addr", "add", "10.231.0.1/30", "dev", name)
            await run("ip", "link", "set", name, "up")
            await mark_ready(store, network)
            await wait_connected(store, network, timeout=60)
            said = await guest.expect(b"network-")
            assert f"mac: {interface.mac}".encode() in said
            await guest.expect(b"network-done")

            await detach(store, [two], timeout=60, zone_runs=True)
            await guest.expect(b"disk-gone")
            assert str(scratch) not in backing_files()
            assert not await store.exists(two.backend)
            assert not await store.exists(two.frontend)
            await detach(store, [network], timeout=60, zone_runs=True)
            await guest.expect(b"all-gone")
            assert not Path("/sys/class/net", name).exists()
        assert str(image) not in backing_files()
    async with await Store.connect() as store:
        for directory in (one.backend, two.backend, network.backend):
            assert not await store.exists(directory.rpartition("/")[0])


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    async with await Store.connect() as store:
        yield store


@pytest.fixture
async def paused(store: Store) -> AsyncIterator[int]:
    """A domain that never runs: its frontends tell nothing."""
    kernel = load_kernel(kernel_path(), Path("/var/tmp/zonal-test-kernels"))
    config = DomainConfig(name="zonal-test-paused", kernel=kernel, memory=96 << 20)
    with Hypervisor() as hypervisor:
        domain = await create_domain(hypervisor, store, config)
        try:
            yield domain.domain_id
        finally:
            await domain.destroy()


async def test_a_disk_of_nothing_says_why(store: Store, paused: int) -> None:
    disk = Disk("xvda", Path("/dev/none"), os.makedev(241, 7))
    device = vbd(paused, disk)
    await store.transaction(lambda transaction: transaction.put(plan_vbd(paused, disk)))
    with pytest.raises((DeviceError, DeadlineError), match=r"vbd 51712 of domain \d+.*the backend says"):
        await wait_connected(store, device, timeout=60)
    assert await find_devices(store, paused) == [device]
    await detach(store, [device], timeout=20, zone_runs=False)
    assert await find_devices(store, paused) == []
    assert not await store.exists(device.backend)


async def test_a_silent_zones_disk_is_let_go(store: Store, paused: int, tmp_path: Path) -> None:
    image, _ = make_files(tmp_path)
    with open_loop(image, read_only=True) as loop:
        disk = Disk("xvda", loop.path, loop.device)
        device = vbd(paused, disk)
        await store.transaction(lambda transaction: transaction.put(plan_vbd(paused, disk)))
        assert str(image) in backing_files()
        await detach(store, [device], timeout=5, zone_runs=True)
    assert str(image) not in backing_files()
    assert not await store.exists(f"/local/domain/0/backend/vbd/{paused}")


async def test_a_zone_may_tell_any_state(store: Store) -> None:
    device = Device("vbd", 32003, 51712)
    for value in (b"", b"99", b"\xff" * 100, b"-1"):
        await store.put([Entry(f"{device.frontend}/state", value)])
        assert await read_state(store, device.frontend) == XenbusState.UNKNOWN
    await store.remove("/local/domain/32003")
