"""Layers made as container engines make them: programs run in a chroot of an overlay, whose upper folder is the layer.

Run as a program, as root in a mount namespace of its own: it reads a JSON request, and prints where the layers' tars
are.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import IO, Any

from zonal.agent.layers import write_layer

_BORROWED = ("/etc/resolv.conf", "/etc/hosts")
"""This machine's, while packages are fetched; they are mounted over the image's, and so in no layer."""
_QUIET = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}


def build(base: Path, steps: Sequence[str], lists: Path, folder: Path) -> list[Path]:
    """Runs each step's shell script in an image of the steps before it; the uncompressed tars of their layers.

    Args:
        base: the tar of a root filesystem.
        steps: scripts for sh; the first that fails ends it.
        lists: where apt's lists and packages are kept, shared by all images of this base.
        folder: to work in; empty.
    """
    request = {"base": str(base), "steps": list(steps), "lists": str(lists), "folder": str(folder)}
    command = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", sys.executable, "-m", __name__]
    done = subprocess.run(command, input=json.dumps(request).encode(), stdout=subprocess.PIPE, check=True)
    return [Path(line) for line in done.stdout.decode().splitlines()]


def main() -> None:
    """Answers one request."""
    request: dict[str, Any] = json.load(sys.stdin)
    folder, lists = Path(request["folder"]), Path(request["lists"])
    lower = [folder / "base"]
    lower[0].mkdir()
    (lower[0] / "dev").mkdir()  # the image has none, since a zone mounts its own
    subprocess.run(["tar", "-x", "-p", "--numeric-owner", "-C", lower[0], "-f", request["base"]], check=True)
    for part in ("lists", "archives"):
        (lists / part).mkdir(parents=True, exist_ok=True)
    if not (lists / "updated").exists():
        # Whatever else this changes is in no image.
        with _overlay(lower, folder / "update", lists) as root:
            _in_chroot(root, "apt-get update -q -o APT::Sandbox::User=root")
        (lists / "updated").touch()
    for number, step in enumerate(request["steps"]):
        upper = folder / f"layer{number}"
        with _overlay(lower, upper, lists) as root:
            _in_chroot(root, step)
        lower.insert(0, upper)
        target = folder / f"layer{number}.tar"
        with target.open("wb") as file:
            _write_layer(upper, file)
        print(target, flush=True)


@contextlib.contextmanager
def _overlay(lower: Sequence[Path], upper: Path, lists: Path) -> Generator[Path]:
    root, work = upper.with_name(f"{upper.name}-root"), upper.with_name(f"{upper.name}-work")
    for folder in (root, work, upper):
        folder.mkdir()
    below = ":".join(map(str, lower))
    options = f"lowerdir={below},upperdir={upper},workdir={work},redirect_dir=off,index=off,metacopy=off"
    with contextlib.ExitStack() as stack:

        def mount(*arguments: str | Path) -> None:
            subprocess.run(["mount", *arguments], check=True)
            stack.callback(subprocess.run, ["umount", arguments[-1]], check=True)

        mount("-t", "overlay", "overlay", "-o", options, root)
        mount("-t", "proc", "proc", root / "proc")
        mount("-t", "tmpfs", "tmpfs", root / "dev")
        (root / "dev/fd").symlink_to("/proc/self/fd")
        for name in ("null", "zero", "random", "urandom"):
            (root / "dev" / name).touch()
            mount("--bind", f"/dev/{name}", root / "dev" / name)
        mount("--bind", lists / "lists", root / "var/lib/apt/lists")
        mount("--bind", lists / "archives", root / "var/cache/apt/archives")
        for path in _BORROWED:
            mount("--bind", path, root / path[1:])
        yield root


def _write_layer(upper: Path, file: IO[bytes]) -> None:
    def write(data: bytes) -> None:
        file.write(data)

    write_layer(str(upper), (), write)


def _in_chroot(root: Path, script: str) -> None:
    command = ["chroot", root, "/bin/sh", "-euc", script]
    subprocess.run(command, check=True, env=_QUIET, stdin=subprocess.DEVNULL, stdout=sys.stderr)


if __name__ == "__main__":
    main()
