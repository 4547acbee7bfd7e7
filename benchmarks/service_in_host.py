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
ZONE_MEMORY = "96M"
"""Debian's kernel cannot be started with 64 MiB: with its initrd it needs 70 for that alone."""
BURST_SECONDS = 15
"""After so long, a flood has used up what it may have at once."""


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("exec", "streams", "warm", "floods", "many"))
    parser.add_argument("--zones", type=int, default=100)
    given = parser.parse_args()
    samples: Samples = {}
    clean()
    try:
        if given.only in (None, "floods"):
            measure_floods(samples, given.rounds)
            clean()
        if given.only not in ("floods", "many"):
            prepare()
            for _ in range(given.rounds):
                for who in SIDES:
                    if given.only in (None, "exec"):
                        note(samples, "exec, s", who, timed([who, "exec", "bench", "true"]))
                    if given.only in (None, "streams"):
                        measure_streams(samples, who)
            clean()
            if given.only in (None, "warm"):
                measure_warm(samples, given.rounds)
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


FLOODS = {
    "nothing": "while :; do :; done",
    "lines": "yes ''",
    "bytes": "cat /dev/zero",
    "console": "while :; do echo flooded; done > /dev/kmsg",
    "store": (
        "exec perl -e 'open(F, q(+<), q(/dev/xen/xenbus)) or die; "
        "$m = pack(q(L4), 11, 0, 0, 17) . qq(zonal/channel/x\\0v); while (1) { syswrite(F, $m); sysread(F, $b, 64) }'"
    ),
}
"""What a zone does meanwhile: keeps its CPU busy and nothing else, or floods the host as well."""
WORK_SCRIPT = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"


def measure_floods(samples: Samples, rounds: int) -> None:
    """How long work in a zone takes while another one floods the host, beside one that is only busy."""
    run(["zonal", "run", "-d", "-m", "128M", "--network", "none", "--name", "honest", IMAGE, "sleep", "100000"])
    for _ in range(rounds):
        for what, script in FLOODS.items():
            flood = ["--privileged", "--network", "none", "--name", "flood", IMAGE, "sh", "-c", script]
            run(["zonal", "run", "-d", "-m", "128M", *flood])
            time.sleep(BURST_SECONDS)
            took = output(
                ["zonal", "exec", "honest", "bash", "-c", f"TIMEFORMAT=%R; exec 2>&1; time {{ {WORK_SCRIPT}; }}"]
            )
            note(samples, f"work beside {what}, s", "zonal", float(took.split()[-1]))
            note(samples, f"exec beside {what}, s", "zonal", timed(["zonal", "exec", "honest", "true"]))
            run(["zonal", "rm", "-f", "flood"])


def measure_warm(samples: Samples, rounds: int) -> None:
    """A run that takes a zone of the pool, one that boots, and Docker's; and one in a zone that workloads share."""
    true = ["run", "--rm", "--network", "none", BENCH_IMAGE, "true"]
    run(["zonal", "zone", "create", "--network", "none", "shared"])
    for _ in range(rounds):
        run(["zonal", "pool", "set", "256M=1"])
        deadline = time.monotonic() + 300
        while not json.loads(output(["zonal", "pool", "ls", "--json"]))["sizes"][0]["ready"]:
            if time.monotonic() > deadline:
                raise TimeoutError("no zone is booted ahead of time")
            time.sleep(1)
        note(samples, "warm run, s", "zonal", timed(["zonal", *true]))
        run(["zonal", "pool", "set"])
        note(samples, "warm run, s", "docker", timed(["docker", *true]))
        note(samples, "cold run, s", "zonal", timed(["zonal", *true]))
        note(
            samples,
            "run in a shared zone, s",
            "zonal",
            timed(["zonal", "run", "--zone", "shared", *true[1:2], *true[4:]]),
        )


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
