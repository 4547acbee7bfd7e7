"""What is told of paths in a container."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PathInfo:
    """What is at a path in a container: ``missing``, ``file``, ``directory``, ``other``."""

    kind: str
    """Of what a symbolic link leads to."""
    is_link: bool


@dataclass(frozen=True)
class Change:
    """A file that a container has added (A), changed (C) or deleted (D)."""

    kind: str
    path: str
