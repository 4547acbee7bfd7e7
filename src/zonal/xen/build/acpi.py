"""The few ACPI tables that a PVH domain needs to find its CPUs; it has no other hardware (ACPI 6.5, chapter 5.2).

"Reduced hardware" tells the kernel not to look for a PC: no timer chip, no interrupt controllers but the CPUs' own.
"""

from __future__ import annotations

import struct

_HEADER = struct.Struct("<4sIBB6s8sI4sI")
"""Signature, length, revision, checksum, OEM, OEM's table, its revision, who made it, its revision (5.2.6)."""
_RSDP = struct.Struct("<8sB6sBIIQB3x")
_FADT_SIZE = 276
_FADT_FLAGS = 112
_FADT_BOOT_FLAGS = 109
_FADT_X_DSDT = 140
_HW_REDUCED_ACPI = 1 << 20
_NO_VGA, _NO_CMOS = 1 << 2, 1 << 5
_LOCAL_APIC_ADDRESS = 0xFEE0_0000
_PROCESSOR_ENABLED = 1
_LOCAL_APIC = struct.Struct("<BBBBI")


def acpi_tables(vcpus: int, address: int) -> bytes:
    """All tables, to be put at the physical ``address``, where the root pointer (RSDP) is."""
    dsdt_at = address + _RSDP.size + 4  # on eight bytes
    dsdt = _table(b"DSDT", 2, b"")
    fadt_at = dsdt_at + _padded(len(dsdt))
    fadt = _fadt(dsdt_at)
    madt_at = fadt_at + _padded(len(fadt))
    madt = _madt(vcpus)
    xsdt_at = madt_at + _padded(len(madt))
    xsdt = _table(b"XSDT", 1, struct.pack("<QQ", fadt_at, madt_at))
    parts = ((address, _rsdp(xsdt_at)), (dsdt_at, dsdt), (fadt_at, fadt), (madt_at, madt), (xsdt_at, xsdt))
    whole = bytearray(xsdt_at + len(xsdt) - address)
    for at, part in parts:
        whole[at - address : at - address + len(part)] = part
    return bytes(whole)


def _rsdp(xsdt_at: int) -> bytes:
    """5.2.5.3: the first checksum covers 20 bytes, the second all."""

    def packed(first: int, second: int) -> bytes:
        return _RSDP.pack(b"RSD PTR ", first, b"Zonal ", 2, 0, _RSDP.size, xsdt_at, second)

    first = _checksum(packed(0, 0)[:20])
    return packed(first, _checksum(packed(first, 0)))


def _fadt(dsdt_at: int) -> bytes:
    """5.2.9."""
    body = bytearray(_FADT_SIZE - _HEADER.size)
    struct.pack_into("<H", body, _FADT_BOOT_FLAGS - _HEADER.size, _NO_VGA | _NO_CMOS)
    struct.pack_into("<I", body, _FADT_FLAGS - _HEADER.size, _HW_REDUCED_ACPI)
    struct.pack_into("<Q", body, _FADT_X_DSDT - _HEADER.size, dsdt_at)
    return _table(b"FACP", 6, bytes(body))


def _madt(vcpus: int) -> bytes:
    """5.2.12, with an entry of 5.2.12.2 a CPU. Xen gives vCPU n the APIC's id 2 n."""
    entries = [_LOCAL_APIC.pack(0, _LOCAL_APIC.size, number, 2 * number, _PROCESSOR_ENABLED) for number in range(vcpus)]
    return _table(b"APIC", 5, struct.pack("<II", _LOCAL_APIC_ADDRESS, 0) + b"".join(entries))


def _table(signature: bytes, revision: int, body: bytes) -> bytes:
    size = _HEADER.size + len(body)
    header = (signature, size, revision)
    owner = (b"Zonal ", b"ZONE    ", 1, b"ZNL ", 1)
    return _HEADER.pack(*header, _checksum(_HEADER.pack(*header, 0, *owner) + body), *owner) + body


def _checksum(data: bytes) -> int:
    return -sum(data) & 0xFF


def _padded(size: int) -> int:
    return size + 7 & ~7
