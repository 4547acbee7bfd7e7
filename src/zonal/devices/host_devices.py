"""The machine's devices as zones get them: listed, set aside from the host, lent to one zone at a time, given back.

A device that is set aside is in the hands of xen-pciback and, where there is an IOMMU, in quarantine: it reaches no
memory. A zone borrows it for as long as its domain lives, and finds it reset, if it can be.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from zonal.devices.names import PciNames, read_names
from zonal.devices.records import DeviceRecords, SetAside
from zonal.devices.usage import HostUsage
from zonal.errors import InvalidInputError, NotFoundError, UnavailableError, WrongStateError, ZonalError
from zonal.xen.domain import GivenFunction
from zonal.xen.hypercall import Hypervisor
from zonal.xen.machine import read_machine
from zonal.xen.pci import grants, pciback
from zonal.xen.pci.address import PciAddress, parse_address
from zonal.xen.pci.functions import PCIBACK, SYSFS, PciFunction, list_functions, read_function
from zonal.xen.pci.groups import companions, group_names

log = logging.getLogger(__name__)

NO_IOMMU = "this machine has no IOMMU, or it is turned off"


@dataclass(frozen=True)
class WantedDevice:
    """A device that a zone is to have, as it is written down in its specification."""

    address: str
    insecure: bool = False
    permissive: bool = False


@dataclass(frozen=True)
class DeviceInfo:
    """A device as ``zonal device ls`` shows it."""

    address: str
    name: str
    kind: str
    class_code: int
    vendor: int
    device: int
    driver: str
    group: str
    """Of the IOMMU; empty where there is none."""
    owner: str
    """One of: host, free (set aside, with no zone), zone NAME, absent."""
    obstacle: str
    """Why it cannot be given away; empty when it can."""
    resets: tuple[str, ...] = ()
    interrupts: tuple[str, ...] = ()
    """Of "line", "msi", "msi-x"."""
    insecure: bool = False
    modalias: str = ""


class HostDevices:
    """See the module. Any thread may use it; its calls take up to seconds, as drivers let go of devices."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        state: Path,
        *,
        sysfs: Path = SYSFS,
        usage: HostUsage | None = None,
        has_iommu: Callable[[Hypervisor], bool] = lambda hypervisor: "iommu" in read_machine(hypervisor).features,
    ) -> None:
        """``state``: zonald's folder; ``has_iommu``: whether there is one that Xen uses."""
        self._hypervisor = hypervisor
        self._asks_iommu = has_iommu
        self._records = DeviceRecords(state / "devices.json")
        self._sysfs = sysfs
        self._usage = usage or HostUsage(sysfs)
        self._holders: dict[PciAddress, str] = {}
        self._changing = threading.RLock()

    def list(self) -> list[DeviceInfo]:
        """All that there are, and those set aside that are there no more."""
        with self._changing:
            functions = list_functions(self._sysfs)
            names = read_names({(each.vendor, each.device) for each in functions})
            iommu = self._has_iommu()
            groups = group_names(functions) if iommu else {}
            found = [self._info(each, functions, names, groups, iommu=iommu) for each in functions]
            present = {each.address for each in found}
            return found + [_absent(record, names) for record in self._records.all() if record.address not in present]

    def assign(self, wanted: Sequence[WantedDevice]) -> None:
        """Sets devices aside for zones, from now on and after restarts; one that is, stays so. All of them, or none.

        Raises ``NotFoundError``, ``WrongStateError`` for one that the host uses or that shares its IOMMU group with
        one that is not named, and ``UnavailableError`` where no IOMMU confines it, unless that is wanted.
        """
        check_distinct(wanted)
        together = {parse_address(each.address) for each in wanted}
        with self._changing:
            new = [each for each in wanted if not self._is_aside(each)]
            for each in new:
                self._check(read_function(parse_address(each.address), self._sysfs), each, together)
            with ExitStack() as undo:
                for each in new:
                    self._seize(each)
                    undo.callback(self._unseize, parse_address(each.address))
                undo.pop_all()

    def release(self, text: str) -> None:
        """Gives a device back to the host. Raises ``WrongStateError`` for one that a zone has, ``NotFoundError``."""
        address = parse_address(text)
        with self._changing:
            record = self._records.get(address)
            if record is None:
                raise NotFoundError(
                    f"PCI device {address} is not set aside for zones", hint="`zonal device ls` shows which are"
                )
            if holder := self._holders.get(address):
                raise WrongStateError(f"zone {holder} has PCI device {address}", hint=f"zonal stop {holder}")
            self._unseize(address)

    def recover(self) -> None:
        """After a start: what was set aside is so again; what cannot be is said in the log."""
        with self._changing:
            for record in self._records.all():
                try:
                    function = read_function(parse_address(record.address), self._sysfs)
                    if (function.vendor, function.device) != (record.vendor, record.device):
                        raise WrongStateError(f"another device is at {record.address} now; it is left to the host")
                    if record.lent and function.driver != PCIBACK:
                        self._records.remove(function.address)  # its zone's domain went with the host
                    elif function.driver != PCIBACK:
                        self._seize(WantedDevice(record.address, record.insecure, record.permissive))
                except ZonalError as error:
                    log.error("device %s is not set aside: %s", record.address, error)

    def return_unheld(self) -> None:
        """What was taken for one zone, and that is gone since, goes back to the host: after zones were taken over."""
        with self._changing:
            for record in self._records.all():
                address = parse_address(record.address)
                if record.lent and address not in self._holders:
                    self._unseize(address)

    def check(self, wanted: Sequence[WantedDevice]) -> None:
        """Raises what ``borrow`` would, as far as it can be told beforehand."""
        check_distinct(wanted)
        together = {parse_address(each.address) for each in wanted}
        with self._changing:
            for each in wanted:
                self._check_free(each, together)

    def modaliases(self, wanted: Sequence[WantedDevice]) -> tuple[str, ...]:
        """What tells their drivers apart, of devices that can be borrowed now. Raises as ``borrow``."""
        self.check(wanted)
        return tuple(read_function(parse_address(each.address), self._sysfs).modalias for each in wanted)

    @contextmanager
    def borrow(self, wanted: Sequence[WantedDevice], holder: str) -> Generator[tuple[GivenFunction, ...]]:
        """Devices for one zone's domain, within the block: what was not set aside is given back to the host after it.

        Raises as ``assign``, and ``WrongStateError`` for one that another zone has.
        """
        with ExitStack() as stack:
            with self._changing:
                self.check(wanted)
                given = [self._borrow_one(stack, each, holder) for each in wanted]
            yield tuple(given)

    @contextmanager
    def adopt(self, wanted: Sequence[WantedDevice], holder: str) -> Generator[None]:
        """The same for a zone that another daemon has left running with them."""
        with ExitStack() as stack:
            for each in wanted:
                stack.callback(self._return, self._hold(each, holder))
            yield

    def rename(self, before: str, after: str) -> None:
        """Of a zone that may have some."""
        with self._changing:
            self._holders = {each: after if name == before else name for each, name in self._holders.items()}

    def _borrow_one(self, stack: ExitStack, wanted: WantedDevice, holder: str) -> GivenFunction:
        address = parse_address(wanted.address)
        record = self._records.get(address)
        function = read_function(address, self._sysfs)
        if record is None or function.driver != PCIBACK:
            self._seize(wanted, lent=record is None)
            function = read_function(address, self._sysfs)
        stack.callback(self._return, self._hold(wanted, holder))
        if wanted.permissive:
            with suppress(OSError):
                pciback.allow_all_registers(address, self._sysfs)
        confined = self._confine(address, insecure=self._allows_insecure(wanted, address))
        if not pciback.reset(address, self._sysfs):
            log.warning("PCI device %s cannot be reset: zone %s gets it as it was left", address, holder)
        return GivenFunction(function, confined)

    def _hold(self, wanted: WantedDevice, holder: str) -> PciAddress:
        address = parse_address(wanted.address)
        with self._changing:
            self._holders[address] = holder
        return address

    def _return(self, address: PciAddress) -> None:
        with self._changing:
            self._holders.pop(address, None)
            record = self._records.get(address)
            if record is not None and record.lent:
                self._unseize(address)

    def _is_aside(self, wanted: WantedDevice) -> bool:
        record = self._records.get(parse_address(wanted.address))
        if record is None or read_function(parse_address(wanted.address), self._sysfs).driver != PCIBACK:
            return False
        return not record.lent and (record.insecure or not wanted.insecure)

    def _check_free(self, wanted: WantedDevice, together: set[PciAddress]) -> None:
        address = parse_address(wanted.address)
        function = read_function(address, self._sysfs)
        if holder := self._holders.get(address):
            raise WrongStateError(f"zone {holder} has PCI device {address} already", hint=f"zonal stop {holder}")
        record = self._records.get(address)
        if record is None or function.driver != PCIBACK:
            self._check(function, wanted, together)
        elif not self._has_iommu() and not self._allows_insecure(wanted, address):
            raise _no_iommu(address)
        elif reason := self._group_obstacle(function, list_functions(self._sysfs), together):
            raise WrongStateError(f"PCI device {address} cannot be given away: it {reason}", hint=_HINT)

    def _allows_insecure(self, wanted: WantedDevice, address: PciAddress) -> bool:
        record = self._records.get(address)
        return wanted.insecure or (record is not None and record.insecure)

    def _seize(self, wanted: WantedDevice, *, lent: bool = False) -> None:
        """Of one that was checked."""
        address = parse_address(wanted.address)
        function, known = read_function(address, self._sysfs), self._records.get(address)
        driver = known.driver if known is not None else function.driver
        own = SetAside(
            *(str(address), function.vendor, function.device, driver),
            insecure=wanted.insecure,
            permissive=wanted.permissive,
            lent=lent,
        )
        self._records.put(own)  # first, so that a daemon that is killed here leaves nothing unknown
        try:
            pciback.seize(address, self._sysfs)
            if wanted.permissive:
                pciback.allow_all_registers(address, self._sysfs)
            self._confine(address, insecure=wanted.insecure)
        except (ZonalError, OSError):
            if known is None:
                self._unseize(address)
            raise

    def _confine(self, address: PciAddress, *, insecure: bool) -> bool:
        """Has the IOMMU keep it from all memory; whether it does."""
        if not self._has_iommu():
            return False
        try:
            grants.quarantine(self._hypervisor, address)
        except UnavailableError:
            if not insecure:
                raise
            return False
        return True

    def _unseize(self, address: PciAddress) -> None:
        record = self._records.get(address)
        if record is None:
            return
        pciback.reset(address, self._sysfs)
        if self._has_iommu():
            grants.end_quarantine(self._hypervisor, address)
        pciback.give_back(address, record.driver, self._sysfs)
        self._records.remove(address)

    def _check(self, function: PciFunction, wanted: WantedDevice, together: set[PciAddress]) -> None:
        address, insecure = function.address, wanted.insecure
        functions = list_functions(self._sysfs)
        if reason := self._obstacle(function, functions, together):
            raise WrongStateError(f"PCI device {address} cannot be given away: it {reason}", hint=_HINT)
        if not self._has_iommu():
            if not insecure:
                raise _no_iommu(address)
            return
        try:
            grants.check_assignable(self._hypervisor, address)
        except UnavailableError:
            if not insecure:
                raise

    def _obstacle(
        self, function: PciFunction, functions: Sequence[PciFunction], together: Collection[PciAddress] = ()
    ) -> str:
        """Words that go on after "it "."""
        if function.is_bridge:
            return "is a bridge, and the host's own"
        if used := self._usage.of(function):
            return used
        if function.driver == PCIBACK and self._records.get(function.address) is None:
            return "is in the hands of xen-pciback already, and not by Zonal's doing"
        return self._group_obstacle(function, functions, together)

    def _group_obstacle(
        self, function: PciFunction, functions: Sequence[PciFunction], together: Collection[PciAddress]
    ) -> str:
        """A group is whole: nobody else may have a part of it, nor the host."""
        for other in companions(function.address, functions):
            shares = f"shares its IOMMU group with {other.address}"
            if holder := self._holders.get(other.address):
                return f"{shares}, which zone {holder} has"
            if other.address not in together and other.driver != PCIBACK:
                return f"{shares}, and goes together with it or not at all"
        return ""

    def _has_iommu(self) -> bool:
        return self._asks_iommu(self._hypervisor)

    def _info(
        self,
        function: PciFunction,
        functions: Sequence[PciFunction],
        names: PciNames,
        groups: dict[PciAddress, str],
        *,
        iommu: bool,
    ) -> DeviceInfo:
        record, holder = self._records.get(function.address), self._holders.get(function.address)
        aside = record is not None and function.driver == PCIBACK
        insecure = record is not None and aside and record.insecure
        obstacle = ""
        if not holder:
            obstacle = self._obstacle(function, functions)
            if not obstacle and not iommu and not insecure:
                obstacle = f"would be confined by nothing: {NO_IOMMU}"
        abilities = function.abilities
        interrupts = {"line": function.interrupt not in (0, 255), "msi": abilities.msi, "msi-x": abilities.msix}
        return DeviceInfo(
            address=str(function.address),
            name=names.device(function.vendor, function.device),
            kind=names.kind(function.class_code),
            class_code=function.class_code,
            vendor=function.vendor,
            device=function.device,
            driver=function.driver,
            group=groups.get(function.address, ""),
            owner=f"zone {holder}" if holder else "free" if aside else "host",
            obstacle=obstacle,
            resets=function.resets,
            interrupts=tuple(name for name, there in interrupts.items() if there),
            insecure=insecure,
            modalias=function.modalias,
        )


_HINT = "`zonal device ls` shows what can be; free it in the host first"


def _no_iommu(address: PciAddress) -> UnavailableError:
    return UnavailableError(
        f"PCI device {address} cannot be given away: {NO_IOMMU}, and whoever has the device could read and write all "
        "of the machine's memory",
        hint="turn on VT-d or AMD-Vi in the firmware; or, where that is no matter, --insecure-no-iommu",
    )


def _absent(record: SetAside, names: PciNames) -> DeviceInfo:
    return DeviceInfo(
        address=record.address,
        name=names.device(record.vendor, record.device),
        kind="",
        class_code=0,
        vendor=record.vendor,
        device=record.device,
        driver="",
        group="",
        owner="absent",
        obstacle="was set aside, and is not there",
        insecure=record.insecure,
    )


def check_distinct(wanted: Sequence[WantedDevice]) -> None:
    """Raises ``InvalidInputError`` for a malformed address, or one that is there twice."""
    seen: set[PciAddress] = set()
    for each in wanted:
        address = parse_address(each.address)
        if address in seen:
            raise InvalidInputError(f"PCI device {address} is named twice", hint="name it once")
        seen.add(address)
