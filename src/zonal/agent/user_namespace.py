"""A container's user namespace: its ids are others in the zone, and its image's files are shown as its own.

The image's files are mounted with their ids mapped (mount_setattr(2), MOUNT_ATTR_IDMAP); so are volumes, when the
container is made. Its writable layer, which overlayfs writes in the zone's name, holds the zone's ids.
"""

from __future__ import annotations

import os

from zonal.agent.params import CallError
from zonal.agent.processes import SIGKILL
from zonal.agent.syscalls import (
    MNT_DETACH,
    clone_mount,
    map_ids,
    move_mount,
    raise_hard_limit,
    unmount,
    unshare_users,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zonal.agent.protocol.cbor import Value

_MAX_MAPS = 340
# asm-generic/resource.h, in the order of the numbers.
_RLIMITS = [
    f"RLIMIT_{name}"
    for name in (
        *("CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "LOCKS", "SIGPENDING"),
        *("MSGQUEUE", "NICE", "RTPRIO", "RTTIME"),
    )
]


class IdMaps:
    """Those of one container; ``uids`` and ``gids`` are of container id, zone id and size each."""

    def __init__(self, uids: list[tuple[int, int, int]], gids: list[tuple[int, int, int]]) -> None:
        """Raises ``OSError`` when the kernel takes no such maps."""
        self.uids = uids
        self.gids = gids
        self._descriptor = _user_namespace(uids, gids)

    def owner(self, uid: int, gid: int) -> tuple[int, int]:
        """The zone's ids for the container's; those that the container does not have are left alone."""
        return _mapped(uid, self.uids, 0, 1), _mapped(gid, self.gids, 0, 1)

    def own(self, uid: int, gid: int) -> tuple[int, int]:
        """The other way round."""
        return _mapped(uid, self.uids, 1, 0), _mapped(gid, self.gids, 1, 0)

    def mapped_mount(self, path: str) -> int:
        """A copy of the mount at ``path``, with ids as the container has them; a descriptor. Raises ``OSError``."""
        tree = clone_mount(path)
        try:
            map_ids(tree, self._descriptor)
        except BaseException:
            os.close(tree)
            raise
        return tree

    def map_mount(self, path: str) -> None:
        """Has the mount at ``path`` show ids so from now on. Raises ``OSError``."""
        tree = self.mapped_mount(path)
        try:
            unmount(path, MNT_DETACH)
            move_mount(tree, path)
        finally:
            os.close(tree)

    def close(self) -> None:
        """Lets go of it; what is mounted stays so."""
        os.close(self._descriptor)


def allow_limits(process: dict[str, Value]) -> None:
    """Lets the limits of an OCI process object be set within a user namespace, where none can be raised.

    Raises ``CallError``.
    """
    limits = process.get("rlimits")
    for each in limits if isinstance(limits, list) else ():
        if isinstance(each, dict) and each.get("type") in _RLIMITS and isinstance(hard := each.get("hard"), int):
            try:
                raise_hard_limit(_RLIMITS.index(str(each["type"])), hard)
            except OSError as error:
                raise CallError("runtime", f"{each['type']} cannot be {hard}: {error}") from error


def read_maps(values: list[Value], key: str) -> list[tuple[int, int, int]]:
    """A parameter of a call: arrays of container id, zone id, size. Raises ``CallError``."""
    maps: list[tuple[int, int, int]] = []
    for value in values[: _MAX_MAPS + 1]:
        numbers = [each for each in value if isinstance(each, int)] if isinstance(value, list) else []
        if len(numbers) != 3 or min(numbers) < 0:
            raise CallError("invalid", f"{key} must be arrays of three numbers")
        maps.append((numbers[0], numbers[1], numbers[2]))
    if len(maps) > _MAX_MAPS:
        raise CallError("invalid", f"{key}: {_MAX_MAPS} at most")
    return maps


def _mapped(number: int, maps: list[tuple[int, int, int]], origin: int, target: int) -> int:
    for each in maps:
        if each[origin] <= number < each[origin] + each[2]:
            return each[target] + number - each[origin]
    return number


def _user_namespace(uids: list[tuple[int, int, int]], gids: list[tuple[int, int, int]]) -> int:
    """A descriptor of a namespace with these maps: that of a child, which is there for nothing else."""
    waiting, going = os.pipe2(os.O_CLOEXEC)
    ready, telling = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if not child:
        try:
            os.close(going)
            unshare_users()
            os.write(telling, b"1")
            os.read(waiting, 1)
        finally:
            os._exit(0)
    try:
        os.close(telling)
        telling = -1
        if not os.read(ready, 1):
            raise OSError("the kernel makes no user namespaces")
        for name, maps in (("uid_map", uids), ("gid_map", gids)):
            with open(f"/proc/{child}/{name}", "w") as file:
                file.write("".join(f"{inner} {outer} {size}\n" for inner, outer, size in maps))
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.kill(child, SIGKILL)
        os.waitpid(child, 0)
        for descriptor in (waiting, going, ready, telling):
            if descriptor >= 0:
                os.close(descriptor)
