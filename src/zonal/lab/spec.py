"""What a lab is made of, as its user chooses it: name, memory, CPUs, extra devices, extra packages."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace

from zonal.errors import InvalidInputError, ResourceExhaustedError
from zonal.lab.paths import GIB, MIB

DEVICES = ("intel-iommu", "e1000e", "ahci", "nvme", "bochs-display")
"""Extra devices that QEMU can give the lab, for driver zones."""
NOT_SNAPSHOTABLE = frozenset({"nvme"})
"""QEMU refuses to save the state of these, so a lab with one is booted each time, not resumed."""
ALL_SNAPSHOTABLE = tuple(device for device in DEVICES if device not in NOT_SNAPSHOTABLE)
"""An IOMMU and one device of each kind behind it."""

MINIMUM_MEMORY = 2 * GIB
DEFAULT_MEMORY = 4 * GIB
MAXIMUM_CPUS = 64

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
# Debian policy, section 5.6.1; a version or a target release (`=`, `/`) is not taken.
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]{1,99}")


@dataclass(frozen=True)
class Wanted:
    """What the user asked for now; None keeps what the lab has, or the default for a new one."""

    memory_bytes: int | None = None
    cpus: int | None = None
    devices: tuple[str, ...] | None = None
    packages: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Spec:
    """What a lab is made of."""

    memory_bytes: int = DEFAULT_MEMORY
    cpus: int = 2
    devices: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()

    @property
    def snapshotable(self) -> bool:
        """Whether QEMU can save the running lab."""
        return not NOT_SNAPSHOTABLE.intersection(self.devices)

    @property
    def host_memory_bytes(self) -> int:
        """The share of the memory that the host itself (dom0) gets; zones get the rest."""
        return min(max(self.memory_bytes // 4, GIB), 4 * GIB) // MIB * MIB


def default_name() -> str:
    """The lab that is meant when none is named: ``$ZONAL_LAB``, or ``default``."""
    return check_name(os.environ.get("ZONAL_LAB") or "default")


def check_name(name: str) -> str:
    """Gives ``name`` back, or raises `InvalidInputError` when no lab can be called that."""
    if not _NAME.fullmatch(name):
        raise InvalidInputError(
            f"{name!r} cannot be the name of a lab", hint="use up to 32 lower-case letters, digits and hyphens"
        )
    return name


def resolve(wanted: Wanted, base: Spec | None) -> Spec:
    """``base``, or the default, changed as ``wanted`` says; raises when that cannot work on this machine."""
    spec = base or Spec(cpus=min(os.cpu_count() or 1, 4))
    if wanted.memory_bytes is not None:
        spec = replace(spec, memory_bytes=wanted.memory_bytes // MIB * MIB)
    if wanted.cpus is not None:
        spec = replace(spec, cpus=wanted.cpus)
    if wanted.devices is not None:
        spec = replace(spec, devices=tuple(sorted(set(wanted.devices), key=str)))
    if wanted.packages is not None:
        spec = replace(spec, packages=tuple(sorted(set(wanted.packages))))
    _check(spec)
    return spec


def _check(spec: Spec) -> None:
    if spec.memory_bytes < MINIMUM_MEMORY:
        raise InvalidInputError(
            f"{spec.memory_bytes // MIB} MiB are too little memory for a lab",
            hint=f"give it at least {MINIMUM_MEMORY // MIB} MiB: the host takes {GIB // MIB} MiB, zones the rest",
        )
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if spec.memory_bytes > machine:
        raise ResourceExhaustedError(
            f"a lab of {spec.memory_bytes // MIB} MiB does not fit this machine's {machine // MIB} MiB of memory",
            hint="choose less with --memory",
        )
    if not 1 <= spec.cpus <= MAXIMUM_CPUS:
        raise InvalidInputError(f"a lab cannot have {spec.cpus} CPUs", hint=f"choose 1 to {MAXIMUM_CPUS}")
    for device in spec.devices:
        if device not in DEVICES:
            raise InvalidInputError(f"unknown device {device!r}", hint="the lab knows " + ", ".join(DEVICES))
    for package in spec.packages:
        if not _PACKAGE.fullmatch(package):
            raise InvalidInputError(f"{package!r} is not the name of a Debian package", hint="give bare package names")
