"""A zone's PCI devices: borrowed before its domain is made, supplied with drivers once its agent is met, returned.

The zone's kernel finds them through xen-pcifront. Their drivers are loaded first, so that each is bound when its bus is
looked through; that is done when the frontend says that it is connected.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, AsyncExitStack
from pathlib import Path

from zonal.devices.host_devices import HostDevices, WantedDevice
from zonal.errors import DeadlineError, UnavailableError
from zonal.xen.devices.pci import pci
from zonal.xen.devices.xenbus import DeviceError, XenbusState, read_state
from zonal.xen.domain import GivenFunction, finish_in_thread
from zonal.zones.host import XenHost
from zonal.zones.module_loading import ModuleSource, supply_modules
from zonal.zones.modules import modules_for
from zonal.zones.session import CallRefusedError, Session
from zonal.zones.spec import ZoneSpec

log = logging.getLogger(__name__)

FRONTEND = "xen-pcifront"
CONNECT_TIMEOUT = 60.0
LET_GO_TIMEOUT = 15.0
_LOOK_SECONDS = 0.02
_STORAGE = 0x01
_WITH_STORAGE = ("sd_mod",)
_BACKENDS = Path("/sys/bus/xen-backend/devices")


class ZoneDevices:
    """See the module."""

    def __init__(self, host: XenHost, spec: ZoneSpec, leaving: Callable[[], bool]) -> None:
        """``leaving``: whether the daemon goes and leaves the zone running."""
        self._host = host
        self._spec = spec
        self._leaving = leaving
        self._lease: AbstractContextManager[object] | None = None
        self._domain_id = 0
        self._given: tuple[GivenFunction, ...] = ()

    async def borrow(self, stack: AsyncExitStack) -> tuple[GivenFunction, ...]:
        """From the host, until the stack unwinds. Raises ``ZonalError``."""
        if not self._spec.pci:
            return ()
        lease = self._devices.borrow(self._spec.pci, self._spec.name)
        stack.push_async_callback(self._return)

        def enter() -> tuple[GivenFunction, ...]:
            given = lease.__enter__()
            self._lease = lease
            return given

        self._given = await finish_in_thread(enter)
        return self._given

    def adopt(self, domain_id: int) -> None:
        """Those of a zone that another daemon has left running: from now on nobody else can have them."""
        if self._spec.pci:
            self.domain_made(domain_id)
            lease = self._devices.adopt(self._spec.pci, self._spec.name)
            lease.__enter__()
            self._lease = lease

    def take_over(self, stack: AsyncExitStack) -> None:
        """Returns what was adopted when the stack unwinds."""
        stack.push_async_callback(self._return)

    def domain_made(self, domain_id: int) -> None:
        """It has them now."""
        self._domain_id = domain_id

    async def supply(self, session: Session, modules: ModuleSource, release: str) -> None:
        """Has the zone's kernel find them and drive them. Raises ``ZonalError``."""
        if not self._given:
            return
        folder = modules(release)
        names = await asyncio.to_thread(drivers_of, folder, self._given) if folder is not None else []
        try:
            await supply_modules(session, folder, [*names, FRONTEND])
        except CallRefusedError as refusal:
            raise UnavailableError(
                f"zone {self._spec.name}: its kernel {release} cannot have PCI devices: {refusal.reason}",
                hint="`zonal kernel ls` shows others; Debian's linux-image-amd64 can",
            ) from refusal
        await self._connected()

    async def _connected(self) -> None:
        store, device = self._host.store, pci(self._domain_id)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT), store.watch(f"{device.frontend}/state") as watch:
                async for _ in watch:
                    state = await read_state(store, device.frontend)
                    if state == XenbusState.CONNECTED:
                        return
                    if state in (XenbusState.CLOSING, XenbusState.CLOSED):
                        raise DeviceError(
                            f"zone {self._spec.name}: its kernel gave its PCI devices up; its console says why"
                        )
        except TimeoutError:
            backend = await read_state(store, device.backend)
            raise DeadlineError(
                f"zone {self._spec.name}: its PCI devices were not found by its kernel within {CONNECT_TIMEOUT:g} s; "
                f"xen-pciback is {backend.name.lower()}",
                hint="see dmesg in the host, and `zonal zone console`",
            ) from None

    async def _return(self) -> None:
        lease, self._lease = self._lease, None
        if lease is None or self._leaving():
            return
        await self._let_go()
        await finish_in_thread(lease.__exit__, None, None, None)

    async def _let_go(self) -> None:
        """Until pciback has seen that the domain is gone: before, nobody else can have its devices."""
        backend = _BACKENDS / f"pci-{self._domain_id}-0"
        if not self._domain_id:
            return
        # The kernel tells nobody, so we look.
        for _ in range(round(LET_GO_TIMEOUT / _LOOK_SECONDS)):
            if not backend.exists():
                return
            await asyncio.sleep(_LOOK_SECONDS)
        log.error("xen-pciback does not let go of the devices of zone %s", self._spec.name)

    @property
    def _devices(self) -> HostDevices:
        if self._host.devices is None:
            raise UnavailableError("this zonald has no PCI devices to give")
        return self._host.devices


def drivers_of(folder: Path, given: tuple[GivenFunction, ...]) -> list[str]:
    """The modules that drive these, of a kernel's folder of modules; none for what it has no driver of."""
    names: list[str] = []
    for each in given:
        found = modules_for(folder, each.function.modalias)
        names += found
        if found and each.function.class_code >> 16 == _STORAGE:
            names += _WITH_STORAGE
    return list(dict.fromkeys(names))


def wants_devices(wanted: tuple[WantedDevice, ...]) -> tuple[str, ...]:
    """Modules that a kernel for these must have."""
    return (FRONTEND,) if wanted else ()
