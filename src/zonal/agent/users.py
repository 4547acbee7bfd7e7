"""Who a workload runs as: docker's user strings, resolved against the container's own /etc/passwd and /etc/group.

The files are the image's and may be hostile: they are opened with openat2(2) so that no symbolic link leads out of the
container's root, must be regular files, and are read up to a bound.
"""

from __future__ import annotations

import os
import stat

from zonal.agent.syscalls import open_in_root

_MAX_FILE = 1 << 20
"""Bytes read of passwd or group; what comes after is not seen."""
_MAX_GROUPS = 1024
_MAX_ID = 0xFFFFFFFE  # (uid_t)-1 means "no change" to the kernel


class UserError(Exception):
    """A user or group that the container does not have."""


class User:
    """Numbers as the OCI runtime specification's ``process.user`` wants them, and the home directory."""

    def __init__(self, uid: int, gid: int, groups: list[int], home: str) -> None:
        self.uid = uid
        self.gid = gid
        self.groups = groups
        self.home = home


def resolve_user(root: str, text: str, groups: list[str] | None = None) -> User:
    """The user ``text`` ("name", "uid", each with ":group" or ":gid" or not; "" is root) in the container at ``root``.

    ``groups``, names or numbers, are added to those that the user has. Raises ``UserError``.
    """
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        group_file = read_file(root_fd, "/etc/group")
        user = find_user(text, read_file(root_fd, "/etc/passwd"), group_file)
    finally:
        os.close(root_fd)
    added = [_find_group(group, group_file) for group in groups or ()]
    user.groups = list(dict.fromkeys([*user.groups, *added]))[:_MAX_GROUPS]
    return user


def find_user(text: str, passwd: str, group: str) -> User:
    """The same, with the contents of the two files.

    As docker does it: a number needs no entry; with no group chosen come the groups that list the user; the primary
    group is always among the supplementary ones. Raises ``UserError``.
    """
    user_part, _, group_part = text.partition(":")
    user_part = user_part or "0"
    user = User(_number(user_part), 0, [], "/")
    name = None
    for entry in _entries(passwd, 6):
        if user_part == entry[0] or (user.uid >= 0 and user.uid == _number(entry[2])):
            if min(_number(entry[2]), _number(entry[3])) < 0:
                continue
            name = entry[0]
            user = User(_number(entry[2]), _number(entry[3]), [], entry[5] or "/")
            break
    if user.uid < 0:
        raise UserError(f"no user {user_part!r} in the image's /etc/passwd")
    if group_part:
        user.gid = _find_group(group_part, group)
        user.groups = [user.gid]
    else:
        listed = {_number(entry[2]) for entry in _entries(group, 4) if name and name in entry[3].split(",")}
        user.groups = [user.gid, *sorted(listed - {user.gid, -1})][:_MAX_GROUPS]
    return user


def read_file(root_fd: int, path: str) -> str:
    """A text file inside the root, at most 1 MiB of it; "" when it is not there or not a regular file."""
    try:
        # Non-blocking, so that a FIFO in its place holds nobody up.
        fd = open_in_root(root_fd, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return ""
        data = bytearray()
        while len(data) < _MAX_FILE and (piece := os.read(fd, 65536)):
            data += piece
        return data[:_MAX_FILE].decode(errors="replace")
    finally:
        os.close(fd)


def _entries(text: str, fields: int) -> list[list[str]]:
    entries = [line.split(":") for line in text.split("\n") if line and not line.startswith("#")]
    return [entry for entry in entries if len(entry) >= fields]


def _find_group(text: str, group: str) -> int:
    number = _number(text)
    for entry in _entries(group, 3):
        if entry[0] == text and _number(entry[2]) >= 0:
            return _number(entry[2])
    if number < 0:
        raise UserError(f"no group {text!r} in the image's /etc/group")
    return number


def _number(text: str) -> int:
    """The id that ``text`` says, or -1."""
    if not (text.isascii() and text.isdigit()) or len(text) > 10 or int(text) > _MAX_ID:
        return -1
    return int(text)
