"""Write layers as one erofs: one file, of which zones' kernels see a plain filesystem.

After the super block comes the content of files, layer by layer, each file from a block of its own on and in the order
that its layer has it in: so it is copied in large pieces, straight from the layers' tars, and a layer's as soon as that
and those below it are there. Everything about the files is in the end, when the last layer has had its say.
``mkfs.erofs`` would have a tar stream made for it, read that through a pipe, and write every file by itself; all of
that is dear where system calls are.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from zonal.errors import InvalidInputError
from zonal.images import erofs_layout as layout
from zonal.images.copying import Copier, Copy, write_all
from zonal.images.erofs_layout import BLOCK
from zonal.images.erofs_plan import Plan, plan_erofs, stored_size
from zonal.images.files import no_room, punch_hole
from zonal.images.limits import DEFAULT, Limits
from zonal.images.tarformat import Source
from zonal.images.tarreader import read_members
from zonal.images.tree import File, Tree


class ErofsWriter:
    """An erofs that grows by one layer at a time, the lowest first. Its calls block, and come one after the other.

    Also a context manager, which closes the file; nothing is left of it when it is left by an error.
    """

    def __init__(self, target: Path, limits: Limits = DEFAULT, *, need_end: bool = False) -> None:
        """``target`` must not exist; `files.publish` has it on the disk. ``need_end``: see `read_members`."""
        self._target = target
        self._limits = limits
        self._need_end = need_end
        self._tree = Tree(limits)
        self._labels: list[str] = []
        self._places: dict[File, int] = {}
        self._blocks = 1
        """In use: the first is the super block's."""
        self._fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with ExitStack() as stack:
            stack.callback(os.close, self._fd)
            self._copier = stack.enter_context(Copier(target, self._fd))
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._stack.close()
        if kind is not None:
            self._target.unlink()

    def add(self, layer: Source, *, on_step: Callable[[], None] = lambda: None) -> None:
        """Lay one layer over what is there, and write what is in its files.

        ``on_step`` is called every few MiB and may raise to give up.

        Raises:
            InvalidInputError: the layer is corrupt, has members that an image cannot have, is shorter than it was, or
                passes a limit.
            ResourceExhaustedError: not enough room on the disk.
        """
        if len(self._labels) == self._limits.layers:
            raise InvalidInputError(f"the image has more than {self._limits.layers} layers")
        self._labels.append(layer.label)
        members = read_members(layer, self._limits, need_end=self._need_end)
        files = self._tree.apply(members, layer.label)
        check_room(self._target.parent, sum(stored_size(file.member) for file in files))
        for file in files:
            self._places[file] = self._blocks
            self._blocks += -(-file.member.size // BLOCK)
        # Long enough beforehand: writes beyond the end of a file wait for each other.
        os.truncate(self._fd, self._blocks * BLOCK)
        self._copier.copy(self._copies(layer.fd, files), on_step)

    def plan(self, identity: str) -> Plan:
        """What is still to be written, with a UUID that is made of a digest (``sha256:…``).

        Raises:
            InvalidInputError: a path is too long.
        """
        return plan_erofs(self._tree.root, self._places, self._blocks, self._labels, identity)

    def finish(self, plan: Plan) -> None:
        """Write the rest, and give up the room of what upper layers have replaced.

        Raises:
            ResourceExhaustedError: not enough room on the disk.
        """
        check_room(self._target.parent, len(plan.metadata))
        for offset, size in self._unused(plan):
            if not punch_hole(self._fd, offset, size):
                break
        write_all(self._fd, memoryview(plan.metadata), plan.begin)
        write_all(self._fd, memoryview(plan.head), layout.SUPER_OFFSET)

    def _copies(self, fd: int, files: list[File]) -> Iterator[Copy]:
        for file in files:
            member, target = file.member, self._places[file] * BLOCK
            if member.sparse is None:
                yield Copy(fd, member.data, member.size, target)
                continue
            stored = member.data
            for offset, length in member.sparse:
                if length:
                    yield Copy(fd, stored, length, target + offset, alone=False)
                stored += length

    def _unused(self, plan: Plan) -> Iterator[tuple[int, int]]:
        """Offset and bytes of each range whose content does not count."""
        begin = end = 0
        for file, block in self._places.items():
            if file in plan.used:
                continue
            if block * BLOCK != end:
                if end:
                    yield begin, end - begin
                begin = block * BLOCK
            end = (block + -(-file.member.size // BLOCK)) * BLOCK
        if end:
            yield begin, end - begin


def check_room(folder: Path, needed: int) -> None:
    """Refuse to start what cannot fit.

    Raises:
        ResourceExhaustedError: fewer than ``needed`` bytes are free on the disk that holds ``folder``.
    """
    if shutil.disk_usage(folder).free < needed:
        raise no_room(folder, needed)
