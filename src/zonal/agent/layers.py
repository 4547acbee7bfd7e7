"""The writable layer of a container as a layer of an image: a tar with whiteouts.

OCI image specification, "Image Layer Filesystem Changeset". Written by hand, since busybox's tar knows neither extended
attributes nor whiteouts, and Python's is not in the zone. Headers are ustar, with PAX records for what does not fit.
"""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from zonal.agent.user_namespace import IdMaps

_BLOCK = 512
_CHUNK = 1 << 20
_NAME = 100
_OCTAL_7, _OCTAL_11 = 0o7777777, 0o77777777777
_OVERLAY = "trusted.overlay."
_KINDS = {
    stat.S_IFREG: b"0",
    stat.S_IFLNK: b"2",
    stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4",
    stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}


class _Status:
    """What matters of a file's status, with the ids as they are to be written."""

    def __init__(self, status: os.stat_result, ids: IdMaps | None) -> None:
        self.st_mode, self.st_size, self.st_rdev = status.st_mode, status.st_size, status.st_rdev
        self.st_ino, self.st_nlink, self.st_mtime_ns = status.st_ino, status.st_nlink, status.st_mtime_ns
        owner = (status.st_uid, status.st_gid)
        self.st_uid, self.st_gid = ids.own(*owner) if ids else owner


def write_layer(upper: str, skip: Collection[str], write: Callable[[bytes], None], ids: IdMaps | None = None) -> None:
    """Writes all that is in ``upper``, an overlay's upper directory; sockets, and the paths in ``skip``, are left out.

    What is below a skipped directory is not. ``ids`` are those of the container that has written it, if it has any.
    Raises ``OSError``.
    """
    links: dict[int, bytes] = {}
    waiting = ["/"]
    while waiting:
        folder = waiting.pop()
        below: list[str] = []
        for name in sorted(os.listdir(upper + folder)):
            path = os.path.join(folder, name)
            status = _Status(os.lstat(upper + path), ids)
            if stat.S_ISDIR(status.st_mode):
                below.append(path)
            if path not in skip and not stat.S_ISSOCK(status.st_mode):
                _write_member(upper, path, status, links, write)
        waiting.extend(reversed(below))
    write(bytes(2 * _BLOCK))


def _write_member(
    upper: str, path: str, status: _Status, links: dict[int, bytes], write: Callable[[bytes], None]
) -> None:
    name, mode = os.fsencode(path).lstrip(b"/"), status.st_mode
    if stat.S_ISCHR(mode) and status.st_rdev == 0:
        folder, _, base = name.rpartition(b"/")
        write(_header(folder + b"/.wh." + base if folder else b".wh." + base, b"0", status, size=0))
        return
    if status.st_nlink > 1 and not stat.S_ISDIR(mode):
        first = links.setdefault(status.st_ino, name)
        if first != name:
            write(_header(name, b"1", status, link=first))
            return
    link = os.fsencode(os.readlink(upper + path)) if stat.S_ISLNK(mode) else b""
    size = status.st_size if stat.S_ISREG(mode) else 0
    slash = b"/" if stat.S_ISDIR(mode) else b""
    opaque, attributes = _attributes(upper + path)
    write(_header(name + slash, _KINDS[stat.S_IFMT(mode)], status, size=size, link=link, attributes=attributes))
    if opaque:
        write(_header(name + b"/.wh..wh..opq", b"0", status))
    if size:
        _write_contents(upper + path, size, write)


def _write_contents(path: str, size: int, write: Callable[[bytes], None]) -> None:
    """Exactly ``size`` bytes, also of a file that changes meanwhile."""
    left = size
    with open(path, "rb", buffering=0) as file:
        while left:
            data = file.read(min(left, _CHUNK)) or bytes(min(left, _CHUNK))
            write(data)
            left -= len(data)
    write(bytes(-size % _BLOCK))


def _attributes(path: str) -> tuple[bool, list[tuple[bytes, bytes]]]:
    """Whether a directory hides what is below it, and the extended attributes that are the container's."""
    opaque = False
    found: list[tuple[bytes, bytes]] = []
    for name in os.listxattr(path, follow_symlinks=False):
        try:
            value = os.getxattr(path, name, follow_symlinks=False)
        except OSError:
            continue  # it is gone
        if name.startswith(_OVERLAY):
            opaque = opaque or (name == _OVERLAY + "opaque" and value == b"y")
        else:
            found.append((os.fsencode(name), value))
    return opaque, found


def _header(
    name: bytes,
    kind: bytes,
    status: _Status,
    *,
    size: int = 0,
    link: bytes = b"",
    attributes: Iterable[tuple[bytes, bytes]] = (),
) -> bytes:
    seconds, nanoseconds = divmod(status.st_mtime_ns, 1_000_000_000)
    pax = [(b"SCHILY.xattr." + key, value) for key, value in attributes]
    if len(name) > _NAME:
        pax.append((b"path", name))
    if len(link) > _NAME:
        pax.append((b"linkpath", link))
    if nanoseconds or not 0 <= seconds <= _OCTAL_11:
        pax.append((b"mtime", b"%d.%09d" % (seconds, nanoseconds)))
    for key, value, most in (
        (b"uid", status.st_uid, _OCTAL_7),
        (b"gid", status.st_gid, _OCTAL_7),
        (b"size", size, _OCTAL_11),
    ):
        if value > most:
            pax.append((key, b"%d" % value))
    device = status.st_rdev if kind in (b"3", b"4") else 0
    block = _block(name, kind, status, size, link, device)
    if not pax:
        return block
    records = b"".join(_record(key, value) for key, value in pax)
    extension = _block(b"PaxHeaders/0", b"x", status, len(records), b"", 0)
    return extension + records + bytes(-len(records) % _BLOCK) + block


def _block(name: bytes, kind: bytes, status: _Status, size: int, link: bytes, device: int) -> bytes:
    seconds = min(max(status.st_mtime_ns // 1_000_000_000, 0), _OCTAL_11)
    block = b"".join(
        (
            name[:_NAME].ljust(_NAME, b"\0"),
            b"%07o\0" % stat.S_IMODE(status.st_mode),
            b"%07o\0" % min(status.st_uid, _OCTAL_7),
            b"%07o\0" % min(status.st_gid, _OCTAL_7),
            b"%011o\0" % min(size, _OCTAL_11),
            b"%011o\0" % seconds,
            b" " * 8,
            kind,
            link[:_NAME].ljust(_NAME, b"\0"),
            b"ustar\x0000",
            bytes(64),
            b"%07o\0" % os.major(device),
            b"%07o\0" % os.minor(device),
        )
    ).ljust(_BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _record(key: bytes, value: bytes) -> bytes:
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) != len(str(rest)):
        length += 1
    return b"%d %s=%s\n" % (length, key, value)
