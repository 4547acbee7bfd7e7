"""A whole domain: built, announced in the store with its devices, started, destroyed without a trace.

>>> domain = await create_domain(hypervisor, store, config)
>>> await domain.start()
>>> reason = await domain.wait_shutdown()
>>> await domain.destroy()
"""

from __future__ import annotations

import asyncio
import errno
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import ParamSpec, TypeVar

from zonal.errors import DeadlineError, InvalidInputError
from zonal.xen import domctl
from zonal.xen.abi.privcmd import PAGE_SIZE
from zonal.xen.build.built import BuiltDomain
from zonal.xen.build.kernel import KernelImage
from zonal.xen.build.pv import build_pv
from zonal.xen.build.pvh import build_pvh
from zonal.xen.devices.console import plan_console
from zonal.xen.devices.pci import plan_pci
from zonal.xen.domctl import DomainLimits
from zonal.xen.hypercall import HypercallError, Hypervisor
from zonal.xen.pci.functions import PciFunction
from zonal.xen.pci.grants import permit
from zonal.xen.store import Access, Entry, Nodes, Permission, Store, StoreError
from zonal.xen.virt import Virt

_P = ParamSpec("_P")
_T = TypeVar("_T")

MIN_MEMORY = 64 << 20
"""Bytes; less holds no general-purpose kernel."""
MAX_VCPUS = 64
HOST_ID = 0
GONE_TIMEOUT = 30.0
"""Seconds that a destroyed domain may take to be gone, with every page that others had mapped."""


DevicePlan = Callable[[int], Iterable[Entry]]
"""Given the domain's id, all that is to be written for a device, frontend and backend: ``plan_vbd``, ``plan_vif``."""


@dataclass(frozen=True)
class GivenFunction:
    """A PCI function in the hands of pciback that a domain is to have."""

    function: PciFunction
    confined: bool = True
    """By the IOMMU; else it reaches all of the machine's memory."""


@dataclass(frozen=True)
class DomainConfig:
    """What a domain is to be; sizes in bytes.

    ``most_memory`` is what it may grow to, and ``vcpus`` the most CPUs that it may have, of which ``online_vcpus``
    are wanted at first; 0 is the same as ``memory``, and all.
    ``readable`` and ``writable`` are for what the domain's own software looks for in the store, below the domain's
    directory: nodes with their values that it may read, and directories that it may write to.
    """

    name: str
    kernel: KernelImage
    memory: int
    most_memory: int = 0
    vcpus: int = 1
    online_vcpus: int = 0
    command_line: str = ""
    initrd: Path | None = None
    devices: tuple[DevicePlan, ...] = ()
    readable: tuple[tuple[str, str], ...] = ()
    writable: tuple[str, ...] = ()
    limits: DomainLimits = field(default_factory=DomainLimits)
    virt: Virt = Virt.PV
    functions: tuple[GivenFunction, ...] = ()
    """Of the machine's PCI devices."""
    uuid: uuid.UUID = field(default_factory=uuid.uuid4)


@dataclass(frozen=True)
class Domain:
    """A domain that exists; ``built`` holds the frames and ports of its first rings."""

    hypervisor: Hypervisor
    store: Store
    domain_id: int
    config: DomainConfig
    built: BuiltDomain

    async def start(self) -> None:
        """Lets it run."""
        await asyncio.to_thread(domctl.unpause_domain, self.hypervisor, self.domain_id)

    async def wait_shutdown(self) -> int:
        """Waits until it has shut itself down or is gone; returns ``SHUTDOWN_*`` of ``public/sched.h``."""
        return await wait_shutdown(self.hypervisor, self.store, self.domain_id)

    async def destroy(self) -> None:
        """Kills it and removes all traces; whoever has mapped its pages unmaps them first."""
        await destroy_domain(self.hypervisor, self.store, self.domain_id)


