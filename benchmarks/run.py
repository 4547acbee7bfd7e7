"""``make bench``: brings up a lab that also has Docker, measures inside it, and writes a report.

The report is JSON in ``bench-results/``, and a table for people. ``--from-nothing`` also takes a fresh clone with an
empty cache through ``make run``, which takes minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
ZONAL = ROOT / ".venv" / "bin" / "zonal"
LAB = "bench"
PLAIN_LAB = "bench-plain"
"""As ``zonal lab up`` makes it, without Docker and with the default memory: what resuming is promised for."""
PACKAGES = ("docker.io", "docker-cli")
MEMORY = "8G"
IMAGE = "debian:13"
RESUMES = 5


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--from-nothing", action="store_true", help="also measure `make run` in a fresh clone")
    options = parser.parse_args()
    report: dict[str, Any] = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpus": os.cpu_count(), "processor": platform.processor() or platform.machine()},
    }
    if options.from_nothing:
        report["from_nothing"] = from_nothing()
    report["resume"] = resumes()
    prepare_lab()
    report["host"] = in_host(options.rounds)
    report["summary"] = summary(report)
    folder = ROOT / "bench-results"
    folder.mkdir(exist_ok=True)
    path = folder / f"{report['when'].replace(':', '')}.json"
    path.write_text(json.dumps(report, indent=1))
    print_summary(report["summary"])
    print(f"\nall samples: {path.relative_to(ROOT)}")
    subprocess.run([ZONAL, "lab", "down", "--name", LAB], check=True)


def from_nothing() -> dict[str, float]:
    """``make run`` from a fresh clone with an empty cache; and again with the lab down."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "zonal"
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        environment = {**os.environ, "ZONAL_CACHE": str(Path(folder) / "cache"), "XDG_CACHE_HOME": f"{folder}/xdg"}
        try:
            first = timed(["make", "run"], cwd=clone, env=environment)
            subprocess.run([clone / ".venv/bin/zonal", "lab", "down"], env=environment, check=True)
            again = [timed(["make", "run"], cwd=clone, env=environment)]
            for _ in range(2):
                subprocess.run([clone / ".venv/bin/zonal", "lab", "down"], env=environment, check=True)
                again.append(timed(["make", "run"], cwd=clone, env=environment))
        finally:
            subprocess.run([clone / ".venv/bin/zonal", "lab", "destroy", "--disks"], env=environment, check=False)
        return {"first": first, "again": statistics.median(again)}


def prepare_lab() -> None:
    """A lab with Docker in it, which knows the same image as Zonal."""
    packages = [option for name in PACKAGES for option in ("--package", name)]
    run([ZONAL, "lab", "up", "--name", LAB, "--memory", MEMORY, *packages])
    run([ZONAL, "run", "--rm", "--lab", LAB, IMAGE, "true"])
    # Docker gets the very tree that Zonal has, exported by a zone.
    shell(
        "docker image inspect debian:13 >/dev/null 2>&1 || (zonal run --rm debian:13 tar -C / --one-file-system -c . "
        "| docker import - debian:13)"
    )


def resumes() -> list[float]:
    """Seconds that ``zonal lab up`` takes for a lab which is down."""
    times: list[float] = []
    run([ZONAL, "lab", "up", "--name", PLAIN_LAB])
    for _ in range(RESUMES):
        run([ZONAL, "lab", "down", "--name", PLAIN_LAB])
        times.append(timed([ZONAL, "lab", "up", "--name", PLAIN_LAB]))
    run([ZONAL, "lab", "down", "--name", PLAIN_LAB])
    return times


def in_host(rounds: int) -> dict[str, Any]:
    """What ``in_host.py`` measures."""
    script = (ROOT / "benchmarks" / "in_host.py").read_bytes()
    done = subprocess.run(
        [ZONAL, "lab", "shell", "--name", LAB, "--", f"python3 - --rounds {rounds}"],
        input=script,
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def summary(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Each promise with its measured figure."""
    host = report["host"]
    zonal, docker = host["start"]["zonal"], host["start"]["docker"]

    def median(samples: Sequence[dict[str, float]], key: str) -> float:
        return statistics.median(sample[key] for sample in samples)

    rows: list[dict[str, Any]] = []

    def row(what: str, value: float, unit: str, limit: float, *, least: bool = False) -> None:
        met = value >= limit if least else value <= limit
        rows.append({"what": what, "value": value, "unit": unit, "limit": limit, "least": least, "met": met})

    if "from_nothing" in report:
        row("make run, from nothing", report["from_nothing"]["first"], "s", 300)
        row("make run, lab down", report["from_nothing"]["again"], "s", 8)
    row("lab resume", statistics.median(report["resume"]), "s", 1.5)
    row("cold true, ratio to docker run", median(zonal, "total") / median(docker, "total"), "×", 1.0)
    row("  docker run --rm true", median(docker, "total"), "s", float("inf"))
    row("  zonal run --rm true", median(zonal, "total"), "s", float("inf"))
    row("domain built", median(zonal, "phase domain"), "s", 0.6)
    row("agent, from its start to ready", median(zonal, "phase agent"), "s", 0.7)
    for phase in ("kernel", "container", "teardown"):
        row(f"  {phase}", median(zonal, f"phase {phase}"), "s", float("inf"))
    row("zonald at rest", host["at_rest"]["VmRSS"], "MiB", 80)
    row("agent resident", max(host["density"]["agent_mib"], default=0.0), "MiB", 14)
    row("zones of 96 MiB alive at once, of 20", host["density"]["alive"], "", 20, least=True)
    row("  20 zones, five at a time", host["density"]["total"], "s", float("inf"))
    return rows


def print_summary(rows: list[dict[str, Any]]) -> None:
    """For people."""
    for row in rows:
        limit = "" if row["limit"] == float("inf") else f"{'≥' if row['least'] else '≤'} {row['limit']:g} {row['unit']}"
        verdict = "" if not limit else "met" if row["met"] else "MISSED"
        print(f"{row['what']:<42} {row['value']:9.3f} {row['unit']:<4} {limit:<12} {verdict}")


def timed(argv: Sequence[str | Path], **options: Any) -> float:
    """Seconds that a command takes."""
    begin = time.monotonic()
    run(argv, **options)
    return time.monotonic() - begin


def run(argv: Sequence[str | Path], **options: Any) -> None:
    """A command that must succeed; its output goes to stderr, so that ours stays readable."""
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr, **options)


def shell(line: str) -> None:
    """A shell line inside the lab's host."""
    run([ZONAL, "lab", "shell", "--name", LAB, "--", line])


if __name__ == "__main__":
    main()
