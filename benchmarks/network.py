"""``make bench-network``: TCP between zones, and between a zone and the host, beside Docker's containers in one host.

What is measured runs inside the lab's host (``network_in_host.py``), zone and container in turns; here are the lab, the
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

LAB = "bench-network"
PACKAGES = ("docker.io", "docker-cli", "iperf3")
LIMITS = {
    "to host": ("TCP, zone to host", 0.5),
    "from host": ("TCP, host to zone", 0.5),
    "between": ("TCP, zone to zone", 0.5),
}
"""How many times as fast as Docker at least."""


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lab", default=LAB)
    given = parser.parse_args()
    packages = [option for name in PACKAGES for option in ("--package", name)]
    run([ZONAL, "lab", "up", "--name", given.lab, "--memory", MEMORY, *packages])
    run([ZONAL, "run", "--rm", "--lab", given.lab, "debian:13", "true"])
    done = subprocess.run(
        [ZONAL, "lab", "shell", "--name", given.lab, "--", f"python3 - --rounds {given.rounds}"],
        input=(ROOT / "benchmarks" / "network_in_host.py").read_bytes(),
        stdout=subprocess.PIPE,
        check=True,
    )
    samples: dict[str, dict[str, list[float]]] = json.loads(done.stdout.splitlines()[-1])
    rows = summary(samples)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    folder = ROOT / "bench-results"
    folder.mkdir(exist_ok=True)
    path = folder / f"network-{when.replace(':', '')}.json"
    path.write_text(json.dumps({"when": when, "samples": samples, "summary": rows}, indent=1))
    print_summary(rows)
    print(f"\nall samples: {path.relative_to(ROOT)}")
    run([ZONAL, "lab", "down", "--name", given.lab])


def summary(samples: dict[str, dict[str, list[float]]]) -> list[dict[str, Any]]:
    """Each promise as a ratio of medians, and the medians themselves, in Mbit/s."""
    rows: list[dict[str, Any]] = []
    for key, (what, least) in LIMITS.items():
        ratio = statistics.median(samples[key]["zonal"]) / statistics.median(samples[key]["docker"])
        met = ratio >= least
        rows.append({"what": what, "value": ratio, "unit": "×", "limit": least, "least": True, "met": met})
    for key, sides in samples.items():
        for who, values in sides.items():
            row = {"what": f"  {key}, {who}", "value": statistics.median(values), "unit": "Mbit/s"}
            rows.append({**row, "limit": float("inf"), "least": False, "met": True})
    return rows


if __name__ == "__main__":
    main()
