"""What an agent says of its zone's memory, read out of its events; none of it is believed unchecked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zonal.agent.protocol.frames import ProtocolError

if TYPE_CHECKING:
    from zonal.agent.protocol.cbor import Value

_MAX_NUMBER = (1 << 63) - 1


@dataclass(frozen=True)
class MemoryReport:
    """By the zone's own word; sizes in bytes."""

    available: int
    """That could be used without any being short (``MemAvailable`` of proc_meminfo(5))."""
    stalled_ns: int
    """For how long any of its tasks has waited for memory so far (Linux, Documentation/accounting/psi.rst)."""
    pressed: bool
    """Whether the workload has come near to its end of memory just now, and an answer is waited for."""


def parse_memory_report(message: Mapping[str, Value]) -> MemoryReport:
    """Reads the event. Raises ``ProtocolError``."""
    available, stalled, pressed = message.get("available"), message.get("stalled"), message.get("pressed")
    for number in (available, stalled):
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= _MAX_NUMBER:
            raise ProtocolError("a report on memory without its numbers")
    if not isinstance(available, int) or not isinstance(stalled, int) or not isinstance(pressed, bool):
        raise ProtocolError("a report on memory without its words")
    return MemoryReport(available, stalled, pressed)
