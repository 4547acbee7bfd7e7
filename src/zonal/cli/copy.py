"""``zonal cp`` and ``zonal diff``: files into running zones and out of them, with docker's rules for paths."""

from __future__ import annotations

import io
import os
import posixpath
import sys
import tarfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from zonal.cli.connect import host_option, lab_option, zonald
from zonal.cli.errors import warn
from zonal.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from zonal.api import control_pb2 as pb
    from zonal.cli.client import Control

_CHUNK = 1 << 18


@dataclass(frozen=True)
class Side:
    """One end of a copy: a path here (``zone`` is empty), or one in a zone."""

    zone: str
    path: str


@dataclass(frozen=True)
class Plan:
    """Where a copy goes: into which directory, and under which name; no name: only what is in the source."""

    folder: str
    name: str


@click.command("cp")
@click.option("-a", "--archive", is_flag=True, help="Keep owners as they are.")
@click.option("-L", "--follow-link", "follow", is_flag=True, help="Copy what the source leads to, not the link.")
@click.option("-q", "--quiet", is_flag=True, help="Accepted for docker's sake; nothing is said anyway.")
@click.argument("source", metavar="[ZONE:]SOURCE|-")
@click.argument("target", metavar="[ZONE:]TARGET|-")
@host_option
@lab_option
def copy(archive: bool, follow: bool, quiet: bool, source: str, target: str, host: str | None, lab: str | None) -> None:
    """Copy files between a running zone and here; - is a tar on standard input or output."""
    del quiet
    here, there = split_side(source), split_side(target)
    if bool(here.zone) == bool(there.zone):
        raise InvalidInputError(
            "one of both has to be in a zone, and one here", hint="such as zonal cp web:/etc/hosts ."
        )
    with zonald(host, lab) as control:
        if here.zone:
            _copy_out(control, here, there.path, archive=archive, follow=follow)
        else:
            _copy_in(control, here.path, there, archive=archive, follow=follow)


@click.command("diff")
@click.argument("zone", metavar="ZONE")
@host_option
@lab_option
def diff(zone: str, host: str | None, lab: str | None) -> None:
    """List what a zone has added (A), changed (C) and deleted (D) of its image's files."""
    from zonal.api import control_pb2 as pb
    from zonal.cli.errors import printable

    with zonald(host, lab) as control:
        for reply in control.stream("ZoneChanges", pb.ZoneRef(zone=zone), pb.ZoneChangesReply):
            for change in reply.changes:
                click.echo(f"{change.kind} {printable(change.path)}")


def split_side(text: str) -> Side:
    """``ZONE:PATH`` or a path here; as docker has it, a path that begins with / or . is one of here."""
    zone, colon, path = text.partition(":")
    if not colon or not zone or text.startswith((".", "/")) or "/" in zone:
        return Side("", text)
    return Side(zone, posixpath.join("/", path) if path else "/")


def plan_copy(source: str, *, is_folder: bool, target: str, kind: str) -> Plan:
    """Docker's rules. ``kind``: what is at ``target``: ``missing``, ``file``, ``directory``, ``other``.

    Raises ``InvalidInputError`` where docker refuses.
    """
    contents = is_folder and source.endswith("/.")
    name = posixpath.basename(posixpath.normpath(source))
    stripped = target.rstrip("/") or "/"
    if kind == "directory":
        return Plan(target, "" if contents or name in ("", ".", "..", "/") else name)
    if is_folder and kind != "missing":
        raise InvalidInputError(f"a directory cannot be copied over {target}, which is none", hint="name a directory")
    if kind == "missing" and target.endswith("/") and not is_folder:
        raise InvalidInputError(f"the directory {target} does not exist", hint="make it first, or leave out the /")
    return Plan(posixpath.dirname(stripped) or ".", posixpath.basename(stripped))