async def create_domain(
    hypervisor: Hypervisor,
    store: Store,
    config: DomainConfig,
    *,
    created: Callable[[int], Awaitable[None]] | None = None,
) -> Domain:
    """Builds a domain, paused, with everything in the store that it and its devices need.

    ``created`` is told the domain's id as soon as there is one, before anything else is made, so that the caller can
    write it down. Leaves nothing when it fails or is cancelled. Raises ``InvalidInputError`` for a configuration that
    cannot work, and ``ResourceExhaustedError``.
    """
    _check(config)
    async with AsyncExitStack() as undo:
        # Not in a thread: a cancellation between the hypercall and here would lose the domain.
        domain_id = domctl.create_domain(
            *(hypervisor, config.uuid.bytes, config.vcpus, config.limits, config.virt),
            iommu=any(given.confined for given in config.functions),
        )
        undo.push_async_callback(destroy_domain, hypervisor, store, domain_id)
        if created is not None:
            await created(domain_id)
        built = await finish_in_thread(_build, hypervisor, domain_id, config)
        entries = [*domain_entries(domain_id, config, built)]
        for plan in config.devices:
            entries += plan(domain_id)
        if config.functions:
            entries += plan_pci(domain_id, [given.function.address for given in config.functions])
        await store.transaction(lambda transaction: transaction.put(entries))
        await store.introduce(domain_id, built.store_frame, built.store_port)
        undo.pop_all()
        return Domain(hypervisor, store, domain_id, config, built)


def domain_path(domain_id: int) -> str:
    """A domain's own directory in the store."""
    return f"/local/domain/{domain_id}"


