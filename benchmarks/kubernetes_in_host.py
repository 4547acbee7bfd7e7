"""Measures pods inside the lab's host, in zones and beside them by containerd with runc, both through the CRI.

One line of JSON at the end; progress on stderr. Both have the same image, the same network (a bridge, as
``zonal k8s install`` sets it up, of IPv4 alone), and the same requests; they take turns.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.containerd import containerd, import_image, until_ready
from benchmarks.cri import Cri, Pod
from benchmarks.kubernetes_parts import PARTS, TOGETHER
from benchmarks.measuring import Samples, libraries, note, output, run
from zonal.cri.node.files import CNI_FILE, CNI_FOLDER, pod_network
from zonal.cri.node.options import DEFAULT_CRI_SOCKET, DEFAULT_POD_RANGES, NodeOptions

WORK = Path("/var/lib/zonal/bench-kubernetes")
IMAGE = "bench/pod:3"
"""Counted up when there is something else in it."""
PROGRAMS = ("/usr/bin/sleep", "/usr/bin/iperf3", "/usr/sbin/nginx")
LOADED = "/usr/lib/x86_64-linux-gnu/libgcc_s.so.1"
"""That glibc loads when a thread of iperf3 is cancelled; no program names it."""
SLEEP = ("sleep", "1000000")
POOL = "192M-1G=1"
"""As a pod without limits has it."""
POOL_SECONDS = 300
SECONDS = 5
"""Of a run of iperf3 or ab: a number of bytes would take for ever on a machine that is busy."""
MOST_REQUESTS, CLIENTS = 100_000, 8
SETTLE_SECONDS = 3
HTTP, IPERF = 80, 5201
LISTEN_SECONDS = 60
_NGINX = """\
daemon off;
error_log stderr;
pid /run/nginx-bench.pid;
worker_processes 1;
events {}
http {
  access_log off;
  keepalive_requests 1000000;
  server { listen 80; location / { return 200 "%s"; } }
}
""" % ("x" * 1024)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=PARTS)
    given = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    samples: Samples = {}
    measures: dict[str, Callable[[Samples, Sequence[Cri], int], None]] = {
        "start": measure_starts,
        "many": measure_many,
        "network": measure_network,
        "web": measure_web,
    }
    try:
        with runtimes() as sides:
            for part, measure in measures.items():
                if given.only in (None, part):
                    measure(samples, sides, given.rounds)
    finally:
        run(["zonal", "pool", "set"])
    print(json.dumps(samples))


@contextmanager
def runtimes() -> Generator[tuple[Cri, Cri]]:
    """zonald's and containerd's, with the image, and nothing else that runs."""
    subprocess.run(["systemctl", "stop", "nginx"], check=False)
    with network() as folder, containerd(WORK, folder) as other:
        ours = Cri("zonal", Path(DEFAULT_CRI_SOCKET))
        until_ready(ours)
        for side in (ours, other):
            side.remove_all()
        if not ours.has_image(IMAGE) or not other.has_image(IMAGE):
            make_image()
        yield ours, other
        ours.remove_all()


def make_image() -> None:
    """For both: programs of the host, and what they need. It stays for the next time."""
    settings = Path("/bench-nginx.conf")
    settings.write_text(_NGINX)
    tar = WORK / "root.tar"
    with tarfile.open(tar, "w") as archive:
        for name in ("/bin", "/sbin", "/lib", "/lib64", "/etc", "/run", "/tmp", "/var/log/nginx"):
            archive.add(name, recursive=False)
        for name in (
            *PROGRAMS,
            *sorted(libraries(PROGRAMS)),
            LOADED,
            settings,
            "/etc/passwd",
            "/etc/group",
            "/var/lib/nginx",
        ):
            archive.add(name)
    run(["zonal", "image", "import", str(tar), IMAGE])
    import_image(WORK, IMAGE, tar)


@contextmanager
def network() -> Generator[Path]:
    """CNI's configuration for both, where the host has none."""
    folder = Path(CNI_FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    Path(CNI_FILE).write_text(pod_network(NodeOptions(pod_ranges=DEFAULT_POD_RANGES[:1])))
    try:
        yield folder
    finally:
        Path(CNI_FILE).unlink()


def measure_starts(samples: Samples, sides: Sequence[Cri], rounds: int) -> None:
    """A pod of one container, from nothing until that runs; and its end. The first of each side does not count."""
    ours, other = sides
    run(["zonal", "pool", "set"])
    for side in sides:
        measure_start({}, side, "warming up")
    for _ in range(rounds):
        fill_pool()
        measure_start(samples, ours, "warm")
        run(["zonal", "pool", "set"])
        measure_start(samples, other, "pod")
        measure_start(samples, ours, "cold")


def measure_start(samples: Samples, side: Cri, kind: str) -> None:
    """One of them."""
    # What the last one has left to be done in the background is none of this one's.
    time.sleep(SETTLE_SECONDS)
    pod = side.run_pod("start", IMAGE, SLEEP)
    note(samples, f"{kind}, s", side.who, pod.total)
    for call, took in pod.seconds.items():
        note(samples, f"{kind}, {call}, s", side.who, took)
    begin = time.monotonic()
    side.remove_pod(pod.sandbox)
    note(samples, f"{kind}, its end, s", side.who, time.monotonic() - begin)


def fill_pool() -> None:
    """Returns when there is a zone that is booted ahead of time."""
    run(["zonal", "pool", "set", POOL])
    deadline = time.monotonic() + POOL_SECONDS
    while not json.loads(output(["zonal", "pool", "ls", "--json"]))["sizes"][0]["ready"]:
        if time.monotonic() > deadline:
            raise TimeoutError("no zone is booted ahead of time")
        time.sleep(1)


def measure_many(samples: Samples, sides: Sequence[Cri], _rounds: int) -> None:
    """Thirty at once, until all run; once on each side."""
    run(["zonal", "pool", "set"])
    for side in sides:
        begin = time.monotonic()
        with ThreadPoolExecutor(TOGETHER) as pool:
            starts = [pool.submit(side.run_pod, f"many-{number}", IMAGE, SLEEP) for number in range(TOGETHER)]
        total = time.monotonic() - begin
        failures = [str(failure)[:300] for each in starts if (failure := each.exception()) is not None]
        for failure in failures:
            print(f"{side.who}: {failure}", file=sys.stderr, flush=True)
        note(samples, f"{TOGETHER} pods at once, run", side.who, TOGETHER - len(failures))
        note(samples, f"{TOGETHER} pods at once, s", side.who, total)
        begin = time.monotonic()
        side.remove_all(TOGETHER)
        note(samples, f"{TOGETHER} pods removed at once, s", side.who, time.monotonic() - begin)


def measure_network(samples: Samples, sides: Sequence[Cri], rounds: int) -> None:
    """TCP by iperf3 from a pod to another, to the host, and from there; with the processors' time for a GB."""
    server = subprocess.Popen(["iperf3", "-s"], stdout=subprocess.DEVNULL)
    client = ("iperf3", "-t", str(SECONDS), "-J", "-c")
    try:
        with pods(sides, ("iperf3", "-s"), SLEEP) as places:
            for _ in range(rounds):
                for side, (first, second) in places:
                    there = side.address(first)
                    until_listening(there, IPERF)
                    ways: dict[str, Callable[[], str]] = {
                        "pod to pod": partial(side.exec, second, *client, there),
                        "pod to host": partial(side.exec, second, *client, host_address(there)),
                        "host to pod": partial(output, [*client, there]),
                    }
                    for way, transfer in ways.items():
                        measure_transfer(samples, side, way, transfer)
    finally:
        server.kill()
        server.wait()


def measure_transfer(samples: Samples, side: Cri, way: str, transfer: Callable[[], str]) -> None:
    """One run of iperf3."""
    before = processor_seconds()
    received = json.loads(transfer())["end"]["sum_received"]
    took = processor_seconds() - before
    note(samples, f"{way}, Mbit/s", side.who, received["bits_per_second"] / 1e6)
    note(samples, f"{way}, CPU s a GB", side.who, took / (received["bytes"] / 1e9))


def measure_web(samples: Samples, sides: Sequence[Cri], rounds: int) -> None:
    """Answers of 1 KiB by nginx in a pod to ab in the host: over connections that stay, and over new ones."""
    with pods(sides, ("nginx", "-c", "/bench-nginx.conf")) as places:
        for _ in range(rounds):
            for side, (server,) in places:
                address = side.address(server)
                until_listening(address, HTTP)
                url = f"http://{address}/"
                for kind, options in (("kept", ["-k"]), ("new", [])):
                    ab = ["ab", "-q", "-c", str(CLIENTS), *options]
                    output([*ab, "-n", "100", url])
                    before = processor_seconds()
                    report = output([*ab, "-t", str(SECONDS), "-n", str(MOST_REQUESTS), url])
                    took = processor_seconds() - before
                    if not re.search(r"Failed requests:\s+0\n", report):
                        raise RuntimeError(f"{side.who}: {report}")
                    (rate,) = re.findall(r"Requests per second:\s+([\d.]+)", report)
                    (done,) = re.findall(r"Complete requests:\s+(\d+)", report)
                    note(samples, f"nginx, {kind} connections, requests/s", side.who, float(rate))
                    note(samples, f"nginx, {kind} connections, CPU s a 1000", side.who, took / (int(done) / 1000))


@contextmanager
def pods(sides: Sequence[Cri], *commands: Sequence[str]) -> Generator[list[tuple[Cri, list[Pod]]]]:
    """Each side with a pod for each command; one that waits costs the other nothing."""
    run(["zonal", "pool", "set"])
    places = [
        (side, [side.run_pod(f"pod-{number}", IMAGE, command) for number, command in enumerate(commands)])
        for side in sides
    ]
    time.sleep(SETTLE_SECONDS)
    yield places
    for side in sides:
        side.remove_all()


def until_listening(address: str, port: int) -> None:
    """Until a server in a pod takes connections. Raises ``OSError`` when it does not come to that."""
    deadline = time.monotonic() + LISTEN_SECONDS
    while True:
        try:
            socket.create_connection((address, port), timeout=5).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            break
    time.sleep(1)  # iperf3 has to find out that it was nobody


def host_address(pod: str) -> str:
    """The host's own, as a pod sees it."""
    (route,) = json.loads(output(["ip", "-json", "route", "get", pod]))
    return route["prefsrc"]


def processor_seconds() -> float:
    """That all domains have had, the host's own included, by Xen's word."""
    return sum(float(line.split()[-1]) for line in output(["xl", "list"]).splitlines()[1:])


if __name__ == "__main__":
    main()
