"""What lab tests drive: the command line outside, and a shell in the lab's host to look with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any, Protocol

# Who runs the tests may have ignored SIGINT, as shells do for what runs in the background.
ZONAL = ("env", "--default-signal", sys.executable, "-m", "zonal.cli.main")
TIMEOUT = 300
IMAGE = "debian:13"


class NamedLab(Protocol):
    """The fixture ``lab``: a lab that is up."""

    @property
    def name(self) -> str: ...


@dataclass(frozen=True)
class Snapshot:
    """What there is in the host that a zone may leave behind."""

    domains: tuple[str, ...]
    store_keys: tuple[str, ...]
    loops: tuple[str, ...]
    zone_folders: tuple[str, ...]
    spool: tuple[str, ...]
    descriptors: int
    threads: int
    resident_kib: int
    free_mib: int


class Host:
    """The lab's host, as its user sees it. Zones are on no ``network`` unless a test is about one: that takes time."""

    def __init__(self, lab: NamedLab, *, network: str = "none") -> None:
        self.environment = {k: v for k, v in os.environ.items() if k != "ZONAL_HOST"}
        self.environment |= {"ZONAL_LAB": lab.name, "ZONAL_NETWORK": network}
        self.name = self.lab = lab.name

    def command(self, *arguments: str) -> list[str]:
        return [*ZONAL, *arguments]

    def zonal(
        self, *arguments: str, stdin: bytes | None = None, timeout: float = TIMEOUT
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            self.command(*arguments),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            check=False,
            timeout=timeout,
            env=self.environment,
        )

    def run(self, *arguments: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        """``zonal run --rm`` with small memory, which must end with status 0."""
        done = self.zonal("run", "--rm", "-m", "128M", *arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return done

    def refused(self, *arguments: str, stdin: bytes | None = None) -> str:
        """What is said of a command that must end with docker's status for a refusal."""
        done = self.zonal(*arguments, stdin=stdin)
        assert done.returncode == 125, (arguments, done.returncode, done.stderr)
        assert b"Traceback" not in done.stderr
        return done.stderr.decode()

    def start(self, *arguments: str, **streams: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen[bytes](self.command(*arguments), env=self.environment, **streams)

    def shell(self, script: str) -> str:
        """A line for the host's shell, which must succeed; its output."""
        done = self.zonal("lab", "shell", "--name", self.lab, "--", script)
        assert done.returncode == 0, (script, done.stderr.decode(errors="replace"))
        return done.stdout.decode()

    def zones(self) -> list[dict[str, Any]]:
        done = self.zonal("zone", "ls", "-a", "--json")
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def remove_all(self) -> None:
        # What shares a zone goes with it.
        names = [zone["name"] for zone in self.zones() if not zone["zone"]]
        if names:
            assert self.zonal("zone", "rm", "-f", *names).returncode == 0

    def remove_images(self, beginning: str) -> None:
        """Those whose names begin like this, and what they have left."""
        images = [json.loads(line) for line in self.zonal("image", "ls", "--json").stdout.splitlines()]
        names = [name for image in images for name in image["references"] if name.startswith(beginning)]
        if names := [name for name in names if "@" not in name]:
            assert self.zonal("image", "rm", *names).returncode == 0
        self.zonal("image", "prune")

    def until_logged(self, zone: str, text: str) -> None:
        """Until a zone's workload has written this."""
        for _ in range(100):
            if text in self.zonal("logs", zone).stdout.decode():
                return
            time.sleep(0.3)
        raise AssertionError(self.zonal("logs", zone).stdout)

    def zonald(self) -> int:
        """Its process id."""
        return int(self.shell("systemctl show --property MainPID --value zonald"))

    def until_zonald_answers(self) -> None:
        """After it was killed: systemd starts it again."""
        self.shell(
            "for i in $(seq 600); do systemctl is-active --quiet zonald && exit 0; sleep 0.2; done; "
            "journalctl --no-pager -n 50 -u zonald >&2; exit 1"
        )

    def snapshot(self) -> Snapshot:
        """Taken when nothing is under way."""
        script = (
            "pid=$(systemctl show --property MainPID --value zonald); "
            "echo domains $(xenstore-list /local/domain); "
            "echo store $(xenstore-ls -f | sed 's/ = .*//' | grep -v '^/local/domain/0/memory'); "
            "echo loops $(losetup --noheadings --output BACK-FILE); "
            "echo folders $(ls /var/lib/zonal/zones); "
            "echo spool $(ls /var/lib/zonal/spool); "
            "echo descriptors $(ls /proc/$pid/fd | wc -l); "
            "echo threads $(ls /proc/$pid/task | wc -l); "
            "echo resident $(sed -n 's/^VmRSS:[^0-9]*\\([0-9]*\\).*/\\1/p' /proc/$pid/status)"
        )
        lines = [line.split() for line in self.shell(script).splitlines()]
        found = {words[0]: words[1:] for words in lines}
        info = json.loads(self.zonal("info", "--json").stdout)
        return Snapshot(
            domains=tuple(found["domains"]),
            store_keys=tuple(found["store"]),
            loops=tuple(found["loops"]),
            zone_folders=tuple(found["folders"]),
            spool=tuple(found["spool"]),
            descriptors=int(found["descriptors"][0]),
            threads=int(found["threads"][0]),
            resident_kib=int(found["resident"][0]),
            free_mib=int(info["free_bytes"]) >> 20,
        )


def assert_nothing_left(before: Snapshot, after: Snapshot, *, growth_kib: int = 8192) -> None:
    """What a zone made is gone again; ``growth_kib``: what caches of zonald may have taken meanwhile."""
    assert after.domains == before.domains
    left = sorted(set(after.store_keys) - set(before.store_keys))
    assert not left, "left in the store:\n" + "\n".join(left)
    # The system image stays attached for the next zone; no more than that, and only once.
    assert set(after.loops) - set(before.loops) <= {path for path in after.loops if "/system" in path}
    assert len(after.loops) <= len(before.loops) + 1
    assert after.zone_folders == before.zone_folders
    assert after.spool == before.spool
    assert after.descriptors <= before.descriptors + 2
    assert after.threads <= before.threads + 8
    assert after.resident_kib <= before.resident_kib + growth_kib
    assert after.free_mib >= before.free_mib - 4
