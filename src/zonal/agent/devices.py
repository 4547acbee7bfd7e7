"""Device nodes of the zone that a container is given: some by name, or all there are."""

from __future__ import annotations

import os
import stat

from zonal.agent.params import CallError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zonal.agent.protocol.cbor import Value

_DEV = "/dev"
# What every container has of its own (OCI runtime-spec, config-linux.md, "Default Devices"), and file systems.
_OWN = ("console", "full", "fd", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty")
_OWN_TOO = ("urandom", "zero")


def named_nodes(wanted: list[Value]) -> tuple[list[Value], list[Value]]:
    """``linux.devices`` and ``linux.resources.devices`` for maps of ``source``, ``path`` and ``access``.

    Raises ``CallError`` for one that the zone does not have.
    """
    nodes: list[Value] = []
    rules: list[Value] = []
    for each in wanted:
        if not isinstance(each, dict):
            raise CallError("invalid", "a device must be a map")
        source, path, access = str(each.get("source", "")), str(each.get("path", "")), str(each.get("access", "rwm"))
        if not source.startswith(_DEV + "/") or ".." in source.split("/") or not path.startswith("/"):
            raise CallError("invalid", f"device {source!r} at {path!r}")
        try:
            status = os.lstat(source)
        except OSError as error:
            raise CallError("no-device", f"the zone's kernel has no {source}") from error
        if not stat.S_ISCHR(status.st_mode):
            raise CallError("no-device", f"{source} of the zone is no character device")
        node = _node(path, status)
        nodes.append(node)
        rules.append({"allow": True, "type": "c", "major": node["major"], "minor": node["minor"], "access": access})
    return nodes, rules


def bind_mounts(wanted: list[Value]) -> list[Value]:
    """The same as ``mounts``, for a container that may make no nodes."""
    return [
        {
            "destination": each["path"],
            "type": "bind",
            "source": each["source"],
            "options": ["bind", "rprivate", "nosuid", "noexec"],
        }
        for each in wanted
        if isinstance(each, dict)
    ]


def all_nodes(directory: str = _DEV) -> list[Value]:
    """``linux.devices`` for every node of the zone, but for those that a container has anyway."""
    nodes: list[Value] = []
    for name in sorted(os.listdir(directory)):
        path = f"{directory}/{name}"
        if directory == _DEV and name in (*_OWN, *_OWN_TOO):
            continue
        try:
            status = os.lstat(path)
        except OSError:
            continue  # it has just gone
        if stat.S_ISDIR(status.st_mode):
            nodes += all_nodes(path)
        elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            nodes.append(_node(path, status))
    return nodes


def _node(path: str, status: os.stat_result) -> dict[str, Value]:
    return {
        "path": path,
        "type": "b" if stat.S_ISBLK(status.st_mode) else "c",
        "major": os.major(status.st_rdev),
        "minor": os.minor(status.st_rdev),
        "fileMode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
    }
