"""Forwards of a lab's ports over the ends of its QEMU; QEMU's monitor is a stand-in."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from zonal.api import control_pb2 as pb
from zonal.errors import UnavailableError
from zonal.lab import monitor, ports
from zonal.lab.paths import LabPaths
from zonal.lab.ports import Forward, living_ports, restore

WEB, DNS, OLD = Forward("tcp", "0.0.0.0", 8080, 8080), Forward("udp", "127.0.0.1", 53, 53), Forward("tcp", "::1", 9, 9)


class Qemu:
    """What its monitor is told; ``taken`` are ports of this machine that are somebody else's."""

    def __init__(self) -> None:
        self.forwards: list[str] = []
        self.taken: set[int] = set()

    async def execute(self, command: str, arguments: dict[str, Any]) -> str:
        assert command == "human-monitor-command"
        verb, *words = arguments["command-line"].split()
        if verb != "hostfwd_add":
            return ""
        rule = words[-1]
        if any(f":{port}-" in rule for port in self.taken):
            return "Could not set up host forwarding rule"
        self.forwards.append(rule)
        return ""


@pytest.fixture
def qemu(monkeypatch: pytest.MonkeyPatch) -> Qemu:
    made = Qemu()

    @asynccontextmanager
    async def session(_paths: LabPaths) -> AsyncGenerator[Qemu]:
        yield made

    monkeypatch.setattr(monitor, "monitor", session)
    return made


@pytest.fixture
def paths(tmp_path: Path, qemu: Qemu, monkeypatch: pytest.MonkeyPatch) -> LabPaths:
    """A lab that has forwarded three ports, and whose QEMU has ended."""
    monkeypatch.setenv("ZONAL_CACHE", str(tmp_path))
    found = LabPaths(tmp_path / "labs" / "trial", tmp_path / "locks" / "trial")
    found.folder.mkdir(parents=True)
    ports.add("trial", [WEB, DNS, OLD])
    qemu.forwards.clear()
    return found


async def test_a_lab_that_was_resumed_forwards_all_again(paths: LabPaths, qemu: Qemu) -> None:
    await restore(paths, None)
    assert qemu.forwards == ["tcp:0.0.0.0:8080-:8080", "udp:127.0.0.1:53-:53", "tcp:::1:9-:9"]


async def test_a_lab_that_was_booted_forwards_those_of_zones_that_start_by_their_policy(
    paths: LabPaths, qemu: Qemu
) -> None:
    async def living() -> set[tuple[str, int]]:
        return living_ports(
            [
                pb.Zone(state=pb.ZONE_STATE_RESTARTING, ports=[pb.Port(host_port=8080, zone_port=80, protocol="tcp")]),
                pb.Zone(state=pb.ZONE_STATE_RUNNING, ports=[pb.Port(host_port=53, zone_port=53, protocol="udp")]),
            ]
        )

    await restore(paths, living)
    assert qemu.forwards == ["tcp:0.0.0.0:8080-:8080", "udp:127.0.0.1:53-:53"]
    qemu.forwards.clear()
    await restore(paths, None)  # and no more is noted
    assert len(qemu.forwards) == 2


async def test_without_a_zone_nothing_is_forwarded(paths: LabPaths, qemu: Qemu) -> None:
    async def living() -> set[tuple[str, int]]:
        return set()

    await restore(paths, living)
    assert not qemu.forwards
    assert not ports.any_forwards("trial")


async def test_a_zonald_that_does_not_say_loses_no_forward(paths: LabPaths, qemu: Qemu) -> None:
    async def living() -> set[tuple[str, int]]:
        raise UnavailableError("it hangs")

    await restore(paths, living)
    assert len(qemu.forwards) == 3


async def test_a_port_that_was_taken_meanwhile_is_left_out(paths: LabPaths, qemu: Qemu) -> None:
    qemu.taken = {8080}
    await restore(paths, None)
    assert qemu.forwards == ["udp:127.0.0.1:53-:53", "tcp:::1:9-:9"]
