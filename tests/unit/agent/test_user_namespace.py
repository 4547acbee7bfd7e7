"""Mapped ids, in this machine's own kernel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from zonal.agent.params import CallError
from zonal.agent.user_namespace import read_maps

if TYPE_CHECKING:
    from zonal.agent.protocol.cbor import Value

# In a process of its own, which may mount what it likes.
SCRIPT = """
import os, sys
from zonal.agent.mounts import mount
from zonal.agent.syscalls import MS_PRIVATE, MS_REC
from zonal.agent.user_namespace import IdMaps
place = sys.argv[1]
ids = IdMaps([(0, 100000, 1000), (1000, 5000, 10)], [(0, 200000, 1000)])
mount("none", "/", "", MS_REC | MS_PRIVATE)
mount("tmpfs", place, "tmpfs")
os.mkdir(place + "/below")
mount("tmpfs", place + "/below", "tmpfs")
for name, owner in (("root", (0, 0)), ("user", (7, 8)), ("other", (1003, 0)), ("nobody", (4000, 4000))):
    open(place + "/below/" + name, "w").close()
    os.chown(place + "/below/" + name, *owner)
ids.map_mount(place + "/below")
for name in ("root", "user", "other", "nobody"):
    status = os.stat(place + "/below/" + name)
    print(name, status.st_uid, status.st_gid)
print(*ids.owner(7, 8), *ids.own(100007, 200008), *ids.own(4000, 4000))
ids.close()
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount")
def test_files_are_shown_with_the_zones_ids(tmp_path: Path) -> None:
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    nobody = Path("/proc/sys/kernel/overflowuid").read_text().strip()
    assert done.stdout.splitlines() == [
        "root 100000 200000",
        "user 100007 200008",
        "other 5003 200000",
        f"nobody {nobody} {nobody}",
        "100007 200008 7 8 4000 4000",
    ]


def test_maps_are_arrays_of_three_numbers() -> None:
    assert read_maps([[0, 1, 2]], "uids") == [(0, 1, 2)]
    wrong: list[list[Value]] = [[[0, 1]], ["x"], [[0, 1, "x"]], [[-1, 0, 1]], [[0, 1, 2]] * 341]
    for each in wrong:
        with pytest.raises(CallError):
            read_maps(each, "uids")
