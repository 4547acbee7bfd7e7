"""An echoing server on Xen's own libxenvchan, as a program: what this project's client must get on with.

Usage: ``vchan_server.py STORE_PATH LEFT_BYTES RIGHT_BYTES``. Says ``ready`` once it can be connected to, and ends
when the client has left.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path


def main() -> None:
    path, left, right = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    library = ctypes.CDLL(str(next(Path("/usr/lib/x86_64-linux-gnu").glob("libxenvchan.so.*"))))
    library.libxenvchan_server_init.restype = ctypes.c_void_p
    library.libxenvchan_server_init.argtypes = [
        ctypes.c_void_p,
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_size_t,
    ]
    for name in ("read", "write"):
        function = getattr(library, f"libxenvchan_{name}")
        function.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
    library.libxenvchan_close.argtypes = [ctypes.c_void_p]
    server = library.libxenvchan_server_init(None, 0, path.encode(), left, right)
    if not server:
        sys.exit("libxenvchan_server_init failed")
    # struct libxenvchan of libxenvchan.h: three pointers, the port, then flags, of which bit 2 is "blocking".
    flags = ctypes.c_uint32.from_address(server + 28)
    flags.value |= 4
    print("ready", flush=True)
    buffer = ctypes.create_string_buffer(65536)
    while True:
        count = library.libxenvchan_read(server, buffer, len(buffer))
        if count <= 0:
            break
        library.libxenvchan_write(server, buffer.raw[:count], count)
    library.libxenvchan_close(server)
    print("done", flush=True)


main()
