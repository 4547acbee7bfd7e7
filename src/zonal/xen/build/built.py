"""What the host needs of a domain that has been built."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BuiltDomain:
    """The frames and ports of a domain's two first rings; of a PV domain machine frames, of a PVH one its own."""

    store_frame: int
    store_port: int
    console_frame: int
    console_port: int
