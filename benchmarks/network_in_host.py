"""Measures TCP inside the lab's host by iperf3: one line of JSON at the end, in Mbit/s; progress on stderr.

Standard library only, since it is sent there by itself. Zone and container take turns: each side has a server in one
zone or container, and a client in another; the host has a server too.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

WORK = Path("/var/lib/zonal/bench-network")
IMAGE = "iperf:1"
SECONDS = 5
MEMORY = "256M"
SIDES = ("zonal", "docker")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    samples: dict[str, dict[str, list[float]]] = {}
    clean()
    server = subprocess.Popen(["iperf3", "-s"], stdout=subprocess.DEVNULL)
    try:
        make_image()
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


def make_image() -> None:
    """Debian with iperf3, for both."""
    tar = WORK / "image.tar"
    with tar.open("wb") as file:
        inside = ["tar", "-C", "/", "--one-file-system", "-c", "."]
        command = ["zonal", "run", "--rm", "--network", "none", "debian:13", *inside]
        subprocess.run(command, stdout=file, check=True)
    found = output(["ldd", "/usr/bin/iperf3"]).split()
    words = [word for word in found if word.startswith("/")]
    libraries = {Path("/usr", word[1:]) if word.startswith("/lib") else Path(word) for word in words}
    libraries = {path for path in libraries if path.is_file()}
    names = {"/usr/bin/iperf3", *map(str, libraries), *(str(path.resolve()) for path in libraries)}
    root = WORK / "root"
    root.mkdir()
    run(["tar", "-C", str(root), "-xf", str(tar)])
    copies = subprocess.run(
        ["tar", "-C", "/", "-c", *(name.lstrip("/") for name in sorted(names))], stdout=subprocess.PIPE, check=True
    )
    subprocess.run(["tar", "-C", str(root), "-x"], input=copies.stdout, check=True)
    run(["tar", "-C", str(root), "-cf", str(tar), "."])
    shutil.rmtree(root)
    run(["zonal", "image", "import", str(tar), IMAGE])
    run(["docker", "import", str(tar), IMAGE])
    tar.unlink()


def note(samples: dict[str, dict[str, list[float]]], key: str, who: str, value: float) -> None:
    """Keeps and shows a sample."""
    samples.setdefault(key, {}).setdefault(who, []).append(value)
    print(f"{key}, {who}: {value:.0f} Mbit/s", file=sys.stderr, flush=True)


def output(command: list[str]) -> str:
    """Of a command that must succeed."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def run(command: list[str]) -> None:
    """A command that must succeed."""
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)


if __name__ == "__main__":
    main()