def _copy_out(control: Control, source: Side, target: str, *, archive: bool, follow: bool) -> None:
    from zonal.api import control_pb2 as pb
    from zonal.cli.untar import Unpacker

    request = pb.CopyFromZoneRequest(zone=source.zone, path=source.path, follow=follow)
    if target == "-":
        if sys.stdout.isatty():
            raise InvalidInputError("a tar is nothing for a terminal", hint="give a folder, or a pipe")
        for reply in control.stream("CopyFromZone", request, pb.CopyFromZoneReply):
            sys.stdout.buffer.write(reply.data)
        return
    found = control.call("StatInZone", pb.StatInZoneRequest(zone=source.zone, path=source.path), pb.StatInZoneReply)
    is_folder = found.kind == "directory" and (follow or not found.is_link)
    if source.path.endswith("/") and is_folder:
        request.path = source.path.rstrip("/") or "/"
    plan = plan_copy(source.path, is_folder=is_folder, target=target, kind=_kind_here(Path(target)))
    folder = Path(plan.folder)
    if not folder.is_dir():
        raise NotFoundError(f"there is no directory {folder}", hint="make it first")
    contents = is_folder and (source.path.endswith("/.") or posixpath.normpath(source.path) == "/")

    def place(parts: list[str]) -> Sequence[str]:
        inner = parts if contents else parts[1:]
        return [*([plan.name] if plan.name else []), *inner]

    if plan.name == "" and not contents:
        raise InvalidInputError(f"{source.path} has no name to be copied under", hint="give a name for the copy")
    stream = control.stream("CopyFromZone", request, pb.CopyFromZoneReply)
    unpacker = Unpacker(folder, place, keep_owner=archive, warn=warn)
    # A reader over the replies: tarfile reads ahead no further than it must.
    unpacker.unpack(io.BufferedReader(_Replies(reply.data for reply in stream), _CHUNK))


def _copy_in(control: Control, source: str, target: Side, *, archive: bool, follow: bool) -> None:
    from zonal.api import control_pb2 as pb

    found = control.call("StatInZone", pb.StatInZoneRequest(zone=target.zone, path=target.path), pb.StatInZoneReply)
    if source == "-":
        if found.kind != "directory":
            raise InvalidInputError(f"{target.path} is no directory in the zone", hint="a tar goes into a directory")
        _send(control, target.zone, target.path, sys.stdin.buffer)
        return
    path = Path(source)
    if follow:
        path = path.resolve()
    if not path.exists() and not path.is_symlink():
        raise NotFoundError(f"there is no file {source}", hint="check the path")
    is_folder = path.is_dir() and (not path.is_symlink() or source.endswith(("/", "/.")))
    plan = plan_copy(
        os.path.abspath(source) + ("/." if source.endswith("/.") else ""),  # noqa: PTH100
        is_folder=is_folder,
        target=target.path,
        kind=found.kind,
    )
    reader, writer = os.pipe()
    failures: list[BaseException] = []

    def pack() -> None:
        try:
            with (
                os.fdopen(writer, "wb") as pipe,
                tarfile.open(fileobj=pipe, mode="w|", format=tarfile.PAX_FORMAT) as tar,
            ):
                tar.add(path, plan.name or ".", filter=None if archive else _roots)
        except BrokenPipeError:
            pass  # the zone wants no more, and says why
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=pack, name="tar")
    thread.start()
    try:
        with os.fdopen(reader, "rb") as pipe:
            _send(control, target.zone, plan.folder, pipe)
    finally:
        thread.join()
    if failures:
        raise InvalidInputError(f"{source} cannot be read: {failures[0]}", hint="part of it may have been copied")


def _send(control: Control, zone: str, folder: str, file: IO[bytes]) -> None:
    from zonal.api import control_pb2 as pb

    def requests() -> Iterator[pb.CopyToZoneRequest]:
        yield pb.CopyToZoneRequest(header=pb.CopyToZoneHeader(zone=zone, path=folder))
        while chunk := file.read(_CHUNK):
            yield pb.CopyToZoneRequest(data=chunk)

    control.upload("CopyToZone", requests(), pb.CopyToZoneReply)


class _Replies(io.RawIOBase):
    """Pieces of bytes, as a file to be read."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._left = memoryview(piece)
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count


def _roots(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _kind_here(path: Path) -> str:
    if path.is_dir():
        return "directory"
    if path.is_file():
        return "file"
    return "other" if path.exists() else "missing"
