"""Network namespaces with a name, at /run/netns as ip-netns(8) has them, so that CNI's plugins and people find them.

A namespace belongs to a thread (setns(2)), so what is to be done in one is done by a thread that ends afterwards. A
socket stays in the namespace in which it was made.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from zonal.network.links import set_link_up
from zonal.network.netlink import Netlink

T = TypeVar("T")

FOLDER: Final = Path("/run/netns")
PREFIX: Final = "zonal-"
"""Of the names of ours."""

_CLONE_NEWNET = 0x40000000  # linux/sched.h
_MS_BIND = 4096
_MNT_DETACH = 2
_LOOPBACK = 1
"""The index of ``lo``, the first interface of every namespace."""
# Addresses are given out by plugins, which have made sure that nobody else has them: nothing is to be gained by a
# second or two of waiting whether somebody objects (RFC 4862, 5.4), nor by routers' advertisements.
_SETTINGS = {
    "ipv6/conf/all/accept_dad": "0",
    "ipv6/conf/default/accept_dad": "0",
    "ipv6/conf/default/dad_transmits": "0",
    "ipv6/conf/default/accept_ra": "0",
    "ipv6/conf/default/router_solicitations": "0",
}

_libc = ctypes.CDLL(None, use_errno=True)


def path_of(name: str) -> Path:
    """Where a namespace is."""
    return FOLDER / name


def is_there(name: str) -> bool:
    """Whether there is a namespace of this name, and not just a file where one was."""
    path = path_of(name)
    with suppress(OSError):
        return path.stat().st_dev != FOLDER.stat().st_dev
    return False


def ours() -> list[str]:
    """The names of those that this module has made, and are there."""
    return sorted(path.name for path in FOLDER.glob(f"{PREFIX}*")) if FOLDER.is_dir() else []


def create(name: str) -> Path:
    """Makes a namespace, with its loopback up. Raises ``OSError``; then there is none."""
    path = path_of(name)
    FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    try:
        _in_thread(lambda: _make(path))
    except BaseException:
        delete(name)
        raise
    return path


def delete(name: str) -> None:
    """Removes a namespace, and with it the virtual interfaces in it; one that is not there is fine."""
    path = path_of(name)
    _libc.umount2(os.fsencode(path), _MNT_DETACH)
    with suppress(FileNotFoundError):
        path.unlink()


def within(path: Path, work: Callable[[], T]) -> T:
    """What ``work`` gives, done in the namespace at ``path``. Raises ``OSError`` when it cannot be entered."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def enter() -> T:
        if _libc.setns(descriptor, _CLONE_NEWNET):
            raise _error(path)
        return work()

    try:
        return _in_thread(enter)
    finally:
        os.close(descriptor)


def _make(path: Path) -> None:
    if _libc.unshare(_CLONE_NEWNET):
        raise _error(path)
    if _libc.mount(b"/proc/thread-self/ns/net", os.fsencode(path), None, ctypes.c_ulong(_MS_BIND), None):
        raise _error(path)
    for name, value in _SETTINGS.items():
        with suppress(FileNotFoundError):  # a kernel without IPv6
            Path("/proc/sys/net", name).write_text(value)
    with Netlink() as netlink:
        set_link_up(netlink, _LOOPBACK)


def _in_thread(work: Callable[[], T]) -> T:
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="network namespace")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _error(path: Path) -> OSError:
    number = ctypes.get_errno() or errno.EIO
    return OSError(number, os.strerror(number), str(path))
