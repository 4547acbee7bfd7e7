"""``make bench-network``: TCP between zones, and between a zone and the host, beside Docker's containers in one host.

What is measured runs inside the lab's host (``network_in_host.py``).
"""

from __future__ import annotations

import statistics

from benchmarks.measuring import Samples
from benchmarks.side_by_side import Row, measure, medians, options, promise

PACKAGES = ("docker.io", "docker-cli", "iperf3")
LIMITS = {
    "to host": ("TCP, zone to host", 0.5),
    "from host": ("TCP, host to zone", 0.5),
    "between": ("TCP, zone to zone", 0.5),
}
"""How many times as fast as Docker at least."""


def summary(samples: Samples) -> list[Row]:
    """Each promise as a ratio of medians, and the medians themselves, in Mbit/s."""
    rows: list[Row] = []
    for key, (what, least) in LIMITS.items():
        zonal, docker = (statistics.median(samples[key][who]) for who in ("zonal", "docker"))
        rows.append(promise(what, zonal / docker, least))
    return rows + medians(samples, "Mbit/s")


if __name__ == "__main__":
    measure("network", options(__doc__, "bench-network"), PACKAGES, summary)
