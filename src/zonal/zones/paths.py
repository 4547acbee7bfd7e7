"""What is told of paths and processes in a container."""

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


@dataclass(frozen=True)
class ProcessInfo:
    """A process of a container, by the zone's word."""

    pid: int
    """As in the container."""
    parent: int
    """0 when that is outside of it."""
    uid: int
    terminal: str
    """Such as ``pts/0``; empty for none."""
    state: str
    """A letter, as in proc_pid_stat(5)."""
    started_ns: int
    """Wall clock, ns since the epoch."""
    cpu_ns: int
    virtual_bytes: int
    resident_bytes: int
    name: str
    command: str
