"""Mounts as people write them: ``-v``, ``--mount``, ``--tmpfs`` and ``--device``, with docker's syntax.

What is said here is only read; zonald checks it. A relative path is one of the folder in which the command was typed.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from zonal.cli.connect import socket_path
from zonal.cli.format import parse_size
from zonal.errors import InvalidInputError

if TYPE_CHECKING:
    from zonal.api import control_pb2 as pb

_F = TypeVar("_F", bound=Callable[..., object])

_TYPES = ("bind", "volume", "tmpfs", "image", "device")
# What docker takes and what makes no difference here, such as labels of SELinux.
_IGNORED = frozenset({"z", "Z", "private", "rprivate", "rw"})
_CONSISTENCY = ("consistent", "cached", "delegated")
_SHARED = frozenset({"shared", "rshared", "slave", "rslave"})


def mount_options(command: _F) -> _F:
    """The options of ``run`` and ``zone mount``; pass their values to ``parse_mounts``."""
    for decorate in reversed(
        (
            click.option(
                "-v",
                "--volume",
                "volumes",
                multiple=True,
                metavar="[SOURCE:]PATH[:ro]",
                help="A directory (with a /), or a named volume.",
            ),
            click.option(
                "--mount", "mounts", multiple=True, metavar="KEY=VALUE,…", help="type=bind|volume|tmpfs|image|device, …"
            ),
            click.option(
                "--tmpfs", "memory_mounts", multiple=True, metavar="PATH[:OPTIONS]", help="Memory, as a filesystem."
            ),
            click.option(
                "--device", "devices", multiple=True, metavar="DEVICE[:PATH][:r]", help="A block device of the host."
            ),
        )
    ):
        command = decorate(command)
    return command


def parse_mounts(
    volumes: Iterable[str] = (), mounts: Iterable[str] = (), memory: Iterable[str] = (), devices: Iterable[str] = ()
) -> list[pb.Mount]:
    """All of them, as the control API takes them. Raises ``InvalidInputError``."""
    return [
        *map(parse_volume, volumes),
        *map(parse_mount, mounts),
        *map(parse_tmpfs, memory),
        *map(parse_device, devices),
    ]


def publish_directories(mounts: Iterable[pb.Mount], host: str | None, lab: str | None) -> None:
    """Makes directories of this machine known to the lab, if it is a lab that is meant: each mount's source then is one
    of the lab's host. The lab is up. Raises ``ZonalError``.
    """
    bound = [mount for mount in mounts if mount.type == "bind"]
    if not bound or socket_path(host, lab) is not None:
        return
    from zonal import lab as labs

    for mount in bound:
        path = Path(mount.source)
        if mount.create and not path.exists():
            try:
                path.mkdir(parents=True)
            except OSError as error:
                raise InvalidInputError(f"{path} cannot be made: {error.strerror}") from error
        mount.source = labs.publish(lab, path, read_only=mount.read_only)
        mount.create = False


def parse_volume(text: str) -> pb.Mount:
    """``-v``: ``HOSTDIR:/path[:ro]``, ``NAME:/path[:ro,nocopy]``, or ``/path`` alone for a volume without a name."""
    from zonal.api import control_pb2 as pb

    parts = text.split(":")
    if len(parts) == 1:
        return pb.Mount(type="volume", target=parts[0])
    if len(parts) > 3 or not parts[0]:
        raise InvalidInputError(f"-v {text}: this is no mount", hint="such as -v /srv/data:/data:ro or -v name:/data")
    source, target = parts[0], parts[1]
    is_path = source.startswith(("/", ".", "~"))
    mount = pb.Mount(type="bind" if is_path else "volume", source=source, target=target, create=is_path)
    if is_path:
        mount.source = host_path(source)
    for option in parts[2].split(",") if len(parts) == 3 else ():
        _apply_flag(mount, option, f"-v {text}")
    return mount


def parse_mount(text: str) -> pb.Mount:
    """``--mount``: pairs in a line of CSV, as docker has it."""
    from zonal.api import control_pb2 as pb

    mount = pb.Mount(type="volume")
    label = f"--mount {text}"
    for field in _fields(text, label):
        key, equals, value = field.partition("=")
        match key.strip().lower():
            case "type":
                mount.type = value
            case "source" | "src":
                mount.source = value
            case "target" | "destination" | "dst":
                mount.target = value
            case "readonly" | "ro":
                mount.read_only = _truth(value, equals, label)
            case "volume-nocopy":
                mount.no_copy = _truth(value, equals, label)
            case "volume-subpath" | "image-subpath":
                mount.subpath = value
            case "tmpfs-size" | "volume-size":
                mount.size_bytes = parse_size(value)
            case "tmpfs-mode":
                mount.mode = _mode(value, label)
            case "consistency":
                _apply_consistency(mount, value, label)
            case "bind-propagation" | "bind-nonrecursive" | "bind-recursive":
                if value in _SHARED:
                    raise InvalidInputError(f"{label}: mounts do not pass between host and zone", hint="use rprivate")
            case _:
                raise InvalidInputError(
                    f"{label}: {key!r} is unknown", hint="type, source, target, readonly, tmpfs-size, volume-nocopy, …"
                )
    if mount.type not in _TYPES:
        raise InvalidInputError(f"{label}: {mount.type!r} is no type", hint=f"one of {', '.join(_TYPES)}")
    if not mount.target:
        raise InvalidInputError(f"{label}: no target is given", hint="such as target=/data")
    if mount.type == "bind":
        mount.source = host_path(mount.source)
    return mount


def parse_tmpfs(text: str) -> pb.Mount:
    """``--tmpfs``: ``/path`` or ``/path:size=64m,mode=1777,exec``."""
    from zonal.api import control_pb2 as pb

    target, _, options = text.partition(":")
    mount = pb.Mount(type="tmpfs", target=target)
    for option in options.split(",") if options else ():
        name, _, value = option.partition("=")
        match name:
            case "size":
                mount.size_bytes = parse_size(value)
            case "mode":
                mount.mode = _mode(value, f"--tmpfs {text}")
            case "ro":
                mount.read_only = True
            case "rw":
                mount.read_only = False
            case _:
                mount.options.append(option)
    return mount


def parse_device(text: str) -> pb.Mount:
    """``--device``: ``/dev/sdb``, ``/dev/sdb:/dev/xvdb``, with ``:r`` for reading only; ``rwm`` is docker's default."""
    from zonal.api import control_pb2 as pb

    parts = text.split(":")
    access = parts.pop() if len(parts) > 1 and set(parts[-1]) <= set("rwm") and parts[-1] else "rwm"
    if len(parts) > 2 or not all(parts):
        raise InvalidInputError(f"--device {text}: this is no device", hint="such as --device /dev/sdb:/dev/xvdb:r")
    return pb.Mount(type="device", source=parts[0], target=parts[-1], read_only="w" not in access, access=access)


