"""Domains, built and destroyed for real: what the kernel in them finds, and that nothing of them stays."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.host.xen.guest import boot_guest, kernel_path
from zonal.errors import InvalidInputError, ResourceExhaustedError
from zonal.xen import domctl
from zonal.xen.abi.domctl import SHUTDOWN_CRASH, SHUTDOWN_POWEROFF
from zonal.xen.build import pv
from zonal.xen.build.kernel import KernelImage, load_kernel
from zonal.xen.domain import Domain, DomainConfig, create_domain, destroy_domain
from zonal.xen.hypercall import HypercallError, Hypervisor
from zonal.xen.store import Store
from zonal.xen.virt import Virt

MIB = 1 << 20
EMULATOR_S_FAULT = b"Oops: int3"
"""A processor has run code that another one has just changed: the kernel patches itself while it starts, and QEMU's
emulation of several processors does not always keep up. No other fault is let pass."""


@pytest.fixture
def hypervisor() -> Hypervisor:
    return Hypervisor()


@pytest.fixture
async def store() -> AsyncGenerator[Store]:
    async with await Store.connect() as opened:
        yield opened


@pytest.fixture(scope="session")
def kernel() -> KernelImage:
    return load_kernel(kernel_path(), Path("/var/tmp/zonal-test-kernels"))


async def left_in(hypervisor: Hypervisor, store: Store) -> tuple[list[int], list[str], list[str]]:
    """Domains, and what the store has of them."""
    domains = [info.domain_id for info in domctl.list_domains(hypervisor)]
    return domains, sorted(await store.list("/local/domain")), sorted(await store.list("/vm"))


async def test_the_kernel_finds_the_memory_and_cpus_that_it_was_given(tmp_path: Path) -> None:
    script = "nproc; grep MemTotal /proc/meminfo; cat /proc/cmdline; echo told; poweroff -f"
    async with boot_guest(tmp_path, script) as guest:
        said = (await guest.expect(b"told")).decode()
        total = int(said.split("MemTotal:")[1].split()[0]) << 10
        assert 64 * MIB < total < 128 * MIB
        assert "console=hvc0 quiet panic=-1" in said
        assert await guest.domain.wait_shutdown() == SHUTDOWN_POWEROFF


@pytest.mark.parametrize("virt", Virt)
@pytest.mark.parametrize(("mebibytes", "vcpus"), [(72, 1), (101, 2), (333, 8), (700, 64)])
async def test_odd_sizes_and_many_cpus_are_built(
    hypervisor: Hypervisor, store: Store, kernel: KernelImage, mebibytes: int, vcpus: int, virt: Virt
) -> None:
    config = DomainConfig("odd", kernel, mebibytes * MIB, vcpus=vcpus, virt=virt)
    domain = await create_domain(hypervisor, store, config)
    try:
        info = domctl.domain_info(hypervisor, domain.domain_id)
        assert info is not None
        assert info.total_pages == mebibytes << 8
        assert info.paused
        assert info.handle == config.uuid.bytes
        assert await store.read_text(f"/local/domain/{domain.domain_id}/name") == "odd"
    finally:
        await domain.destroy()


@pytest.mark.parametrize(("mebibytes", "vcpus"), [(101, 2), (333, 8)])
async def test_odd_sizes_and_many_cpus_run(mebibytes: int, vcpus: int, tmp_path: Path) -> None:
    ended = None
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        script = "grep -c ^processor /proc/cpuinfo; poweroff -f"
        async with boot_guest(folder, script, mebibytes=mebibytes, vcpus=vcpus) as guest:
            ended = await guest.domain.wait_shutdown()
        said = (folder / "console.log").read_bytes()
        if ended == SHUTDOWN_CRASH and EMULATOR_S_FAULT in said:
            continue
        assert f"\n{vcpus}\r\n".encode() in said
        break
    assert ended == SHUTDOWN_POWEROFF


async def test_a_pvh_domain_finds_its_memory_and_each_of_its_cpus(tmp_path: Path) -> None:
    script = (
        "cat /sys/hypervisor/guest_type; nproc; grep MemTotal /proc/meminfo; cat /proc/cmdline; echo told; poweroff -f"
    )
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        async with boot_guest(folder, script, mebibytes=128, vcpus=3, virt=Virt.PVH) as guest:
            ended = await guest.domain.wait_shutdown()
        said = (folder / "console.log").read_bytes()
        if ended == SHUTDOWN_CRASH and (not said or EMULATOR_S_FAULT in said):
            continue  # the emulator's: see docs/lab.md
        assert ended == SHUTDOWN_POWEROFF
        assert b"PVH\r\n3\r\n" in said
        assert 64 * MIB < int(said.split(b"MemTotal:")[1].split()[0]) << 10 < 128 * MIB
        assert b"console=hvc0 quiet panic=-1" in said
        return
    pytest.fail("the emulator has failed five times")


async def test_a_pvh_domain_sees_what_it_may_grow_to_and_holds_what_it_was_given(
    hypervisor: Hypervisor, store: Store, kernel: KernelImage
) -> None:
    config = DomainConfig("elastic", kernel, 128 * MIB, most_memory=512 * MIB, virt=Virt.PVH)
    domain = await create_domain(hypervisor, store, config)
    try:
        info = domctl.domain_info(hypervisor, domain.domain_id)
        assert info is not None
        assert info.total_pages == 128 << 8
    finally:
        await domain.destroy()


async def test_a_panic_is_a_crash(tmp_path: Path) -> None:
    async with boot_guest(tmp_path, "exit 3") as guest:
        assert await guest.domain.wait_shutdown() == SHUTDOWN_CRASH
        assert b"Attempted to kill init" in await guest.expect(b"Kernel panic")


@pytest.mark.parametrize("step", ["populate", "pin_l4_table", "seed_grants", "_write_boot_pages", "alloc_unbound"])
async def test_a_step_that_fails_leaves_nothing(
    hypervisor: Hypervisor, store: Store, kernel: KernelImage, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await left_in(hypervisor, store)
    free = domctl.physical_info(hypervisor).free_bytes

    def fails(*_: object, **__: object) -> None:
        raise HypercallError(step, 22)

    monkeypatch.setattr(pv, step, fails)
    with pytest.raises(HypercallError, match=step):
        await create_domain(hypervisor, store, DomainConfig("fails", kernel, 128 * MIB))
    assert await left_in(hypervisor, store) == before
    assert abs(domctl.physical_info(hypervisor).free_bytes - free) < 16 * MIB


async def test_a_cancelled_build_leaves_nothing(hypervisor: Hypervisor, store: Store, kernel: KernelImage) -> None:
    before = await left_in(hypervisor, store)
    for patience in (0.01, 0.05, 0.2):
        built: Domain | None = None
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(patience):
                built = await create_domain(hypervisor, store, DomainConfig("cancelled", kernel, 512 * MIB))
                await asyncio.sleep(patience)
        if built is not None:  # a fast machine: there was nothing to cancel
            await built.destroy()
    assert await left_in(hypervisor, store) == before


async def test_more_memory_than_there_is_is_refused(hypervisor: Hypervisor, store: Store, kernel: KernelImage) -> None:
    before = await left_in(hypervisor, store)
    free = domctl.physical_info(hypervisor).free_bytes
    with pytest.raises(ResourceExhaustedError, match="could be had"):
        await create_domain(hypervisor, store, DomainConfig("greedy", kernel, (free // MIB + 64) * MIB))
    assert await left_in(hypervisor, store) == before


@pytest.mark.parametrize(("memory", "vcpus"), [(63 * MIB, 1), (128 * MIB + 1, 1), (128 * MIB, 0), (128 * MIB, 65)])
async def test_sizes_that_cannot_be_are_refused(
    hypervisor: Hypervisor, store: Store, kernel: KernelImage, memory: int, vcpus: int
) -> None:
    with pytest.raises(InvalidInputError):
        await create_domain(hypervisor, store, DomainConfig("impossible", kernel, memory, vcpus=vcpus))


async def test_destroying_what_is_not_there_is_no_error(hypervisor: Hypervisor, store: Store) -> None:
    await destroy_domain(hypervisor, store, 30000)


async def test_domains_are_listed_with_their_handles(hypervisor: Hypervisor, store: Store, kernel: KernelImage) -> None:
    handle = uuid.uuid4()
    domain = await create_domain(hypervisor, store, DomainConfig("listed", kernel, 128 * MIB, uuid=handle))
    try:
        assert handle.bytes in {info.handle for info in domctl.list_domains(hypervisor)}
    finally:
        await domain.destroy()
    assert domctl.domain_info(hypervisor, domain.domain_id) is None
