"""Layers made by the kernel's overlayfs, as container engines make them, and the tree that it shows of their stack.

Run as a program in a mount namespace of its own: it reads one JSON request a line, and answers each with one.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import IO, Any

Operation = list[Any]
Tree = dict[str, Any]

_OPTIONS = "nodev,nosuid,noexec,redirect_dir=off,index=off,metacopy=off,xino=off"
"""With nodev, so that no device node made here can ever be opened."""


class Overlays:
    """The program, from the outside. A context manager."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            ["unshare", "--mount", "--propagation=private", sys.executable, "-m", __name__, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Overlays:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()
        assert self._process.returncode == 0

    def stack(self, layers: list[list[Operation]]) -> tuple[list[Path], Tree]:
        """Does each list of operations in an overlay of what the ones before it left; the layers' tars, the lowest
        first, and the tree at the end."""
        tars, tree = self._ask({"layers": layers})
        return [Path(each) for each in tars], tree

    def extract(self, archive: Path) -> Tree:
        """What GNU tar makes of an archive."""
        return self._ask({"archive": str(archive)})

    def _ask(self, request: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def main() -> None:
    """Answers requests until there are no more."""
    root = Path(sys.argv[1])
    for line in sys.stdin:
        request = json.loads(line)
        if "archive" in request:
            answer: Any = _extracted(root / "extracted", request["archive"])
        else:
            shutil.rmtree(root / "stack", ignore_errors=True)
            answer = _stacked(root / "stack", request["layers"])
        print(json.dumps(answer), flush=True)


def _stacked(root: Path, layers: Iterable[list[Operation]]) -> tuple[list[str], Tree]:
    empty = root / "empty"
    empty.mkdir(parents=True)
    uppers: list[Path] = []
    tars: list[str] = []
    for number, operations in enumerate(layers):
        upper, work = root / f"upper{number}", root / f"work{number}"
        upper.mkdir()
        work.mkdir()
        lower = ":".join(map(str, [*reversed(uppers), empty]))
        with _mounted(root / "merged", f"lowerdir={lower},upperdir={upper},workdir={work},{_OPTIONS}") as merged:
            _work_in(merged, operations)
        uppers.append(upper)
        tars.append(str(root / f"layer{number}.tar"))
        _pack(upper, tars[-1])
    lower = ":".join(map(str, [*reversed(uppers), empty]))
    with _mounted(root / "merged", f"lowerdir={lower},{_OPTIONS}") as merged:
        return tars, _read(merged)


@contextlib.contextmanager
def _mounted(target: Path, options: str) -> Generator[Path]:
    target.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, target], check=True)
    try:
        yield target
    finally:
        subprocess.run(["umount", target], check=True)


def _work_in(root: Path, operations: list[Operation]) -> None:
    child = os.fork()
    if child == 0:
        # Links may lead anywhere: they are followed with the layer as the root.
        status = 1
        try:
            os.chroot(root)
            os.chdir("/")
            os.umask(0)
            for operation in operations:
                # An operation that cannot be done here, such as one below a file, is none.
                with contextlib.suppress(OSError):
                    _DO[operation[0]](*operation[1:])
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def _create(path: str) -> IO[bytes]:
    # A FIFO that nobody reads must fail to open, and not wait.
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o644), "wb")


def _write(path: str, text: str, times: int) -> None:
    with _create(path) as file:
        file.write(text.encode() * times)


def _sparse(path: str, pieces: list[int]) -> None:
    with _create(path) as file:
        for piece in pieces:
            file.seek(piece * 65536)
            file.write(b"piece")
        file.truncate(400_000)


def _remove(path: str) -> None:
    if Path(path).is_dir() and not Path(path).is_symlink():
        shutil.rmtree(path)
    else:
        Path(path).unlink()


def _anew(path: str) -> None:
    """A folder in the place of another is opaque: nothing that was in that shows."""
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        raise NotADirectoryError(path)  # rmtree would open it to see, and with a FIFO wait for ever
    shutil.rmtree(path)
    Path(path).mkdir()


def _node(path: str, kind: str, number: int) -> None:
    mode = {"c": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}[kind]
    os.mknod(path, mode | 0o640, os.makedev(number, number + 1))


def _link(old: str, new: str) -> None:
    os.link(old, new, follow_symlinks=False)


def _attribute(path: str, name: str, value: str) -> None:
    os.setxattr(path, name, bytes.fromhex(value), follow_symlinks=False)


def _time(path: str, when: int) -> None:
    os.utime(path, ns=(when, when), follow_symlinks=False)


