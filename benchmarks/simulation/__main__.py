"""``make bench-simulation``: curves of zonald's costs up to 2,000 zones, without Xen, a lab, or root.

Writes ``bench-results/simulation-….json`` with all figures; ``--publish`` also draws docs/simulation.svg. With
``--pods`` it makes and removes so many pods, one after another, and looks for what stays of them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.charts import Chart, chart_sheet
from benchmarks.simulation.figures import Point, measure
from benchmarks.simulation.pods import PodsPoint, measure_pods
from benchmarks.simulation.zonald import simulated

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "simulation.svg"
MARKS = (1, 10, 100, 200, 500, 1000, 1500, 2000)
POD_MARKS = (0, 10, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000, 2000, 5000, 10_000)
CHARTS = (
    ("the next start", "ms", ("start_ms",)),
    ("an end", "ms", ("end_ms",)),
    ("zone ls", "ms", ("list_ms",)),
    ("figures for Prometheus", "ms", ("scrape_ms",)),
    ("zonald's memory", "MiB", ("resident_mib",)),
    ("open files", "", ("descriptors",)),
    ("records", "KiB", ("records_kib",)),
    ("processor time at rest", "ms/s", ("idle_ms",)),
    ("killed, until it answers and has all back", "s", ("answers_s", "taken_back_s")),
)


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(prog="bench-simulation", description=__doc__)
    parser.add_argument("--most", type=int, default=MARKS[-1], metavar="N", help="zones at the end (2000)")
    parser.add_argument("--publish", action="store_true", help=f"draw {PICTURE.relative_to(ROOT)} anew")
    parser.add_argument("--pods", type=int, metavar="N", help="make and remove N pods instead")
    options = parser.parse_args()
    if options.pods is not None:
        marks = [mark for mark in POD_MARKS if mark < options.pods] + [options.pods]
        with tempfile.TemporaryDirectory(prefix="zonal-simulation-") as folder, simulated(Path(folder)) as zonald:
            pods = measure_pods(
                zonald, marks, lambda point: print(json.dumps(asdict(point)), file=sys.stderr, flush=True)
            )
        print(table(pods))
        return
    marks = [mark for mark in MARKS if mark < options.most] + [options.most]
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < 10 * options.most:
        sys.exit(f"{options.most} zones need {10 * options.most} open files, and {most} are allowed: see ulimit -n")
    with tempfile.TemporaryDirectory(prefix="zonal-simulation-") as folder, simulated(Path(folder)) as zonald:
        points = measure(zonald, marks, lambda point: print(json.dumps(asdict(point)), file=sys.stderr, flush=True))
    report: dict[str, Any] = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpus": os.cpu_count(), "processor": platform.processor() or platform.machine()},
        "python": platform.python_version(),
        "points": [asdict(point) for point in points],
    }
    folder_of_results = ROOT / "bench-results"
    folder_of_results.mkdir(exist_ok=True)
    path = folder_of_results / f"simulation-{report['when'].replace(':', '')}.json"
    path.write_text(json.dumps(report, indent=1))
    print(table(points))
    print(f"\nall figures: {path.relative_to(ROOT)}")
    if options.publish:
        PICTURE.write_text(picture(report))


def table(points: Sequence[Point | PodsPoint]) -> str:
    """In Markdown, as docs/performance.md has it."""
    names = list(asdict(points[0]))
    lines = [f"| {' | '.join(name.replace('_', ' ') for name in names)} |", f"|{'---:|' * len(names)}"]
    lines += [f"| {' | '.join(f'{value:,}' for value in asdict(point).values())} |" for point in points]
    return "\n".join(lines)


def picture(report: dict[str, Any]) -> str:
    """One chart for each figure."""
    points = report["points"]
    charts = [
        Chart(title, unit, {name: [(point["zones"], point[name]) for point in points] for name in names})
        for title, unit, names in CHARTS
    ]
    day = report["when"].partition("T")[0]
    cpus = report["machine"]["cpus"]
    return chart_sheet(f"zonald with stand-in zones, by their number ({day}, {cpus} shared CPUs)", charts)


if __name__ == "__main__":
    main()
