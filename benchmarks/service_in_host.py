"""Measures zones that run, inside the lab's host: one line of JSON at the end; progress on stderr.

Standard library only. ``exec`` and streams: zone and container in turns. Then many zones at once: how long each took to
start, how long a list of them takes, and zonald's memory.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.measuring import SIDES, Samples, import_debian, note, output, run, timed

IMAGE = "debian:13"
BENCH_IMAGE = "bench-service:1"
WORK = Path("/var/lib/zonal/bench-service")
STREAM_MIB = 64
ECHOES = 200
ZONE_MEMORY = "64M"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("exec", "streams", "many"))
    parser.add_argument("--zones", type=int, default=100)
    given = parser.parse_args()
    samples: Samples = {}
    clean()
    try:
        if given.only != "many":
            prepare()
            for _ in range(given.rounds):
                for who in SIDES:
                    if given.only != "streams":
                        note(samples, "exec, s", who, timed([who, "exec", "bench", "true"]))
                    if given.only != "exec":
                        measure_streams(samples, who)
            clean()
        if given.only in (None, "many"):
            measure_many(samples, given.zones)
    finally:
        clean()
    print(json.dumps(samples))


def prepare() -> None:
    """The same image for both, and one of each that runs."""
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    import_debian(BENCH_IMAGE, WORK, ())
    for who in SIDES:
        run([who, "run", "-d", "--name", "bench", "--network", "none", BENCH_IMAGE, "sleep", "100000"])


def measure_streams(samples: Samples, who: str) -> None:
    """Bytes in and out, and one byte there and back."""
    size = STREAM_MIB << 20
    begin = time.monotonic()
    out = subprocess.Popen([who, "exec", "bench", "head", "-c", str(size), "/dev/zero"], stdout=subprocess.PIPE)
    assert out.stdout is not None
    first, got = 0.0, 0
    while chunk := os.read(out.stdout.fileno(), 1 << 20):
        first = first or time.monotonic()
        got += len(chunk)
    note(samples, "out of it, MiB/s", who, STREAM_MIB / (time.monotonic() - first))
    assert out.wait() == 0
    assert got == size, (got, size, begin)
    with subprocess.Popen(
        [who, "exec", "-i", "bench", "sh", "-c", "echo; wc -c"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        begin = time.monotonic()
        block = bytes(1 << 20)
        for _ in range(STREAM_MIB):
            process.stdin.write(block)
        process.stdin.close()
        assert int(process.stdout.readline()) == size
        note(samples, "into it, MiB/s", who, STREAM_MIB / (time.monotonic() - begin))
    with subprocess.Popen(
        [who, "exec", "-i", "bench", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        times: list[float] = []
        for number in range(ECHOES + 20):
            begin = time.monotonic()
            process.stdin.write(b"x")
            assert process.stdout.read(1) == b"x"
            if number >= 20:
                times.append((time.monotonic() - begin) * 1000)
        process.stdin.close()
        note(samples, "a byte there and back, ms", who, statistics.median(times))


def measure_many(samples: Samples, zones: int) -> None:
    """Zones that sleep, one after another."""
    pid = output(["systemctl", "show", "--property", "MainPID", "--value", "zonald"]).strip()
    for number in range(zones):
        command = ["zonal", "run", "-d", "-m", ZONE_MEMORY, "--network", "none", "--name", f"many-{number}"]
        note(samples, "start, s", "zonal", timed([*command, IMAGE, "sleep", "100000"]))
    for _ in range(5):
        note(samples, "zone ls, s", "zonal", timed(["zonal", "zone", "ls"]))
    (resident,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    note(samples, "zonald, MiB", "zonal", int(resident.split()[1]) / 1024)
    alive = len(output(["zonal", "zone", "ls", "-q"]).split())
    note(samples, "zones alive", "zonal", alive)


def clean() -> None:
    """Removes what runs."""
    subprocess.run(
        "zonal zone ls -aq | xargs -r zonal zone rm -f; docker rm -f bench", shell=True, check=False, stdout=sys.stderr
    )


if __name__ == "__main__":
    main()
