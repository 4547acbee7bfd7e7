"""Serves one connection of the lab's host: ``python -m zonal.lab.share_server FOLDER``, with the connection as stdin.

It has its user's rights and no more. What a client attaches is the name of a file in FOLDER, which says what it is.
"""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from pathlib import Path

from zonal.shares.files import Opened, Share
from zonal.shares.session import Session
from zonal.shares.stream import serve

_MESSAGE_SIZE = 1 << 18
_NAME = re.compile(rb"[0-9a-f]{16}")


def main() -> None:
    """See the module."""
    folder = Path(sys.argv[1])
    os.umask(0)

    def find(name: bytes) -> Share:
        if not _NAME.fullmatch(name):
            raise OSError(errno.ENOENT, "nothing is published under this name")
        entry = json.loads((folder / name.decode()).read_text())
        root = os.open(entry["path"], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return Share(root, entry["read_only"], os.fsencode(entry["only"]) or None)

    with os.fdopen(0, "rb", buffering=1 << 19) as requests, os.fdopen(os.dup(0), "wb") as replies:
        serve(requests, replies, Session(find, Opened(), _MESSAGE_SIZE, keeps_owners=os.geteuid() == 0))


if __name__ == "__main__":
    main()
