"""The processes of a simulation, and what is seen of zonald from outside: calls, figures of ``/proc``, its log."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import grpc

from benchmarks.cri import Cri
from benchmarks.simulation.daemon import CRI, IMAGE, METRICS, SOCKET
from zonal.api import control_pb2 as pb
from zonal.daemon.rpc import CHANNEL_OPTIONS

ROOT = Path(__file__).parents[2]
MEMORY = 64 << 20
SCRATCH = 64 << 20
"""Bytes that each zone has, of memory and of a scratch disk."""
PATIENCE = 600.0
_STARTED, _READY = b" taken over, domain ", b"ready on "


class Zonald:
    """One zonald after another, on one machine."""

    def __init__(self, folder: Path) -> None:
        self._machine, self._state = folder / "machine", folder / "state"
        self._log = folder / "zonald.log"
        self._environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "GRPC_VERBOSITY": "ERROR"}
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Any = None

    def begin(self) -> float:
        """Starts it, and waits until it answers; gives the seconds that this took."""
        begin, position = time.monotonic(), self._log_size()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.simulation.daemon", self._machine, self._state],
                cwd=ROOT,
                env=self._environment,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        self._await_log(position, _READY, 1)
        self._channel = cast("Any", grpc).insecure_channel(f"unix:{self._state / SOCKET}", options=CHANNEL_OPTIONS)
        return time.monotonic() - begin

    def end(self, number: int = signal.SIGTERM) -> None:
        """By a signal."""
        if self._process is not None:
            if self._channel is not None:
                self._channel.close()
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None

    def again(self, zones: int) -> tuple[float, float]:
        """Kills it and starts it anew: seconds until it answers, and until it has all its zones back."""
        self.end(signal.SIGKILL)
        position, begin = self._log_size(), time.monotonic()
        answers = self.begin()
        self._await_log(position, _STARTED, zones)
        return answers, time.monotonic() - begin

    def run(self, hostname: str = "") -> str:
        """Starts a zone; gives its id."""
        network = pb.NetworkOptions(network="none")
        spec = pb.RunSpec(image=IMAGE, command=["/work"], memory_bytes=MEMORY, storage_bytes=SCRATCH, detach=True)
        spec.hostname = hostname
        spec.network.CopyFrom(network)
        call = self._channel.stream_stream(
            "/zonal.control.v1.Control/Run",
            request_serializer=pb.RunRequest.SerializeToString,
            response_deserializer=pb.RunReply.FromString,
        )
        replies = list(call(iter([pb.RunRequest(spec=spec)]), timeout=PATIENCE))
        return replies[0].started.zone_id

    def remove(self, zone: str) -> None:
        """As ``zonal zone rm -f``."""
        self._call("RemoveZone", pb.RemoveZoneRequest(zone=zone, force=True), pb.RemoveZoneReply)

    def kill(self, zone: str) -> None:
        """As ``zonal kill``."""
        self._call("KillZone", pb.KillZoneRequest(zone=zone, signal=signal.SIGKILL), pb.KillZoneReply)

    def list(self, *, everything: bool = False) -> list[pb.Zone]:
        """As ``zonal zone ls``; ``everything``: with those that have ended."""
        return list(self._call("ListZones", pb.ListZonesRequest(all=everything), pb.ListZonesReply).zones)

    def logs(self, zone: str) -> bytes:
        """The output that is kept of a zone."""
        call = self._channel.unary_stream(
            "/zonal.control.v1.Control/ZoneLogs",
            request_serializer=pb.ZoneLogsRequest.SerializeToString,
            response_deserializer=pb.OutputChunk.FromString,
        )
        return b"".join(chunk.stdout + chunk.stderr for chunk in call(pb.ZoneLogsRequest(zone=zone), timeout=PATIENCE))

    def cri(self) -> Cri:
        """A client of its socket for kubelets."""
        return Cri("zonal", self._state / CRI, self._state.with_name("logs"))

    def scrape(self) -> bytes:
        """As Prometheus does."""
        connection = http.client.HTTPConnection("localhost", timeout=PATIENCE)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self._state / METRICS))
        connection.request("GET", "/metrics")
        body = connection.getresponse().read()
        connection.close()
        return body

    def resident_bytes(self) -> int:
        """Without the pages of zones that it has mapped: those are the zones'."""
        fields = dict(line.split(":", 1) for line in (self._proc / "status").read_text().splitlines())
        return (int(fields["VmRSS"].split()[0]) - int(fields["RssShmem"].split()[0])) * 1024

    def descriptors(self) -> int:
        """That it has open."""
        return len(list((self._proc / "fd").iterdir()))

    def mappings(self) -> int:
        """Areas of its address space, of which Linux lets it have 65,530 (``vm.max_map_count``)."""
        return (self._proc / "maps").read_bytes().count(b"\n")

    def threads(self) -> int:
        """That it has."""
        return len(list((self._proc / "task").iterdir()))

    def files(self) -> int:
        """In its folder, however deep."""
        return sum(len(names) for _, _, names in os.walk(self._state))

    def cpu_seconds(self) -> float:
        """That it has used so far."""
        words = (self._proc / "stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def records_bytes(self) -> int:
        """Of the zones' records, with the log that SQLite writes ahead."""
        return sum(path.stat().st_size for path in self._state.glob("state.sqlite*"))

    @property
    def _proc(self) -> Path:
        assert self._process is not None
        return Path("/proc", str(self._process.pid))

    def _call(self, name: str, request: Any, reply: Any) -> Any:
        call = self._channel.unary_unary(
            f"/zonal.control.v1.Control/{name}",
            request_serializer=_serialise,
            response_deserializer=reply.FromString,
        )
        return call(request, timeout=PATIENCE)

    def _log_size(self) -> int:
        return self._log.stat().st_size if self._log.exists() else 0

    def _await_log(self, position: int, words: bytes, times: int) -> None:
        assert self._process is not None
        deadline = time.monotonic() + PATIENCE
        with self._log.open("rb") as log:
            log.seek(position)
            seen, found = b"", 0
            while found < times:
                seen += log.read()
                found += seen.count(words)
                seen = seen[-len(words) + 1 :]
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"zonald did not say {words!r} {times} times: see {self._log}")
                time.sleep(0.01)


def _serialise(message: Any) -> bytes:
    return message.SerializeToString()


@contextmanager
def simulated(folder: Path, program: str = "benchmarks.simulation.machine") -> Generator[Zonald]:
    """A machine and a zonald on it, in ``folder``; both end with the block. ``program`` is the machine's module."""
    for name in ("machine", "state"):
        (folder / name).mkdir(mode=0o700, exist_ok=True)
    machine = subprocess.Popen([sys.executable, "-m", program, folder / "machine"], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert machine.stdout is not None
        if machine.stdout.readline() != b"ready\n":
            raise RuntimeError("the machine does not begin")
        zonald = Zonald(folder)
        try:
            zonald.begin()
            yield zonald
        finally:
            zonald.end()
    finally:
        machine.terminate()
        machine.wait()
