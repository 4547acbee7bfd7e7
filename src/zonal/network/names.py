"""Which names are known on which network, told to the process that answers for them (``zonal.network.resolver``).

There is one such process for all networks. It watches a folder, to which alone it is confined, and it outlives zonald,
as zones do. A name server of our own, and not dnsmasq, since dnsmasq knows one set of names a process, forgets names
only when it is told to read all of them again, and cannot tell one network's zones from another's.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from zonal.network.dns import LOCK, SUFFIX, UPSTREAM

log = logging.getLogger(__name__)

_RESOLV_CONF = Path("/etc/resolv.conf")
_MAX_SERVERS = 3
"""resolv.conf(5): MAXNS"""


@dataclass(frozen=True)
class NetworkNames:
    """What a network's zones may ask: where, and which names have which addresses."""

    listen: tuple[str, ...]
    subnets: tuple[str, ...]
    zones: Mapping[str, list[str]]
    forward: bool
    """Whether other names are asked for outside."""


class Names:
    """See the module. ``folder`` is made."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._told: Mapping[str, NetworkNames] = {}

    def tell(self, networks: Mapping[str, NetworkNames]) -> None:
        """All networks with zones on them, as they are from now on."""
        if networks == self._told and (self._is_running() or not networks):
            return
        for name, names in networks.items():
            if self._told.get(name) != names:
                self._replace(name + SUFFIX, json.dumps(asdict(names)))
        for path in self._folder.glob(f"*{SUFFIX}"):
            if path.name.removesuffix(SUFFIX) not in networks:
                path.unlink(missing_ok=True)
        self._told = dict(networks)
        self._replace(UPSTREAM, "\n".join(upstream_servers()))
        if networks and not self._is_running():
            self._start()

    def restart(self) -> None:
        """Ends the process that another zonald has started; the next ``tell`` starts it anew."""
        self._told = {}
        self._is_running(end=True)

    def _start(self) -> None:
        if self._process is not None:
            self._process.poll()
        command = [sys.executable, "-m", "zonal.network.resolver", str(self._folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    def _is_running(self, *, end: bool = False) -> bool:
        """Whether it runs, or did until it was ended now."""
        if self._process is not None and self._process.poll() is None:
            if end:
                self._process.terminate()
                self._process.wait()
            return True
        try:
            with (self._folder / LOCK).open() as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return False  # nobody holds it
                except BlockingIOError:
                    if end:
                        # While the lock is held the number is its holder's; the lock goes with the process.
                        os.kill(int(lock.read()), signal.SIGTERM)
                        fcntl.flock(lock, fcntl.LOCK_EX)
                    return True
        except (OSError, ValueError):
            return False

    def _replace(self, name: str, text: str) -> None:
        new = self._folder / f"{name}.new"
        new.write_text(text)
        new.replace(self._folder / name)


def upstream_servers() -> list[str]:
    """The name servers that the host itself asks (resolv.conf(5))."""
    found: list[str] = []
    with suppress(OSError):
        for line in _RESOLV_CONF.read_text(errors="replace").splitlines():
            words = line.split()
            if len(words) >= 2 and words[0] == "nameserver" and "%" not in words[1]:
                found.append(words[1])
    return found[:_MAX_SERVERS]
