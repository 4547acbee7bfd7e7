"""Whether the image store in the lab's host is whole: catalogue and files agree, and every file is what its name says.

Sent to the host as a program, with nothing of Zonal in it.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.lab.driver import Host

_ROOT = Path("/var/lib/zonal/images")


@dataclass(frozen=True)
class StoreState:
    """What is in a store that is whole."""

    names: frozenset[str]
    unneeded: frozenset[str]
    """Blobs that no image has, by their file names."""


def checked(host: Host) -> StoreState:
    """Looks at everything, when nothing is under way; an assertion fails with all that is wrong."""
    done = host.zonal("lab", "shell", "--name", host.lab, "--", "python3 -", stdin=Path(__file__).read_bytes())
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    found: dict[str, list[str]] = json.loads(done.stdout)
    assert not found["wrong"]
    return StoreState(frozenset(found["names"]), frozenset(found["unneeded"]))


def _examine() -> dict[str, list[str]]:
    wrong: list[str] = []
    database = sqlite3.connect(f"file:{_ROOT}/catalogue.sqlite?mode=ro", uri=True)
    wrong += [str(row) for row in database.execute("PRAGMA integrity_check") if row != ("ok",)]
    filesystems = dict(database.execute("SELECT chain_id, size FROM filesystem"))
    files = {f"sha256:{path.stem}": path for path in (_ROOT / "erofs").iterdir()}
    wrong += [f"erofs {name} without its other half" for name in filesystems.keys() ^ files.keys()]
    for chain_id in filesystems.keys() & files.keys():
        if files[chain_id].stat().st_size != filesystems[chain_id]:
            wrong.append(f"erofs {chain_id} is not as long as it should be")
        elif subprocess.run(["fsck.erofs", files[chain_id]], capture_output=True, check=False).returncode:
            wrong.append(f"erofs {chain_id} is damaged")
    blobs = {f"sha256:{path.name}": path for path in (_ROOT / "blobs/sha256").iterdir()}
    for name, path in blobs.items():
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != path.name:
                wrong.append(f"blob {name} is damaged")
    needed: set[str] = set()
    for image_id, chain_id, manifest in database.execute("SELECT id, chain_id, manifest FROM image"):
        document: dict[str, Any] = json.loads(blobs[manifest].read_bytes()) if manifest in blobs else {"layers": []}
        mine = {image_id, manifest, *(layer["digest"] for layer in document["layers"])}
        wrong += [f"image {image_id} lacks {digest}" for digest in mine - blobs.keys()]
        if chain_id not in filesystems:
            wrong.append(f"image {image_id} lacks its erofs")
        needed |= mine
    wrong += [f"left: {path}" for path in (_ROOT / "tmp").iterdir()]
    names = [name for (name,) in database.execute("SELECT name FROM reference")]
    return {"wrong": wrong, "names": names, "unneeded": sorted(blobs.keys() - needed)}


if __name__ == "__main__":
    print(json.dumps(_examine()))
