"""What the host itself does with a device: a disk that is mounted, an interface that carries its traffic."""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from zonal.xen.pci.functions import SYSFS, PciFunction

_SIOCGIFADDR = 0x8915  # linux/sockios.h
_IFNAMSIZ = 16
_IFF_UP = 1
_LINK_LOCAL = "20"
"""Scope of an address in /proc/net/if_inet6 that every interface has."""


def ipv4_of(interface: str) -> str:
    """An interface's first IPv4 address; empty for none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = struct.pack(f"{_IFNAMSIZ}s24x", interface.encode()[: _IFNAMSIZ - 1])
        try:
            answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
        except OSError:
            return ""
    return socket.inet_ntoa(answer[20:24])


@dataclass(frozen=True)
class HostUsage:
    """Looks into the host; the folders are others in tests."""

    sysfs: Path = SYSFS
    proc: Path = Path("/proc")
    ipv4: Callable[[str], str] = ipv4_of

    def of(self, function: PciFunction) -> str:
        """Why the host cannot do without it, in words that go on after "it "; empty when it can."""
        return self._of_disks(function) or self._of_interfaces(function)

    def _of_disks(self, function: PciFunction) -> str:
        mounts, swaps = self._mounts(), self._swaps()
        for path in self._below("class/block", function):
            number = _text(path / "dev")
            if number in mounts:
                return f"has the disk {path.name}, which is mounted on {mounts[number]}"
            if path.name in swaps:
                return f"has the disk {path.name}, which the host swaps to"
            holders = path / "holders"
            users = sorted(each.name for each in holders.iterdir()) if holders.is_dir() else []
            if users:
                return f"has the disk {path.name}, which {users[0]} is made of"
        return ""

    def _of_interfaces(self, function: PciFunction) -> str:
        default = self._default_routes()
        for path in self._below("class/net", function):
            name = path.name
            master = (path / "master").resolve().name if (path / "master").exists() else ""
            for interface in filter(None, (name, master)):
                by = name if interface == name else f"{name} (a part of {interface})"
                if interface in default:
                    return f"has the interface {by}, over which the host's default route goes"
                if not int(_text(self.sysfs / "class/net" / interface / "flags") or "0", 16) & _IFF_UP:
                    continue
                if address := self.ipv4(interface) or self._ipv6(interface):
                    return f"has the interface {by} with the host's address {address}"
        return ""

    def _below(self, folder: str, function: PciFunction) -> Iterator[Path]:
        place = self.sysfs / folder
        for each in sorted(place.iterdir()) if place.is_dir() else ():
            path = each.resolve()
            if function.path in path.parents:
                yield path

    def _mounts(self) -> dict[str, str]:
        """Where each device is mounted, by its numbers (proc_pid_mountinfo(5))."""
        found: dict[str, str] = {}
        for line in _text(self.proc / "self/mountinfo").splitlines():
            words = line.split()
            if len(words) > 4:
                found.setdefault(words[2], words[4])
        return found

    def _swaps(self) -> set[str]:
        lines = _text(self.proc / "swaps").splitlines()[1:]
        return {line.split()[0].rpartition("/")[2] for line in lines if line.split()}

    def _default_routes(self) -> set[str]:
        found: set[str] = set()
        for line in _text(self.proc / "net/route").splitlines()[1:]:
            words = line.split()
            if len(words) > 7 and words[1] == words[7] == "00000000":
                found.add(words[0])
        for line in _text(self.proc / "net/ipv6_route").splitlines():
            words = line.split()
            if len(words) == 10 and words[0] == "0" * 32 and words[1] == "00" and words[9] != "lo":
                found.add(words[9])
        return found

    def _ipv6(self, interface: str) -> str:
        for line in _text(self.proc / "net/if_inet6").splitlines():
            words = line.split()
            if len(words) == 6 and words[5] == interface and words[3] != _LINK_LOCAL:
                return socket.inet_ntop(socket.AF_INET6, bytes.fromhex(words[0]))
        return ""


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
