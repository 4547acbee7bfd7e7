"""``make bench-storage``: images and storage in zones beside the same in Docker's containers, in one host.

What is measured runs inside the lab's host (``storage_in_host.py``).
"""

from __future__ import annotations

import statistics

from benchmarks.measuring import Samples
from benchmarks.side_by_side import Row, measure, medians, options, promise

PACKAGES = ("docker.io", "docker-cli", "docker-registry", "fio", "git")
LIMITS = {
    "pull": ("first pull, Docker's time to ours", 1.0),
    "pull again": ("pull that shares four of five layers, first to it", 3.0),
    "image read": ("image, sequential read", 0.9),
    "volume read": ("volume, sequential read", 0.9),
    "volume write": ("volume, sequential write", 0.9),
    "volume random": ("volume, random reads of 4 KiB", 0.7),
    "directory read": ("directory by 9p, sequential read", 0.5),
}
"""How many times as fast as Docker at least."""


def summary(samples: Samples) -> list[Row]:
    """Each promise as a ratio of medians, and the medians themselves."""
    rows: list[Row] = []
    for key, (what, least) in LIMITS.items():
        if key not in samples:
            continue
        zonal, docker = (statistics.median(samples[key][who]) for who in ("zonal", "docker"))
        # Pulls are in seconds, all else in MiB/s or operations a second.
        ratio = docker / zonal if key.startswith("pull") else zonal / docker
        if key == "pull again":
            ratio = statistics.median(samples["pull"]["zonal"]) / zonal
        rows.append(promise(what, ratio, least))
    return rows + medians(samples)


if __name__ == "__main__":
    measure("storage", options(__doc__, "bench-storage", ("pulls", "disks", "directories")), PACKAGES, summary)
