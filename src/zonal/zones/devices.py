"""Character devices that a zone has of its own kernel, which a container is given by name: /dev/fuse, /dev/net/tun …

Nothing of the host is in them. Some are there only once a module of the kernel is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

MODULES: Final = {
    "/dev/autofs": "autofs4",
    "/dev/cuse": "cuse",
    "/dev/fuse": "fuse",
    "/dev/loop-control": "loop",
    "/dev/mapper/control": "dm_mod",
    "/dev/net/tun": "tun",
    "/dev/ppp": "ppp_generic",
    "/dev/uhid": "uhid",
    "/dev/uinput": "uinput",
    "/dev/vhost-net": "vhost_net",
    "/dev/vsock": "vsock",
}
"""What makes each."""


def is_zone_device(path: str) -> bool:
    """Whether a device is meant to be the zone's own: it is known as such, or a character device in the host.

    A container that is given /dev/kmsg gets its zone's. Whether the zone has it, only the zone can say.
    """
    if path in MODULES:
        return True
    return path.startswith("/dev/") and "\0" not in path and Path(path).is_char_device()
