"""The configuration of an image: OCI image specification 1.1, "OCI Image Configuration", which is docker's too."""

from __future__ import annotations

import calendar
import hashlib
import json
import re
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from zonal.errors import InvalidInputError
from zonal.images.documents import Node, read_object
from zonal.images.healthcheck import HealthCheck, parse_healthcheck

PLATFORM: Final = "linux/amd64"
"""The only one that a zone can run."""
DEFAULT_STOP_SIGNAL: Final = signal.SIGTERM

_ARCHITECTURES: Final = ("amd64", "x86_64")
_TIME: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,18}))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII
)
_PORT: Final = re.compile(r"[0-9]{1,5}(?:-[0-9]{1,5})?(?:/(?:tcp|udp|sctp))?")


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What an image says about running it."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    """``NAME=value`` each; a name occurs once."""
    working_directory: str = "/"
    user: str = ""
    """Name or number, with ``:group`` or not; empty is root."""
    stop_signal: int = DEFAULT_STOP_SIGNAL
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    created_ns: int = 0
    """Wall clock, ns since the epoch; 0 when the image does not say."""
    diff_ids: tuple[str, ...] = ()
    """Digest of each layer's uncompressed tar, the lowest first."""
    health: HealthCheck | None = None


def parse_config(document: bytes, label: str) -> ImageConfig:
    """Read and check a whole configuration.

    Raises:
        InvalidInputError: malformed, or for a platform that a zone cannot run.
    """
    root = read_object(document, label)
    check_platform(root.text("os"), root.text("architecture"), label)
    rootfs = root.node("rootfs")
    if rootfs.text("type") != "layers":
        raise rootfs.refuse("type", f"is {rootfs.text('type')!r}, not 'layers'")
    diff_ids = rootfs.digests("diff_ids")
    if not diff_ids:
        raise rootfs.refuse("diff_ids", "is empty: the image has no layers")
    return _settings(root.node("config"), parse_time(root.text("created"), label), diff_ids)


def make_config(settings: bytes, diff_ids: Sequence[str], label: str) -> bytes:
    """The configuration for a root filesystem that came without one.

    ``settings`` is JSON: either what is under ``config`` in a configuration (``{"Cmd": ["bash"], …}``), or a whole
    one, of which ``config``, ``created``, ``author`` and ``history`` are taken; empty for none. The same arguments
    give the same bytes.

    Raises:
        InvalidInputError: the settings are malformed.
    """
    inner: dict[str, Any] = {}
    outer: dict[str, Any] = {}
    if settings.strip():
        read_object(settings, label)
        given: dict[str, Any] = json.loads(settings)
        if "config" in given or "architecture" in given:
            inner = given.get("config") or {}
            outer = {key: given[key] for key in ("created", "author", "history") if key in given}
        else:
            inner = given
    document = json.dumps(
        {
            **outer,
            "architecture": "amd64",
            "os": "linux",
            "config": inner,
            "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
        },
        separators=(",", ":"),
        sort_keys=True,
    ).encode()
    parse_config(document, label)
    return document


def check_platform(system: str, architecture: str, label: str) -> None:
    """Refuse what is not for Linux on x86-64.

    Raises:
        InvalidInputError: it is for something else.
    """
    if system != "linux" or architecture not in _ARCHITECTURES:
        raise InvalidInputError(
            f"{label} is for {system or 'an unnamed system'}/{architecture or 'an unnamed architecture'}",
            hint=f"a zone runs {PLATFORM} only: get the image for that",
        )


def chain_id(diff_ids: Sequence[str]) -> str:
    """Digest that names a stack of layers: image specification, "Layer ChainID"."""
    chain = diff_ids[0]
    for diff_id in diff_ids[1:]:
        chain = f"sha256:{hashlib.sha256(f'{chain} {diff_id}'.encode()).hexdigest()}"
    return chain


def parse_signal(text: str) -> int:
    """Number of a signal such as ``SIGTERM``, ``TERM``, ``SIGRTMIN+3`` or ``15``, on x86-64.

    Raises:
        InvalidInputError: there is no such signal.
    """
    name = text.upper().removeprefix("SIG")
    base, _, above = name.partition("+")
    if base == "RTMIN" and (not above or above.isdecimal()):
        number = 34 + int(above[:3] or "0")
    elif name.isascii() and name.isdecimal():
        number = int(name[:3])
    else:
        number = int(signal.Signals.__members__.get(f"SIG{name}", 0))
    if not 1 <= number <= 64:
        raise InvalidInputError(f"there is no signal {text!r}", hint="give a name such as SIGTERM, or a number")
    return number


def parse_time(text: str, label: str) -> int:
    """Nanoseconds since the epoch of an RFC 3339 time; 0 for none, and for one before the epoch.

    Raises:
        InvalidInputError: malformed.
    """
    if not text:
        return 0
    match = _TIME.fullmatch(text)
    if not match:
        raise InvalidInputError(f"{label}: the time {text[:40]!r} is malformed", hint="RFC 3339 has the form")
    year, month, day, hour, minute, second = (int(part) for part in match.group(1, 2, 3, 4, 5, 6))
    seconds = calendar.timegm((year, month, day, hour, minute, second))
    if match[8]:
        offset = 3600 * int(match[9]) + 60 * int(match[10])
        seconds -= offset if match[8] == "+" else -offset
    return max(0, seconds * 10**9 + int((match[7] or "0")[:9].ljust(9, "0")))


def format_time(created_ns: int) -> str:
    """RFC 3339 in whole seconds, as a configuration's ``created`` wants it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(created_ns // 10**9))


def _settings(config: Node, created_ns: int, diff_ids: tuple[str, ...]) -> ImageConfig:
    working_directory = config.text("WorkingDir") or "/"
    if not working_directory.startswith("/"):
        working_directory = f"/{working_directory}"
    stop_signal = config.text("StopSignal")
    for port in config.keys("ExposedPorts"):
        if not _PORT.fullmatch(port):
            raise config.refuse("ExposedPorts", f"has {port!r}, which is not a port")
    for volume in config.keys("Volumes"):
        if not volume.startswith("/"):
            raise config.refuse("Volumes", f"has {volume!r}, which is not an absolute path")
    return ImageConfig(
        entrypoint=config.texts("Entrypoint"),
        command=config.texts("Cmd"),
        env=_environment(config),
        working_directory=working_directory,
        user=config.text("User"),
        stop_signal=parse_signal(stop_signal) if stop_signal else DEFAULT_STOP_SIGNAL,
        exposed_ports=config.keys("ExposedPorts"),
        volumes=config.keys("Volumes"),
        labels=config.table("Labels"),
        created_ns=created_ns,
        diff_ids=diff_ids,
        health=parse_healthcheck(config),
    )


def _environment(config: Node) -> tuple[str, ...]:
    """The variables, the last value of each name in the place of its first."""
    variables: dict[str, str] = {}
    for entry in config.texts("Env"):
        name, equals, _ = entry.partition("=")
        if not name or not equals:
            raise config.refuse("Env", f"has {entry[:80]!r}, which is not NAME=value")
        variables[name] = entry
    return tuple(variables.values())