def host_path(text: str) -> str:
    """An absolute path of this machine, with ``~`` and ``.`` for what the shell has left of them."""
    return os.path.normpath(os.path.join(os.getcwd(), os.path.expanduser(text))) if text else ""  # noqa: PTH109, PTH111, PTH118


def _apply_flag(mount: pb.Mount, option: str, label: str) -> None:
    if option == "ro":
        mount.read_only = True
    elif option == "nocopy":
        mount.no_copy = True
    elif option in _CONSISTENCY:
        _apply_consistency(mount, option, label)
    elif option in _SHARED:
        raise InvalidInputError(f"{label}: mounts do not pass between host and zone", hint="leave out the propagation")
    elif option not in _IGNORED:
        raise InvalidInputError(f"{label}: the option {option!r} is unknown", hint="ro, rw, or nocopy for a volume")


def _apply_consistency(mount: pb.Mount, value: str, label: str) -> None:
    if value not in (*_CONSISTENCY, "default"):
        raise InvalidInputError(f"{label}: {value!r} is no consistency", hint=f"one of {', '.join(_CONSISTENCY)}")
    mount.cached = value == "cached"
    mount.delegated = value == "delegated"


def _fields(text: str, label: str) -> Sequence[str]:
    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as error:
        raise InvalidInputError(f"{label}: {error}", hint="pairs of key=value with commas between them") from error
    return rows[0] if rows else ()


def _truth(value: str, equals: str, label: str) -> bool:
    if not equals or value.lower() in ("true", "1"):
        return True
    if value.lower() in ("false", "0"):
        return False
    raise InvalidInputError(f"{label}: {value!r} is neither true nor false")


def _mode(value: str, label: str) -> int:
    try:
        return int(value, 8)
    except ValueError:
        raise InvalidInputError(f"{label}: {value!r} is no mode", hint="octal, such as 1777") from None