_DO: dict[str, Any] = {
    "write": _write,
    "sparse": _sparse,
    "folder": os.mkdir,
    "anew": _anew,
    "remove": _remove,
    "rename": os.rename,
    "link": _link,
    "symlink": os.symlink,
    "node": _node,
    "mode": os.chmod,
    "owner": os.lchown,
    "attribute": _attribute,
    "time": _time,
}


def _walk(root: Path) -> Generator[str]:
    """Paths below a folder, each folder before what is in it; the root is '.'."""
    for base, folders, files in os.walk(root):
        relative = os.path.relpath(base, root)
        yield relative
        for name in [*files, *(name for name in folders if Path(base, name).is_symlink())]:
            yield os.path.normpath(f"{relative}/{name}")


def _pack(upper: Path, target: str) -> None:
    """A layer as OCI has it, of the upper folder of an overlay: whiteouts renamed, opaque folders marked."""
    first: dict[int, str] = {}
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in _walk(upper):
            path = upper / name
            status = path.lstat()
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                parent, base = os.path.split(name)
                archive.addfile(tarfile.TarInfo(str(Path(parent, f".wh.{base}"))))
                continue
            info = archive.gettarinfo(path, name)
            archive.inodes = {}  # pyright: ignore[reportAttributeAccessIssue]
            info.pax_headers = {
                "mtime": f"{status.st_mtime_ns // 10**9}.{status.st_mtime_ns % 10**9:09}",
                **{f"SCHILY.xattr.{key}": value.decode("utf-8", "surrogateescape") for key, value in _attributes(path)},
            }
            if not info.isdir() and status.st_ino in first:
                info.type, info.linkname, info.size = tarfile.LNKTYPE, first[status.st_ino], 0
                info.pax_headers = {}
                archive.addfile(info)
                continue
            first[status.st_ino] = name
            if info.isreg():
                _add_file(archive, info, path)
                continue
            archive.addfile(info)
            if info.isdir() and dict(_attributes(path, hidden=True)).get("trusted.overlay.opaque") == b"y":
                archive.addfile(tarfile.TarInfo(str(Path(name, ".wh..wh..opq"))))


def _add_file(archive: tarfile.TarFile, info: tarfile.TarInfo, path: Path) -> None:
    """Sparse files in GNU's PAX format 0.1."""
    data = path.read_bytes()
    pieces: list[tuple[int, int]] = []
    if path.stat().st_blocks * 512 < len(data):
        with path.open("rb") as file:
            end = 0
            with contextlib.suppress(OSError):  # ENXIO: there is nothing more
                while end < len(data):
                    begin = os.lseek(file.fileno(), end, os.SEEK_DATA)
                    end = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
                    pieces.append((begin, end - begin))
        listed = [*pieces, (len(data), 0)]
        info.pax_headers = {
            **info.pax_headers,
            "GNU.sparse.map": ",".join(f"{begin},{size}" for begin, size in listed),
            "GNU.sparse.size": str(len(data)),
            "GNU.sparse.numblocks": str(len(listed)),
            "GNU.sparse.name": info.name,
        }
        data = b"".join(data[begin : begin + size] for begin, size in pieces)
    info.type, info.linkname, info.size = tarfile.REGTYPE, "", len(data)
    archive.addfile(info, io.BytesIO(data))


def _attributes(path: Path, *, hidden: bool = False) -> Generator[tuple[str, bytes]]:
    for name in sorted(os.listxattr(path, follow_symlinks=False)):
        if name.startswith("trusted.overlay.") == hidden:
            yield name, os.getxattr(path, name, follow_symlinks=False)


def _extracted(target: Path, archive: str) -> Tree:
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    command = ["tar", "--extract", "--same-permissions", "--numeric-owner", "--xattrs", "--xattrs-include=*"]
    subprocess.run([*command, "--delay-directory-restore", "--directory", target, "--file", archive], check=True)
    return _read(target)


def _read(root: Path) -> Tree:
    """Path → all that there is to know, with the first name of the file that it is one more name of."""
    found: Tree = {}
    first: dict[int, str] = {}
    for name in sorted(_walk(root)):
        path = root / name
        status = path.lstat()
        what: Any = None
        if stat.S_ISREG(status.st_mode):
            what = hashlib.sha256(path.read_bytes()).hexdigest()
        elif stat.S_ISLNK(status.st_mode):
            what = str(path.readlink())
        elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            what = status.st_rdev
        same = name if stat.S_ISDIR(status.st_mode) else first.setdefault(status.st_ino, name)
        found[name] = {
            "mode": oct(status.st_mode),
            "owner": [status.st_uid, status.st_gid],
            "size": None if stat.S_ISDIR(status.st_mode) else status.st_size,
            "time": status.st_mtime_ns,
            "attributes": {key: value.hex() for key, value in _attributes(path)},
            "what": what,
            "same": same,
        }
    return found


if __name__ == "__main__":
    main()
