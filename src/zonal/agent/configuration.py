"""What the host sets once in a zone: its name, kernel parameters, the loopback interface; and what it may ask."""

from __future__ import annotations

import _socket
import fcntl
import os

from zonal.agent.params import CallError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zonal.agent.protocol.cbor import Value

_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914  # linux/sockios.h
_IFF_UP = 1
_IFNAMSIZ = 16
_IFREQ_SIZE = 40
_MAX_HOSTNAME = 64
_KIB = 1024


def raise_loopback() -> None:
    """Brings "lo" up."""
    any_socket = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    try:
        request = bytearray(b"lo".ljust(_IFREQ_SIZE, b"\0"))  # struct ifreq: name, then short flags
        fcntl.ioctl(any_socket.fileno(), _SIOCGIFFLAGS, request)
        request[_IFNAMSIZ] |= _IFF_UP
        fcntl.ioctl(any_socket.fileno(), _SIOCSIFFLAGS, request)
    finally:
        any_socket.close()


def set_hostname(name: str) -> None:
    """Of the zone's own UTS namespace; raises ``CallError``."""
    if not 0 < len(name.encode()) <= _MAX_HOSTNAME:
        raise CallError("invalid", f"host name {name!r}: 1 to {_MAX_HOSTNAME} bytes")
    _socket.sethostname(name)


def set_sysctls(values: dict[str, Value]) -> None:
    """Kernel parameters by their sysctl(8) names; raises ``CallError``."""
    for name, value in values.items():
        parts = name.replace("/", ".").split(".")
        if not isinstance(value, str) or not all(parts) or ".." in name:
            raise CallError("invalid", f"sysctl {name!r}: a dotted name and a text are wanted")
        try:
            with open("/proc/sys/" + "/".join(parts), "w") as file:
                file.write(value)
        except OSError as error:
            raise CallError("invalid", f"sysctl {name}={value}: {error.strerror}") from error


def resident_bytes() -> int:
    """Of the agent itself."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def memory() -> tuple[int, int]:
    """Total and available bytes of the zone."""
    found: dict[str, int] = {}
    with open("/proc/meminfo") as file:
        for line in file:
            name, _, rest = line.partition(":")
            if name in ("MemTotal", "MemAvailable"):
                found[name] = int(rest.split()[0]) * _KIB
    return found["MemTotal"], found["MemAvailable"]
