"""Event channels for a process that does nothing else than wait for them; the device was opened and bound by another.

Apart from ``zonal.xen.events``, since that lives in an event loop, which takes longer to import than all of this
server. Requests: ``linux/include/uapi/xen/evtchn.h``.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import struct

_RESET = 0 << 16 | ord("E") << 8 | 5
_NOTIFY = 4 << 16 | ord("E") << 8 | 4
_PORT = struct.Struct("=I")


class Ports:
    """Some ports of one domain."""

    def __init__(self, descriptor: int, numbers: list[int]) -> None:
        self.descriptor = descriptor
        self._numbers = numbers

    def fired(self) -> list[int]:
        """Which have fired since; they fire again only after :meth:`unmask`."""
        try:
            return array.array("I", os.read(self.descriptor, 4096)).tolist()
        except BlockingIOError:
            return []
        except OSError as error:
            if error.errno != errno.EFBIG:
                raise
            fcntl.ioctl(self.descriptor, _RESET)  # some are lost: everyone looks
            return self._numbers

    def unmask(self, port: int) -> None:
        """Lets it fire again."""
        os.write(self.descriptor, _PORT.pack(port))

    def notify(self, port: int) -> None:
        """Raises an event at the other end."""
        fcntl.ioctl(self.descriptor, _NOTIFY, _PORT.pack(port))

    def close(self) -> None:
        """Unbinds them all."""
        os.close(self.descriptor)
