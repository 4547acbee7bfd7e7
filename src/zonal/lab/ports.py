"""Published ports of zones in a lab, as ports of this machine: QEMU's user network forwards them while it runs.

A forward leads to a port of the lab's host, and from there on to the zone. Which there are is noted in a file of the
lab's, so that a lab that was resumed forwards them again, and one that was booted those of zones that start by their
policy.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import re
import socket
from collections.abc import Awaitable, Callable, Collection, Generator, Iterable
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, cast

from zonal.errors import AlreadyExistsError, ZonalError
from zonal.lab.paths import LabPaths, cache

if TYPE_CHECKING:
    from qemu.qmp import QMPClient

    from zonal.api import control_pb2 as pb

LOOPBACK = "127.0.0.1"
FILE = "forwards.json"
_NETWORK = "net"
_ANY = "0.0.0.0"
_LINE = re.compile(r"\s*(TCP|UDP)\[HOST_FORWARD\]\s+\S+\s+(\S+)\s+(\d+)\s+\S+\s+(\d+)\s")


@dataclass(frozen=True, order=True)
class Forward:
    """A port of this machine, and the port of the lab's host to which it leads."""

    protocol: str
    address: str
    port: int
    inside: int

    def __str__(self) -> str:
        return f"{self.address}:{self.port}/{self.protocol}"


def free_port(address: str, protocol: str) -> int:
    """A port of this machine that is free now."""
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def any_forwards(name: str) -> bool:
    """Whether a lab forwards any port of this machine; costs next to nothing."""
    return bool(_noted(cache().lab(name)))


def add(name: str, forwards: Iterable[Forward]) -> None:
    """Forwards these as well. Raises ``AlreadyExistsError`` when a port of this machine is taken: then none of them."""
    paths = cache().lab(name)
    with _locked(paths):
        noted = _noted(paths)
        wanted = [forward for forward in forwards if forward not in noted]
        asyncio.run(_add(paths, wanted))
        _note(paths, [*noted, *wanted])


def keep(name: str, inside: Collection[tuple[str, int]]) -> None:
    """Gives up all forwards but those to these ports of the lab's host, pairs of a protocol and a number."""
    paths = cache().lab(name)
    with _locked(paths):
        noted = _noted(paths)
        gone = [forward for forward in noted if (forward.protocol, forward.inside) not in inside]
        if gone:
            asyncio.run(_remove(paths, gone))
            _note(paths, [forward for forward in noted if forward not in gone])


async def restore(paths: LabPaths, living: Callable[[], Awaitable[Collection[tuple[str, int]]]] | None) -> None:
    """For a QEMU that has just begun: forwards again what was forwarded when it ended.

    ``living`` gives the ports of the host that zones have or are to have, as ``keep`` takes them; ``None`` for a lab
    that was resumed, with all its zones as they were. A port of this machine that was taken since is left out.
    """
    forwards = _noted(paths)
    if not forwards:
        return
    if living is not None:
        # Where zonald does not say, a forward that leads nowhere does no harm: the next command gives it up.
        with suppress(ZonalError):
            inside = await living()
            forwards = [forward for forward in forwards if (forward.protocol, forward.inside) in inside]
    kept: list[Forward] = []
    for forward in forwards:
        with suppress(ZonalError):
            await _add(paths, [forward])
            kept.append(forward)
    _note(paths, kept)


def living_ports(zones: Iterable[pb.Zone]) -> set[tuple[str, int]]:
    """Ports of the host that zones have, as ``keep`` takes them; also of those that wait for their restart."""
    return {(port.protocol, port.host_port) for zone in zones for port in zone.ports}


def parse_forwards(text: str) -> set[Forward]:
    """What QEMU's ``info usernet`` says that it forwards."""
    return {
        Forward(match[1].lower(), _ANY if match[2] == "*" else match[2], int(match[3]), int(match[4]))
        for match in map(_LINE.match, text.splitlines())
        if match
    }


async def _add(paths: LabPaths, forwards: list[Forward]) -> None:
    from zonal.lab.monitor import monitor

    done: list[Forward] = []
    async with monitor(paths) as client:
        there = parse_forwards(await _say(client, "info usernet"))
        for forward in forwards:
            if forward in there:
                continue
            rule = f"{forward.protocol}:{forward.address}:{forward.port}-:{forward.inside}"
            if (await _say(client, f"hostfwd_add {_NETWORK} {rule}")).strip():
                for other in done:
                    await _say(client, _removal(other))
                raise AlreadyExistsError(
                    f"{forward} of this machine cannot be published: is the port taken?", hint="publish another one"
                )
            done.append(forward)


async def _remove(paths: LabPaths, forwards: list[Forward]) -> None:
    from zonal.lab.monitor import monitor

    # A lab whose QEMU has ended forwards nothing.
    with suppress(ZonalError):
        async with monitor(paths) as client:
            for forward in forwards:
                await _say(client, _removal(forward))


def _removal(forward: Forward) -> str:
    return f"hostfwd_remove {_NETWORK} {forward.protocol}:{forward.address}:{forward.port}"


async def _say(client: QMPClient, line: str) -> str:
    return cast("str", await client.execute("human-monitor-command", {"command-line": line}))


@contextmanager
def _locked(paths: LabPaths) -> Generator[None]:
    with (paths.folder / f"{FILE}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _noted(paths: LabPaths) -> list[Forward]:
    try:
        return [Forward(**each) for each in json.loads((paths.folder / FILE).read_text())]
    except (OSError, ValueError, TypeError):
        return []


def _note(paths: LabPaths, forwards: list[Forward]) -> None:
    file = paths.folder / FILE
    if not forwards:
        file.unlink(missing_ok=True)
        return
    new = file.with_suffix(".new")
    new.write_text(json.dumps([asdict(forward) for forward in forwards]))
    new.replace(file)
