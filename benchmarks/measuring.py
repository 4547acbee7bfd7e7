"""What the programs have in common that measure inside the lab's host.

Standard library only, since it is sent there with them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

Samples = dict[str, dict[str, list[float]]]
"""For each thing that is measured, and each of those that are compared: ``zonal`` and another."""
SIDES = ("zonal", "docker")


def note(samples: Samples, key: str, who: str, value: float) -> None:
    """Keeps and shows a sample."""
    samples.setdefault(key, {}).setdefault(who, []).append(value)
    print(f"{key}, {who}: {value:.3f}", file=sys.stderr, flush=True)


def timed(command: Sequence[str]) -> float:
    """Seconds."""
    begin = time.monotonic()
    run(command)
    return time.monotonic() - begin


def output(command: Sequence[str]) -> str:
    """Of a command that must succeed."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def run(command: Sequence[str]) -> None:
    """A command that must succeed; what it says goes to standard error."""
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)


def import_debian(image: str, work: Path, programs: Sequence[str], files: Sequence[str] = ()) -> None:
    """An image for both: Debian with ``programs`` of the host, the libraries that they need, and ``files``."""
    tar = work / "image.tar"
    inside = ["tar", "-C", "/", "--one-file-system", "-c", "."]
    with tar.open("wb") as file:
        command = ["zonal", "run", "--rm", "--network", "none", "debian:13", *inside]
        subprocess.run(command, stdout=file, check=True)
    # By a folder, since Docker takes no tar that has a name twice.
    root = work / "root"
    root.mkdir()
    run(["tar", "-C", str(root), "-xf", str(tar)])
    names = {name.lstrip("/") for name in (*files, *programs, *libraries(programs))}
    if names:
        copies = subprocess.run(["tar", "-C", "/", "-c", *sorted(names)], stdout=subprocess.PIPE, check=True)
        subprocess.run(["tar", "-C", str(root), "-x"], input=copies.stdout, check=True)
    run(["tar", "-C", str(root), "-cf", str(tar), "."])
    shutil.rmtree(root)
    run(["zonal", "image", "import", str(tar), image])
    run(["docker", "import", str(tar), image])
    tar.unlink()


def libraries(programs: Sequence[str]) -> set[str]:
    """What programs of the host need, each by its name, and the file that it leads to."""
    if not programs:
        return set()
    words = [word for word in output(["ldd", *programs]).split() if word.startswith("/")]
    # /lib is a link to /usr/lib; each library by its name, and the file that it leads to.
    paths = {Path("/usr", word[1:]) if word.startswith("/lib") else Path(word) for word in words}
    found = {path for path in paths if path.is_file()}
    return {str(path) for path in found} | {str(path.resolve()) for path in found}
