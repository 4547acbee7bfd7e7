"""``make bench-kubernetes``: pods in zones beside containerd's with runc in one host, both through the CRI.

What is measured runs inside the lab's host (``kubernetes_in_host.py``).
"""

from __future__ import annotations

import statistics

from benchmarks.kubernetes_parts import PARTS, TOGETHER
from benchmarks.measuring import Samples
from benchmarks.side_by_side import Row, least, measure, medians, most, options, promise

PACKAGES = ("containerd", "runc", "iperf3", "nginx-light", "apache2-utils")
MEMORY = "12G"
"""Thirty zones of 192 MiB, and the host's share."""
WARM, COLD = 0.8, 2.0
"""From nothing to a container that runs: how many times as long as containerd at most."""
THROUGHPUT = 0.5
"""Of the network, and of a web server: how many times as fast at least."""


def summary(samples: Samples) -> list[Row]:
    """Each promise as a ratio of medians, and the medians themselves."""

    def median(key: str, who: str) -> float:
        return statistics.median(samples[key][who])

    rows: list[Row] = []
    if "pod, s" in samples:
        pod = median("pod, s", "containerd")
        rows.append(most("a warm pod, to containerd's", median("warm, s", "zonal") / pod, WARM))
        rows.append(most("a cold pod, to containerd's", median("cold, s", "zonal") / pod, COLD))
    for key in samples:
        if key.endswith(("Mbit/s", "requests/s")):
            what = key.rpartition(",")[0]
            rows.append(promise(what, median(key, "zonal") / median(key, "containerd"), THROUGHPUT))
        if key.endswith("at once, run"):
            rows.append(least(f"of {TOGETHER} pods at once, run", median(key, "zonal"), TOGETHER))
    return rows + medians(samples)


if __name__ == "__main__":
    measure(
        "kubernetes",
        options(__doc__, "bench-kubernetes", PARTS),
        PACKAGES,
        summary,
        memory=MEMORY,
        modules=("cri", "containerd", "kubernetes_parts"),
    )