def domain_entries(domain_id: int, config: DomainConfig, built: BuiltDomain) -> list[Entry]:
    """What every domain finds in the store, as ``docs/misc/xenstore-paths.pandoc`` of Xen has it."""
    path = domain_path(domain_id)
    readable = (Permission(HOST_ID), Permission(domain_id, Access.READ))
    owned = (Permission(domain_id), Permission(HOST_ID, Access.BOTH))
    vm = f"/vm/{config.uuid}"
    entries = [
        Entry(vm, "", readable),
        Entry(f"{vm}/name", config.name),
        Entry(f"{vm}/uuid", str(config.uuid)),
        Entry(f"{vm}/start_time", f"{time.time():.2f}"),
        Entry(path, "", readable),
        Entry(f"{path}/vm", vm, readable),
        Entry(f"{path}/name", config.name, readable),
        Entry(f"{path}/domid", str(domain_id), readable),
        Entry(f"{path}/memory", "", readable),
        Entry(f"{path}/memory/static-max", str(max(config.memory, config.most_memory) // 1024), readable),
        Entry(f"{path}/memory/target", str(config.memory // 1024), readable),
        Entry(f"{path}/store/port", str(built.store_port), readable),
        Entry(f"{path}/store/ring-ref", str(built.store_frame), readable),
        Entry(f"{path}/device", "", readable),
        Entry(f"{path}/control", "", readable),
        Entry(f"{path}/control/shutdown", "", owned),
        *(Entry(f"{path}/control/feature-{name}", "", owned) for name in ("poweroff", "reboot", "suspend")),
    ]
    entries += plan_console(domain_id, frame=built.console_frame, port=built.console_port)
    for vcpu in range(config.vcpus):
        online = vcpu < (config.online_vcpus or config.vcpus)
        entries.append(Entry(f"{path}/cpu/{vcpu}/availability", availability(online=online), readable))
    for name, value in config.readable:
        entries.append(Entry(f"{path}/{name}", value, readable))
    for name in config.writable:
        entries.append(Entry(f"{path}/{name}", "", owned))
    return entries


def availability(*, online: bool) -> str:
    """The word for a vCPU in the store, at ``cpu/N/availability``."""
    return "online" if online else "offline"


async def wait_shutdown(hypervisor: Hypervisor, store: Store, domain_id: int) -> int:
    """Waits until a domain has shut itself down, and returns why; one that is gone counts as powered off."""
    async with store.watch("@releaseDomain") as watch:
        async for _ in watch:
            info = await asyncio.to_thread(domctl.domain_info, hypervisor, domain_id)
            if info is None or info.dying:
                return domctl.abi.SHUTDOWN_POWEROFF
            if info.shutdown_reason is not None:
                return info.shutdown_reason
    raise AssertionError("a watch ends only by an exception")


async def destroy_domain(hypervisor: Hypervisor, store: Store, domain_id: int) -> None:
    """Kills a domain, if it is there, and removes what the store has of it; returns when it is gone.

    Raises ``DeadlineError`` when it stays in the hypervisor because somebody keeps its pages mapped.
    """
    try:
        await asyncio.to_thread(domctl.destroy_domain, hypervisor, domain_id)
    except HypercallError as error:
        if error.errno != errno.ESRCH:
            raise
    await remove_from_store(store, domain_id)
    # The hypervisor tells of a domain that begins to die, not of the last page of it that was unmapped: so we look.
    # Once that is gone, the host's drivers have let go of the domain's devices.
    pause = 0.001
    deadline = time.monotonic() + GONE_TIMEOUT
    while domctl.domain_info(hypervisor, domain_id) is not None:
        if time.monotonic() > deadline:
            raise DeadlineError(
                f"domain {domain_id} was destroyed, but after {GONE_TIMEOUT:g} s somebody still holds pages of it",
                hint="look for a backend that hangs: `xenstore-ls /local/domain/0/backend`",
            )
        await asyncio.sleep(pause)
        pause = min(2 * pause, 0.25)


async def remove_from_store(store: Store, domain_id: int) -> None:
    """Removes a dead domain's directories, and those of its backends: all of them, or none if it is interrupted.

    The frontends go too: Linux's backend drivers let go of a device when its frontend's directory is gone.
    """
    await store.transaction(lambda nodes: _remove_all(nodes, domain_id))
    try:
        await store.release(domain_id)
    except StoreError:
        # The store has seen the domain die before we could tell it.
        return


async def backed_domains(store: Store) -> set[int]:
    """Domains for which the host has backends, or had: whoever destroys a domain by other means leaves them behind."""
    parent = f"{domain_path(HOST_ID)}/backend"
    kinds = await _children(store, parent)
    names = [name for kind in kinds for name in await _children(store, f"{parent}/{kind}")]
    return {int(name) for name in names if name.isdecimal()}


async def _remove_all(nodes: Nodes, domain_id: int) -> None:
    path = domain_path(domain_id)
    vm = await nodes.find(f"{path}/vm")
    await nodes.remove(path)
    if vm is not None and vm.startswith(b"/vm/"):
        await nodes.remove(vm.decode("ascii", "replace"))
    for parent in (f"{domain_path(HOST_ID)}/backend", f"{domain_path(HOST_ID)}/error/backend"):
        for kind in await _children(nodes, parent):
            await nodes.remove(f"{parent}/{kind}/{domain_id}")


async def _children(nodes: Nodes, path: str) -> Sequence[str]:
    return await nodes.list(path) if await nodes.exists(path) else ()


async def finish_in_thread(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """``asyncio.to_thread`` that, when cancelled, waits for the thread first: it must not outlive what it works on."""
    task = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _check(config: DomainConfig) -> None:
    if config.memory < MIN_MEMORY or config.memory % PAGE_SIZE:
        raise InvalidInputError(
            f"a domain of {config.memory} bytes of memory", hint=f"at least {MIN_MEMORY >> 20} MiB, in whole pages"
        )
    if config.most_memory % PAGE_SIZE or (config.most_memory and config.most_memory < config.memory):
        raise InvalidInputError(
            f"a domain of {config.memory} bytes of memory cannot grow to {config.most_memory}",
            hint="more of it, in whole pages",
        )
    if config.functions and config.virt != Virt.PV:
        raise InvalidInputError("a PVH domain cannot have PCI devices", hint="leave out --virt, or use --virt pv")
    most = max(config.memory, config.most_memory)
    for given in config.functions:
        low = [region.first for region in given.function.regions if not region.ports and region.first < most]
        if low:
            # A PV kernel takes numbers of frames within its memory for its own, and reaches no others there.
            raise InvalidInputError(
                f"a domain with PCI device {given.function.address} can have at most {min(low) >> 20} MiB of memory",
                hint="give it less memory",
            )
    if not 1 <= config.vcpus <= MAX_VCPUS or not 0 <= config.online_vcpus <= config.vcpus:
        raise InvalidInputError(f"a domain of {config.vcpus} vCPUs", hint=f"1 to {MAX_VCPUS} can be had")


def _build(hypervisor: Hypervisor, domain_id: int, config: DomainConfig) -> BuiltDomain:
    domctl.set_max_vcpus(hypervisor, domain_id, config.vcpus)
    if config.virt == Virt.PVH:
        return build_pvh(
            *(hypervisor, domain_id, config.kernel),
            memory=config.memory,
            most_memory=config.most_memory,
            vcpus=config.vcpus,
            command_line=config.command_line,
            initrd=config.initrd,
            host_id=HOST_ID,
        )
    built = build_pv(
        *(hypervisor, domain_id, config.kernel),
        memory=config.memory,
        most_memory=config.most_memory,
        command_line=config.command_line,
        initrd=config.initrd,
        host_id=HOST_ID,
    )
    for given in config.functions:
        permit(hypervisor, domain_id, given.function, confined=given.confined)
    return built
