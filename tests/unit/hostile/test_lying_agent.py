"""Zones whose agent lies in every field, beside an honest one: zonald, and what it says of them, stay as they should.

zonald is the real one, on the simulation's stand-in for Xen. A rotating part of the lies is told, or all of them with
``ZONAL_LIES=all`` in the environment.
"""

from __future__ import annotations

import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from benchmarks.simulation.zonald import Zonald, simulated
from prometheus_client.parser import text_string_to_metric_families

from tests.hostile.lies import every_field_once, lies_about
from zonal.agent.protocol import cbor
from zonal.api import control_pb2 as pb

PROGRAM = "tests.hostile.machine"
BATCH = 25
PATIENCE = 30.0
REFUSED, TAKEN_OVER = b"broke the agent's protocol", b" taken over, domain "
OURS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}
"""What a fault of zonald's is told as."""


@pytest.fixture(scope="module")
def said() -> dict[str, Any]:
    """Every kind of message that an honest agent sends, as it sends it."""
    with tempfile.TemporaryDirectory(prefix="zonal-") as folder, _machine(Path(folder), []) as zonald:
        zone = zonald.run()
        zonald.scrape()
        zonald.end(9)
        zonald.begin()  # and meets the agent again, whose HELLO has a workload now
        _wait_until_served(zonald, zone)
        zonald.kill(zone)
        while zonald.list():
            time.sleep(0.02)
        paths = Path(folder, "machine", "said").iterdir()
        return {path.name: cbor.decode(path.read_bytes()) for path in paths}


def test_what_lies_are_made_of_is_all_that_agents_say(said: dict[str, Any]) -> None:
    assert {"hello", "reply:run", "reply:prepare_root", "reply:statistics", "event:memory", "event:exited"} <= set(said)
    assert "figures" in said["reply:statistics"]["result"]
    assert "streams" in said["hello"]["workloads"][0]


@pytest.mark.timeout(900)
def test_no_lie_does_harm_beyond_its_zone(said: dict[str, Any]) -> None:
    lies = list(lies_about(said))
    if os.environ.get("ZONAL_LIES") != "all":
        lies = every_field_once(lies, 1)
    with tempfile.TemporaryDirectory(prefix="zonal-") as folder, _machine(Path(folder), lies) as zonald:
        honest, log = zonald.run(), Path(folder, "zonald.log")
        _wait_until_served(zonald, honest)
        descriptors, resident = zonald.descriptors(), zonald.resident_bytes()
        for begin in range(0, len(lies), BATCH):
            numbers = range(begin, min(begin + BATCH, len(lies)))
            zones = {*_run_liars(zonald, numbers)} - {honest}
            _check_what_is_told(zonald, honest)
            if any(lie["of"] == "hello" for number in numbers for lie in lies[number]):
                zonald.end(9)  # what an agent says of itself is heard when it is met again
                seen = log.stat().st_size
                zonald.begin()
                _wait_until_met(log, seen, len(zones) + 1)
                _wait_until_served(zonald, honest)
                _check_what_is_told(zonald, honest)
            for zone in zones:
                _try(lambda zone=zone: zonald.remove(zone))
            assert [zone.id for zone in zonald.list(everything=True) if zone.state == pb.ZONE_STATE_RUNNING] == [honest]
            for zone in zonald.list(everything=True):
                if zone.id != honest:
                    zonald.remove(zone.id)
        _check_what_is_told(zonald, honest)
        assert [zone.id for zone in zonald.list(everything=True)] == [honest]
        assert zonald.descriptors() <= descriptors + 4
        assert zonald.resident_bytes() < 2 * resident
        zonald.remove(honest)
        told = log.read_bytes()

    assert b"Traceback" not in told, told.decode(errors="replace")
    assert not [byte for byte in set(told) if byte < 0x20 and byte != 0x0A]
    assert b"\nzonal_zones_running 666" not in told
    assert told.count(REFUSED) > len(lies) // 4  # they are heard, and told from the truth


def _run_liars(zonald: Zonald, numbers: range) -> list[str]:
    """Starts a zone for each, a few at once; one that never answers is left to itself."""
    pool = ThreadPoolExecutor(len(numbers))
    runs = [pool.submit(_try, lambda number=number: zonald.run(f"lie-{number}")) for number in numbers]
    deadline = time.monotonic() + PATIENCE
    while not all(run.done() for run in runs) and time.monotonic() < deadline:
        known = {zone.id for zone in zonald.list(everything=True)}
        if sum(not run.done() for run in runs) <= 6 and len(known) >= len(numbers) - sum(run.done() for run in runs):
            time.sleep(0.5)  # those that are left wait for an agent that says nothing
            break
        time.sleep(0.05)
    pool.shutdown(wait=False)
    return [zone.id for zone in zonald.list(everything=True)]


def _try(call: Any) -> Any:
    """Does it, or fails in a way that is the zone's fault, in words that a terminal can show."""
    try:
        return call()
    except grpc.RpcError as error:
        refusal: Any = error
        assert refusal.code() not in OURS, refusal
        assert refusal.details().replace("\n", " ").isprintable(), refusal
        return ""


def _check_what_is_told(zonald: Zonald, honest: str) -> None:
    text = zonald.scrape().decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert all(line.isprintable() for line in text.splitlines())
    (name,) = [zone.name for zone in zonald.list() if zone.id == honest]
    up = [each.value for each in samples if each.name == "zonal_zone_channel_up" and name in each.labels.values()]
    assert up == [1.0]
    assert 666 not in [sample.value for sample in samples if sample.name == "zonal_zones_running"]
    for zone in zonald.list(everything=True):
        said = [zone.name, zone.reason, zone.kernel_release, zone.hostname, *zone.addresses]
        assert all(word.replace("\n", "").isprintable() for word in said), said
    assert zonald.logs(honest) == b"a stand-in works\n"


def _wait_until_served(zonald: Zonald, zone: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while zonald.logs(zone) != b"a stand-in works\n" or b"channel_up{" not in zonald.scrape():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _wait_until_met(log: Path, position: int, zones: int) -> None:
    """Until each has been taken over or found out; one that says nothing may be neither."""
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        said = log.read_bytes()[position:]
        if said.count(REFUSED) + said.count(TAKEN_OVER) >= zones:
            return
        time.sleep(0.05)


def _machine(folder: Path, lies: Any) -> Any:
    for name in ("machine", "state"):
        (folder / name).mkdir(mode=0o700)
    (folder / "machine" / "lies").write_bytes(cbor.encode(lies))
    return simulated(folder, PROGRAM)
