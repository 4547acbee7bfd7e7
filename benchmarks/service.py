"""``make bench-service``: ``exec``, streams and warm starts beside Docker's, and a hundred zones in one host.

What is measured runs inside the lab's host (``service_in_host.py``).
"""

from __future__ import annotations

import statistics

from benchmarks.measuring import Samples
from benchmarks.side_by_side import Row, least, measure, medians, most, options, promise

PACKAGES = ("docker.io", "docker-cli")
EXEC_RATIO = 2.0
"""Docker's time to ours."""
WARM_RATIO = 5.0
"""The same of a run that takes a zone of the pool."""
STREAM_RATE = 20.0
"""MiB/s, each way."""
ECHO_MS = 5.0
LIST_SECONDS = 0.3
RESIDENT_MIB = 150.0
FLOODED = 1.1
"""Work in a zone beside one that floods the host, to the same beside one that only keeps its CPU busy."""
SLOWER = 1.3
"""The hundredth start to the tenth, each the median of those about it."""


def summary(samples: Samples) -> list[Row]:
    """Each promise, and the medians themselves."""
    rows: list[Row] = []
    if "exec, s" in samples:
        zonal, docker = (statistics.median(samples["exec, s"][who]) for who in ("zonal", "docker"))
        rows.append(promise("exec, Docker's time to ours", docker / zonal, EXEC_RATIO))
    if "warm run, s" in samples:
        zonal, docker = (statistics.median(samples["warm run, s"][who]) for who in ("zonal", "docker"))
        rows.append(promise("a warm run, Docker's time to ours", docker / zonal, WARM_RATIO))
    busy = samples.get("work beside nothing, s", {}).get("zonal", [])
    for key, values in samples.items():
        if busy and key.startswith("work beside ") and "nothing" not in key:
            ratio = statistics.median(values["zonal"]) / statistics.median(busy)
            rows.append(most(f"{key.removesuffix(', s')}, to that beside a busy zone", ratio, FLOODED))
    for key in ("out of it, MiB/s", "into it, MiB/s"):
        if key in samples:
            rows.append(least(key, statistics.median(samples[key]["zonal"]), STREAM_RATE))
    for key, limit in (
        ("a byte there and back, ms", ECHO_MS),
        ("zone ls, s", LIST_SECONDS),
        ("zonald, MiB", RESIDENT_MIB),
    ):
        if key in samples:
            rows.append(most(key, statistics.median(samples[key]["zonal"]), limit))
    starts = samples.get("start, s", {}).get("zonal", [])
    if len(starts) >= 20:
        early, late = statistics.median(starts[7:12]), statistics.median(starts[-5:])
        rows.append(most("the last starts to the tenth", late / early, SLOWER))
    return rows + medians(samples)


if __name__ == "__main__":
    measure(
        "service", options(__doc__, "bench-service", ("exec", "streams", "warm", "floods", "many")), PACKAGES, summary
    )
