"""The tree that an image's layers make: who owns each path once every layer has had its say.

The rules are those of the OCI image specification, "Applying Changesets", read as docker and containerd read them:
the last entry of a name wins; a directory over a directory keeps what is in it; a ``.wh.`` entry removes what lower
layers put there, never what its own layer does, in whatever order the two come.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Final

from zonal.errors import InvalidInputError
from zonal.images import tarformat as tar
from zonal.images.limits import NAME_MAX, PATH_MAX, Limits
from zonal.images.tarformat import Member, refuse

WHITEOUT: Final = b".wh."
WHITEOUT_META: Final = b".wh..wh."
"""Names that aufs kept for itself; only the next one means something to others."""
OPAQUE: Final = b".wh..wh..opq"

_HOPS: Final = 40
"""Symbolic links followed in one path: MAXSYMLINKS of linux/namei.h."""


@dataclasses.dataclass(slots=True, eq=False)
class File:
    """Anything but a directory. Two names of one file are one of these."""

    member: Member
    source: int
    """Index of the layer that its content is in."""
    path: bytes | None = None
    """Where it was first written, once it has been."""


@dataclasses.dataclass(slots=True, eq=False)
class Directory:
    """A directory; ``member`` is None where no layer describes it and only its content calls for it."""

    member: Member | None
    source: int
    children: dict[bytes, File | Directory]


class Tree:
    """Grows by one layer at a time, the lowest first."""

    def __init__(self, limits: Limits) -> None:
        self.root = Directory(None, 0, {})
        self.bytes = 0
        """Content of all members seen, holes included."""
        self._limits = limits
        self._source = -1
        self._nodes = 0
        self._label = ""
        # What the layer at hand has put where, so that its own whiteouts spare it. In the lowest layer they do nothing.
        self._placed: dict[Directory, set[bytes]] = {}
        self._opaque: set[Directory] = set()
        self._brought: list[File] = []

    def apply(self, members: Iterable[Member], label: str) -> list[File]:
        """Lay one layer over what is there; ``label`` names it in errors.

        Returns:
            The plain files of the layer that have content, in its order; some may be gone again.

        Raises:
            InvalidInputError: a member that an image cannot have, or one past a limit.
        """
        self._label = label
        self._source += 1
        self._placed = {}
        self._opaque = set()
        self._brought = []
        for member in members:
            self._add(member)
        return self._brought

    def _add(self, member: Member) -> None:
        parts = self._parts(member, member.name)
        if not parts:
            if member.kind != tar.DIRECTORY:
                raise refuse(self._label, member.name, "the root of the tree is a directory")
            self.root.member, self.root.source = member, self._source
            return
        name = parts.pop()
        if name.startswith(WHITEOUT):
            self._whiteout(member, parts, name)
            return
        parent = self._descend(member, parts, create=True)
        assert parent is not None
        if member.kind == tar.HARD_LINK:
            self._place(member, parent, name, self._target(member))
            return
        if member.kind == tar.SYMLINK and len(member.link) > PATH_MAX:
            raise refuse(self._label, member.name, f"its target is longer than {PATH_MAX} bytes")
        self.bytes += member.size
        if self.bytes > self._limits.total_bytes:
            raise InvalidInputError(f"{self._label}: the tree holds more than {self._limits.total_bytes} bytes")
        if member.kind != tar.DIRECTORY:
            file = File(member, self._source)
            self._place(member, parent, name, file)
            if member.kind == tar.REGULAR and member.size:
                self._brought.append(file)
            return
        existing = parent.children.get(name)
        if isinstance(existing, Directory):
            existing.member, existing.source = member, self._source
            if self._source:
                self._placed.setdefault(parent, set()).add(name)
        else:
            self._place(member, parent, name, Directory(member, self._source, {}))

    def _place(self, member: Member, parent: Directory, name: bytes, node: File | Directory) -> None:
        self._nodes += 1
        if self._nodes > self._limits.entries:
            raise refuse(self._label, member.name, f"the tree has more than {self._limits.entries} files")
        parent.children.pop(name, None)
        parent.children[name] = node
        if self._source:
            self._placed.setdefault(parent, set()).add(name)

    def _target(self, member: Member) -> File:
        """The file that a hard link names: it must be in the tree by now."""
        what = f"a hard link to {tar.show(member.link)!r}"
        if member.link.startswith(b"/"):
            raise refuse(self._label, member.name, f"{what}, outside the image's tree")
        parts = self._parts(member, member.link)
        parent = self._descend(member, parts[:-1], create=False) if parts else None
        node = parent.children.get(parts[-1]) if parent else None
        if node is None:
            raise refuse(self._label, member.name, f"{what}, which is not in the tree")
        if isinstance(node, Directory):
            raise refuse(self._label, member.name, f"{what}, which is a directory")
        return node

    def _parts(self, member: Member, name: bytes) -> list[bytes]:
        """Components of a name; empty for the root itself."""
        parts = [part for part in name.split(b"/") if part and part != b"."]
        if b".." in parts:
            raise refuse(
                self._label, member.name, "it has '..' in its path, which could lead out of the image's tree",
                "make the archive with names relative to the root of the tree",
            )  # fmt: skip
        if parts and name.startswith(b"/"):
            raise refuse(
                self._label,
                member.name,
                "its path is absolute",
                "make the archive with relative names (tar without -P)",
            )
        if len(name) > PATH_MAX or len(parts) > self._limits.depth or any(len(part) > NAME_MAX for part in parts):
            raise refuse(self._label, member.name, "its path is too long or too deep")
        if not parts and not name:
            raise refuse(self._label, name, "it has no name")
        return parts

    def _descend(self, member: Member, parts: list[bytes], *, create: bool) -> Directory | None:
        """The directory at ``parts``, symbolic links followed as if the tree were ``/``.

        A link that climbs above the root is refused. What is missing is made where ``create`` says so, else the
        answer is None.
        """
        node = self.root
        above: list[Directory] = []
        pending = parts[::-1]
        hops = 0
        while pending:
            part = pending.pop()
            if part == b"..":
                if not above:
                    raise refuse(self._label, member.name, "its path leaves the image's tree through a symbolic link")
                node = above.pop()
                continue
            child = node.children.get(part)
            if child is None:
                if not create:
                    return None
                child = Directory(None, self._source, {})
                self._place(member, node, part, child)
            if isinstance(child, Directory):
                above.append(node)
                node = child
                if len(above) > self._limits.depth:
                    raise refuse(self._label, member.name, "its path is too long or too deep")
            elif child.member.kind == tar.SYMLINK:
                hops += 1
                if hops > _HOPS:
                    raise refuse(self._label, member.name, "its path goes through too many symbolic links")
                target = child.member.link
                if target.startswith(b"/"):
                    node, above = self.root, []
                pending.extend(p for p in reversed(target.split(b"/")) if p and p != b".")
            else:
                raise refuse(self._label, member.name, f"{tar.show(part)!r} in its path is not a directory")
        return node

    def _whiteout(self, member: Member, parts: list[bytes], name: bytes) -> None:
        if name == OPAQUE:
            directory = self._descend(member, parts, create=True)
            assert directory is not None
            if self._source:
                self._opaque.add(directory)
                self._keep_placed(directory)
            return
        if name.startswith(WHITEOUT_META):
            return
        hidden = name[len(WHITEOUT) :]
        if hidden in (b"", b".", b".."):
            raise refuse(self._label, member.name, "a whiteout that names nothing")
        parent = self._descend(member, parts, create=False)
        if self._source and parent is not None and hidden in parent.children:
            self._hide(parent, hidden)

    def _hide(self, parent: Directory, name: bytes) -> None:
        """Take away what lower layers put at ``name``; what this layer put there or below it stays."""
        child = parent.children[name]
        mine = name in self._placed.get(parent, ())
        if isinstance(child, Directory):
            self._keep_placed(child)
            if not mine and (child.children or child in self._opaque):
                # Only this layer's content, or its mark, holds it up now, as if it were made for that.
                child.member, child.source = None, self._source
                return
        if not mine:
            del parent.children[name]

    def _keep_placed(self, directory: Directory) -> None:
        for name in list(directory.children):
            self._hide(directory, name)
