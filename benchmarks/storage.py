"""``make bench-storage``: images and storage in zones beside the same in Docker's containers, in one host.

What is measured runs inside the lab's host (``storage_in_host.py``), zone and container in turns; here are the lab, the
limits, and the report.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
from datetime import UTC, datetime
from typing import Any

from benchmarks.run import MEMORY, ROOT, ZONAL, print_summary, run

LAB = "bench-storage"
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


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("pulls", "disks"))
    given = parser.parse_args()
    options = f"--rounds {given.rounds}" + (f" --only {given.only}" if given.only else "")
    packages = [option for name in PACKAGES for option in ("--package", name)]
    run([ZONAL, "lab", "up", "--name", LAB, "--memory", MEMORY, *packages])
    run([ZONAL, "run", "--rm", "--lab", LAB, "debian:13", "true"])
    done = subprocess.run(
        [ZONAL, "lab", "shell", "--name", LAB, "--", f"python3 - {options}"],
        input=(ROOT / "benchmarks" / "storage_in_host.py").read_bytes(),
        stdout=subprocess.PIPE,
        check=True,
    )
    samples: dict[str, dict[str, list[float]]] = json.loads(done.stdout.splitlines()[-1])
    rows = summary(samples)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    folder = ROOT / "bench-results"
    folder.mkdir(exist_ok=True)
    path = folder / f"storage-{when.replace(':', '')}.json"
    path.write_text(json.dumps({"when": when, "samples": samples, "summary": rows}, indent=1))
    print_summary(rows)
    print(f"\nall samples: {path.relative_to(ROOT)}")
    run([ZONAL, "lab", "down", "--name", LAB])


def summary(samples: dict[str, dict[str, list[float]]]) -> list[dict[str, Any]]:
    """Each promise as a ratio of medians, and the medians themselves."""
    rows: list[dict[str, Any]] = []
    for key, (what, least) in LIMITS.items():
        if key not in samples:
            continue
        zonal, docker = (statistics.median(samples[key][who]) for who in ("zonal", "docker"))
        # Pulls are in seconds, all else in MiB/s or operations a second.
        ratio = docker / zonal if key.startswith("pull") else zonal / docker
        if key == "pull again":
            ratio = statistics.median(samples["pull"]["zonal"]) / zonal
        met = ratio >= least
        rows.append({"what": what, "value": ratio, "unit": "×", "limit": least, "least": True, "met": met})
    for key, sides in samples.items():
        for who, values in sides.items():
            row = {"what": f"  {key}, {who}", "value": statistics.median(values), "unit": "", "limit": float("inf")}
            rows.append({**row, "least": False, "met": True})
    return rows


if __name__ == "__main__":
    main()
