"""What a zone may have of the machine's memory and CPUs: values, their checks, and changes to them.

Memory is between a floor, which the zone has from its start to its end, and a ceiling. Of its CPUs some may be offline.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from zonal.errors import InvalidInputError
from zonal.xen.scheduling import DEFAULT_WEIGHT, Share

MIB = 1 << 20
PAGE_SIZE = 4096
DEFAULT_MEMORY = 256 * MIB
MIN_MEMORY = 64 * MIB
MAX_MEMORY = 1 << 40
MAX_GROWTH = 10
"""How many times its floor a zone's memory may become: more, Linux does not take in (``EXTRA_MEM_RATIO`` of
arch/x86/xen/xen-ops.h), since what it keeps for each page would fill the floor."""
MAX_CPUS = 64
MAX_WEIGHT = 65535
MAX_CPU_NUMBER = 4095
"""Of a physical CPU: Xen is built for no more (``CONFIG_NR_CPUS``)."""


@dataclass(frozen=True)
class Resources:
    """All of it; sizes in bytes."""

    memory: int = DEFAULT_MEMORY
    """The floor."""
    memory_max: int = 0
    """The ceiling; 0: the floor, and memory stays as it is."""
    cpus: int = 1
    """Online."""
    cpus_max: int = 0
    """That may come to be online; 0: no more than are."""
    cpu_weight: int = DEFAULT_WEIGHT
    """Beside other zones, by credit2; the host has 256 as well."""
    cpu_cap: int = 0
    """Per cent of one CPU that all of the zone's may use together; 0: no bound."""
    cpuset: str = ""
    """Physical CPUs that the zone may run on, such as ``0-1,3``; empty: all."""

    @property
    def ceiling(self) -> int:
        """The most memory that it may have."""
        return max(self.memory, self.memory_max)

    @property
    def elastic(self) -> bool:
        """Whether its memory may change by itself."""
        return self.ceiling > self.memory

    @property
    def vcpus(self) -> int:
        """All that its domain has, online or not."""
        return max(self.cpus, self.cpus_max)

    @property
    def share(self) -> Share:
        """For the hypervisor. A zone brings CPUs online and offline itself: a cap sees to it that it gains nothing."""
        caps = [cap for cap in (self.cpu_cap, 100 * self.cpus if self.vcpus > self.cpus else 0) if cap]
        return Share(self.cpu_weight, min(caps, default=0))


DEFAULT_RESOURCES = Resources()


@dataclass(frozen=True)
class ResourceChange:
    """What is to become different; ``None`` for what stays."""

    memory: int | None = None
    memory_max: int | None = None
    cpus: int | None = None
    cpus_max: int | None = None
    cpu_weight: int | None = None
    cpu_cap: int | None = None
    cpuset: str | None = None

    def of(self, before: Resources) -> Resources:
        """The outcome, checked. Raises ``InvalidInputError``."""
        return check_resources(
            replace(before, **{name: value for name, value in vars(self).items() if value is not None})
        )


def check_resources(wanted: Resources) -> Resources:
    """The same, with sizes in whole pages. Raises ``InvalidInputError`` for what no machine could give."""
    _check_memory(wanted.memory)
    if wanted.memory_max:
        _check_memory(wanted.memory_max)
    if wanted.memory_max and wanted.memory_max < wanted.memory:
        raise InvalidInputError(
            f"at most {wanted.memory_max // MIB} MiB of memory are less than the {wanted.memory // MIB} MiB "
            "to begin with",
            hint="give --memory-max at least what --memory has",
        )
    if wanted.ceiling > MAX_GROWTH * wanted.memory:
        raise InvalidInputError(
            f"from {wanted.memory // MIB} MiB of memory no zone can grow to {wanted.ceiling // MIB} MiB",
            hint=f"at most {MAX_GROWTH} times as much: give --memory "
            f"{-(-wanted.ceiling // MAX_GROWTH // MIB)}M or more",
        )
    if not 1 <= wanted.cpus <= MAX_CPUS or not 0 <= wanted.cpus_max <= MAX_CPUS:
        raise InvalidInputError(
            f"a zone cannot have {wanted.cpus if not 1 <= wanted.cpus <= MAX_CPUS else wanted.cpus_max} CPUs",
            hint=f"1 to {MAX_CPUS}",
        )
    if wanted.cpus_max and wanted.cpus_max < wanted.cpus:
        raise InvalidInputError(
            f"at most {wanted.cpus_max} CPUs are less than the {wanted.cpus} to begin with",
            hint="give --cpus-max at least what --cpus has",
        )
    if not 1 <= wanted.cpu_weight <= MAX_WEIGHT:
        raise InvalidInputError(
            f"a CPU weight cannot be {wanted.cpu_weight}", hint=f"1 to {MAX_WEIGHT}, 256 by default"
        )
    if not 0 <= wanted.cpu_cap <= 100 * MAX_CPUS:
        raise InvalidInputError(
            f"a zone's CPUs cannot be capped at {wanted.cpu_cap} %",
            hint=f"per cent of one CPU: 1 to {100 * MAX_CPUS}, or 0 for no bound",
        )
    parse_cpuset(wanted.cpuset)
    return replace(wanted, memory=_whole_pages(wanted.memory), memory_max=_whole_pages(wanted.memory_max))


def parse_cpuset(text: str) -> frozenset[int]:
    """The numbers in ``0-1,3``. Raises ``InvalidInputError``."""
    numbers: set[int] = set()
    for part in text.split(",") if text else ():
        match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", part, re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last <= MAX_CPU_NUMBER:
            raise InvalidInputError(f"{text[:80]!r} is no list of CPUs", hint="such as 0-1,3; they count from 0")
        numbers.update(range(first, last + 1))
    return frozenset(numbers)


def check_cpuset(text: str, max_cpu_id: int) -> frozenset[int]:
    """The same; each must be there. Raises ``InvalidInputError``."""
    numbers = parse_cpuset(text)
    missing = sorted(number for number in numbers if number > max_cpu_id)
    if missing:
        raise InvalidInputError(
            f"there is no CPU {missing[0]} to run on", hint=f"this machine's have the numbers 0 to {max_cpu_id}"
        )
    return numbers


def _check_memory(size: int) -> None:
    if size < MIN_MEMORY:
        raise InvalidInputError(
            f"{size} bytes of memory are too little for a zone", hint=f"give at least {MIN_MEMORY // MIB}M"
        )
    if size > MAX_MEMORY:
        raise InvalidInputError(
            f"{size} bytes of memory are more than a zone can have", hint=f"give at most {MAX_MEMORY // MIB}M"
        )


def _whole_pages(size: int) -> int:
    return -(-size // PAGE_SIZE) * PAGE_SIZE
