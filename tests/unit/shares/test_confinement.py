"""What the confined server can still do: in a child process, which is confined for good."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import os, socket, struct, sys
from tests.unit.shares.client import text
from tests.unit.shares.zone_end import ZoneEnd
from zonal.shares.confinement import confine
from zonal.shares.wire import NO_FID, Type

end = ZoneEnd(sys.argv[1])
confine()
assert os.listdir("/") == []
for call in (lambda: socket.socket(socket.AF_UNIX), os.fork, lambda: os.execv("/bin/true", ["true"])):
    try:
        call()
    except PermissionError:
        continue
    except FileNotFoundError:
        continue
    raise AssertionError(call)

number = struct.Struct("<I").pack
end.ask(Type.VERSION, number(1 << 20), text(b"9P2000.L"))
end.ask(Type.ATTACH, number(0), number(NO_FID), text(b""), text(b""), number(0))

def walk(fid, *names):
    end.ask(Type.WALK, struct.pack("<IIH", 0, fid, len(names)), *map(text, names))

walk(1, b"file")
end.ask(Type.LOPEN, number(1), number(os.O_RDWR))
assert end.ask(Type.WRITE, struct.pack("<IQI", 1, 0, 1000), b"x" * 1000) == number(1000)
assert end.ask(Type.READ, struct.pack("<IQI", 1, 0, 4000))[4:] == b"x" * 1000
end.ask(Type.FSYNC, number(1), number(0))
end.ask(Type.LOCK, number(1), struct.pack("<BIQQI", 1, 1, 0, 0, 42), text(b"zone"))
end.ask(Type.SETATTR, struct.pack("<IIIIIQQQQQ", 1, 0x1FF, 0o640, 7, 8, 500, 1, 2, 3, 4))
end.ask(Type.GETATTR, struct.pack("<IQ", 1, 0x7FF))
for fid, folder in ((2, b"sub"), (3, b"sub")):
    walk(fid, folder)
end.ask(Type.LOPEN, number(2), number(os.O_DIRECTORY))
end.ask(Type.READDIR, struct.pack("<IQI", 2, 0, 4000))
end.ask(Type.STATFS, number(0))
end.ask(Type.MKDIR, number(0), text(b"made"), struct.pack("<II", 0o755, 0))
end.ask(Type.SYMLINK, number(0), text(b"link"), text(b"target"), number(0))
end.ask(Type.MKNOD, number(0), text(b"pipe"), struct.pack("<IIII", 0o10644, 0, 0, 0))
walk(4, b"link")
assert end.ask(Type.READLINK, number(4)) == text(b"target")
end.ask(Type.LINK, number(0), number(1), text(b"again"))
end.ask(Type.RENAMEAT, number(0), text(b"again"), number(3), text(b"moved"))
end.ask(Type.UNLINKAT, number(3), text(b"moved"), number(0))
end.ask(Type.UNLINKAT, number(0), text(b"made"), number(0x200))
walk(5)
end.ask(Type.LCREATE, number(5), text(b"new"), struct.pack("<III", os.O_RDWR, 0o644, 0))
walk(6, b"file")
end.ask(Type.XATTRCREATE, number(6), text(b"user.a"), struct.pack("<QI", 1, 0))
end.ask(Type.WRITE, struct.pack("<IQI", 6, 0, 1), b"v")
end.ask(Type.CLUNK, number(6))
end.ask(Type.XATTRWALK, number(1), number(7), text(b"user.a"))
assert end.ask(Type.READ, struct.pack("<IQI", 7, 0, 10)) == number(1) + b"v"
end.session.close()
print("served")
"""


def test_all_requests_are_served_and_nothing_else_is_done(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert done.stdout == "served\n", done.stderr
    status = (tmp_path / "file").stat()
    assert (status.st_size, status.st_uid, status.st_gid) == (500, 7, 8)
