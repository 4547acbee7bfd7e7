"""Unpacks a tar that nobody vouches for: nothing is written outside of the one folder, whatever its members say.

Every path is walked from the folder's descriptor, and no symbolic link on the way is followed. Device nodes are left
out.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

from zonal.errors import InvalidInputError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PIECE = 1 << 18
MAX_EXTENSION = 1 << 20
"""Bytes of a header's extension: a long name, or PAX records."""
_EXTENSIONS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)


class _Header(tarfile.TarInfo):
    """Refuses what tarfile would read into memory whole, however large it says that it is."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        header = super().frombuf(buf, encoding, errors)
        if header.type in _EXTENSIONS and header.size > MAX_EXTENSION:
            raise InvalidInputError(f"a name or attributes of {header.size} bytes", hint=f"at most {MAX_EXTENSION}")
        return header


class Unpacker:
    """One unpacking; ``place`` turns a member's path, in parts, into that below ``folder``, or into nothing."""

    def __init__(
        self,
        folder: Path,
        place: Callable[[list[str]], Sequence[str]],
        *,
        keep_owner: bool,
        warn: Callable[[str], None],
    ) -> None:
        self._root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._place = place
        self._keep_owner = keep_owner
        self._warn = warn
        self._folders: list[tuple[list[str], tarfile.TarInfo]] = []

    def unpack(self, stream: IO[bytes]) -> int:
        """All of a tar; the number of its members. Raises ``InvalidInputError`` for one that is none, ``OSError``."""
        count = 0
        try:
            with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as tar:
                for member in tar:
                    count += 1
                    if parts := self._parts(member.name):
                        self._unpack_one(tar, member, parts)
            for parts, member in reversed(self._folders):
                with ExitStack() as stack:
                    self._finish(member, self._open_folder(parts, stack))
        except tarfile.TarError as error:
            raise InvalidInputError(f"what came is no tar: {error}") from error
        finally:
            os.close(self._root)
        return count

    def _parts(self, name: str) -> list[str]:
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise InvalidInputError(f"{name!r} leads out of the folder", hint="nothing that follows it was unpacked")
        return list(self._place(parts))

    def _unpack_one(self, tar: tarfile.TarFile, member: tarfile.TarInfo, parts: list[str]) -> None:
        with ExitStack() as stack:
            parent, name = self._open_folder(parts[:-1], stack), parts[-1]
            if member.isdir():
                self._make_folder(parent, name)
                self._folders.append((parts, member))
                return
            if not (member.isreg() or member.issym() or member.islnk() or member.isfifo()):
                self._warn(f"{member.name}: left out, since it is a device")
                return
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=parent)
            if member.issym():
                os.symlink(member.linkname, name, dir_fd=parent)
                if self._keep_owner:
                    os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
            elif member.islnk():
                target = self._parts(member.linkname)
                if not target:
                    raise InvalidInputError(f"{member.name!r} is a link to what is not in the tar")
                source = self._open_folder(target[:-1], stack)
                os.link(target[-1], name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
            elif member.isfifo():
                os.mkfifo(name, member.mode & 0o777, dir_fd=parent)
            else:
                self._write_file(tar, member, parent, name)

    def _write_file(self, tar: tarfile.TarFile, member: tarfile.TarInfo, parent: int, name: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        source = tar.extractfile(member)
        assert source is not None
        with os.fdopen(os.open(name, flags, 0o600, dir_fd=parent), "wb") as file:
            while piece := source.read(_PIECE):
                file.write(piece)
            file.flush()
            self._finish(member, file.fileno())

    def _finish(self, member: tarfile.TarInfo, descriptor: int) -> None:
        if self._keep_owner:
            os.fchown(descriptor, member.uid, member.gid)
        # A program that is another's with its rights is made only for who asks for owners as they are.
        os.fchmod(descriptor, member.mode & (0o7777 if self._keep_owner else 0o1777))
        os.utime(descriptor, (member.mtime, member.mtime))

    def _make_folder(self, parent: int, name: str) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
                raise

    def _open_folder(self, parts: Sequence[str], stack: ExitStack) -> int:
        descriptor = self._root
        for part in parts:
            try:
                inner = os.open(part, _FOLDER, dir_fd=descriptor)
            except FileNotFoundError:
                os.mkdir(part, 0o755, dir_fd=descriptor)
                inner = os.open(part, _FOLDER, dir_fd=descriptor)
            except OSError as error:
                raise InvalidInputError(
                    f"{'/'.join(parts)} goes through {part!r}, which is no directory", hint="unpack it somewhere else"
                ) from error
            stack.callback(os.close, inner)
            descriptor = inner
        return descriptor
