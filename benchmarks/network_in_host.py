"""Measures TCP inside the lab's host by iperf3: one line of JSON at the end, in Mbit/s; progress on stderr.

Standard library only. Zone and container take turns: each side has a server in one
zone or container, and a client in another; the host has a server too.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import time
from pathlib import Path

from benchmarks.measuring import SIDES, Samples, import_debian, note, output, run

WORK = Path("/var/lib/zonal/bench-network")
IMAGE = "iperf:1"
SECONDS = 5
MEMORY = "256M"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    samples: Samples = {}
    clean()
    server = subprocess.Popen(["iperf3", "-s"], stdout=subprocess.DEVNULL)
    try:
        import_debian(IMAGE, WORK, ["/usr/bin/iperf3"])
        for who in SIDES:
            run([who, "run", "-d", "--name", "iperf-server", "-m", MEMORY, IMAGE, "iperf3", "-s"])
        time.sleep(3)
        for _ in range(rounds):
            for who in SIDES:
                gateway, address = places(who)
                note(samples, "to host", who, throughput(who, gateway))
                note(samples, "from host", who, throughput(who, gateway, "--reverse"))
                note(samples, "between", who, throughput(who, address))
    finally:
        server.kill()
        server.wait()
        clean()
        shutil.rmtree(WORK, ignore_errors=True)
    print(json.dumps(samples))


def clean() -> None:
    """Removes what a run before this one may have left."""
    for who in SIDES:
        subprocess.run([who, "rm", "-f", "iperf-server"], capture_output=True, check=False)


def places(who: str) -> tuple[str, str]:
    """The host's address on the network, and that of the server's zone or container."""
    if who == "zonal":
        (zone,) = map(json.loads, output(["zonal", "zone", "ls", "--json"]).splitlines())
        (network,) = json.loads(output(["zonal", "network", "inspect", "zonal"]))
        return network["gateways"][0], zone["addresses"][0].partition("/")[0]
    (container,) = json.loads(output(["docker", "inspect", "iperf-server"]))
    (bridge,) = container["NetworkSettings"]["Networks"].values()
    return bridge["Gateway"], bridge["IPAddress"]


def throughput(who: str, address: str, *options: str) -> float:
    """One run of iperf3 in a zone or container of its own."""
    client = ["iperf3", "-c", address, "-t", str(SECONDS), "-O", "1", "-J", *options]
    text = output([who, "run", "--rm", "-m", MEMORY, IMAGE, *client])
    return float(json.loads(text)["end"]["sum_received"]["bits_per_second"]) / 1e6


if __name__ == "__main__":
    main()
