"""The two kinds of domain."""

from __future__ import annotations

from enum import StrEnum


class Virt(StrEnum):
    """How a domain is virtualised.

    PV: its kernel runs beside the hypervisor without any help of the hardware, and asks it for every change of its page
    tables. PVH: the hardware gives it an address space of its own (VT-x or SVM with nested paging), and nothing of a PC
    is emulated but the interrupt controller of each CPU.
    """

    PV = "pv"
    PVH = "pvh"
