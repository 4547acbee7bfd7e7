"""The part of the benchmarks that runs inside the host, beside Docker. Standard library only.

Work is done in turn, A B A B, and reported as one JSON object on the last line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

IMAGE = "debian:13"
ZONES = 20
AT_ONCE = 5
ZONE_MEMORY = "96M"
PHASES = ("prepare", "domain", "kernel", "agent", "container", "run", "teardown")


def main() -> None:
    """Measures what it is told to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    result: dict[str, Any] = {"at_rest": at_rest()}
    result["start"] = start(rounds)
    result["density"] = density()
    print(json.dumps(result))


def start(rounds: int) -> dict[str, Any]:
    """Cold ``true``, from the shell's point of view: each competitor once a round, in turn."""
    kinds: dict[str, Callable[[], dict[str, float]]] = {"docker": docker_true, "zonal": zonal_true}
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
    for name, run in kinds.items():
        say(f"{name}: warming up")
        run()
    for number in range(rounds):
        for name, run in kinds.items():
            sample = run()
            samples[name].append(sample)
            say(f"round {number + 1} of {rounds}: {name} {sample['total']:.2f} s")
    return samples


def docker_true() -> dict[str, float]:
    """One ``docker run``."""
    begin = time.monotonic()
    command("docker", "run", "--rm", IMAGE, "true")
    return {"total": time.monotonic() - begin}


def zonal_true() -> dict[str, float]:
    """One ``zonal run``, with its phases."""
    begin = time.monotonic()
    done = command("zonal", "run", "--rm", "--timing=json", IMAGE, "true")
    total = time.monotonic() - begin
    report = json.loads(done.stderr.strip().splitlines()[-1])
    phases = {p["name"]: (p["end_ns"] - p["begin_ns"]) / 1e9 for p in report["phases"]}
    inside = [p for p in report["phases"] if p["name"] in PHASES]
    service = (max(p["end_ns"] for p in inside) - min(p["begin_ns"] for p in inside)) / 1e9
    return {"total": total, "service": service, **{f"phase {name}": phases.get(name, 0.0) for name in PHASES}}


def at_rest() -> dict[str, float]:
    """Memory of zonald at rest, in MiB."""
    (pid,) = command("systemctl", "show", "--value", "--property", "MainPID", "zonald").stdout.split()
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {name: int(lines[name].split()[0]) / 1024 for name in ("VmRSS", "RssAnon", "RssFile")}


def density() -> dict[str, Any]:
    """Twenty zones alive at once, started five at a time."""
    names = [f"density-{number}" for number in range(ZONES)]

    def launch(name: str) -> float:
        begin = time.monotonic()
        command("zonal", "run", "-d", "-m", ZONE_MEMORY, "--name", name, IMAGE, "sleep", "infinity")
        return time.monotonic() - begin

    begin = time.monotonic()
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            times = list(pool.map(launch, names))
        total = time.monotonic() - begin
        say(f"{ZONES} zones started in {total:.1f} s")
        alive = [json.loads(line) for line in command("zonal", "zone", "ls", "--json").stdout.splitlines()]
        running = [zone for zone in alive if zone["name"] in names and zone["state"] == "running"]
        agents = [zone["agent_resident_bytes"] / 2**20 for zone in running]
        return {"alive": len(running), "total": total, "each": times, "agent_mib": agents, "zonald": at_rest()}
    finally:
        for name in names:
            subprocess.run(["zonal", "zone", "rm", "-f", name], capture_output=True, check=False)


def command(*argv: str) -> subprocess.CompletedProcess[str]:
    """Runs a command that must succeed."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(f"{' '.join(argv)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done


def say(text: str) -> None:
    """Progress, beside the result."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
