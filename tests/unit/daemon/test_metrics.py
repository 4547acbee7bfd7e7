from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tests.unit.daemon.conftest import Client, spec
from zonal.api import control_pb2 as pb
from zonal.daemon.metrics import http, serving_metrics
from zonal.daemon.metrics.history import BUCKETS, MAX_NAMES, Histogram, History
from zonal.daemon.metrics_address import MetricsAddress, parse_metrics_address
from zonal.errors import InvalidInputError, UnavailableError
from zonal.zones.spec import Phase

GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
Samples = dict[tuple[str, str], float]


async def ask(socket: Path, request: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(socket))
    writer.write(request)
    try:
        return await reader.read()
    finally:
        writer.close()


async def samples(socket: Path) -> Samples:
    """Values by name and the labels' values."""
    head, _, body = (await ask(socket, GET)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n"), head
    assert f"Content-Length: {len(body)}".encode() in head
    found: Samples = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            found[sample.name, ",".join(sample.labels.values())] = sample.value
    return found


@asynccontextmanager
async def served(client: Client, folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Path]:
    monkeypatch.setattr("zonal.daemon.metrics.exposition.FRESH", -1.0)
    socket = folder / "metrics.sock"
    async with serving_metrics(client.services, MetricsAddress(socket=socket), folder):
        yield socket
    assert not socket.exists()


async def test_series_come_with_zones_and_go_with_them(
    client: Client, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(client, folder, monkeypatch) as socket:
        assert socket.stat().st_mode & 0o777 == 0o600
        before = await samples(socket)
        assert before["zonal_zones", "running"] == 0
        assert before["zonal_host_memory_free_bytes", ""] == 1 << 30
        assert before["zonal_start_seconds_count", ""] == 0
        await client.run(spec("sleep", "100", name="seen", detach=True))
        during = await samples(socket)
        assert during["zonal_zones", "running"] == 1
        assert during["zonal_zone_memory_bytes", "seen"] == 1 << 20
        assert during["zonal_zone_network_sent_bytes_total", "seen"] == 4
        assert during["zonal_zone_channel_up", "seen"] == 1
        assert during["zonal_zone_channel_answer_seconds", "seen"] == 0.01
        assert during["zonal_zone_cpu_seconds_total", "seen"] > 0
        assert during["zonal_events_total", "start"] == during["zonal_start_seconds_count", ""] == 1
        assert during["zonal_start_phase_seconds_count", "launch"] == 1
        await client.call("RemoveZone", pb.RemoveZoneRequest(zone="seen", force=True), pb.RemoveZoneReply)
        after = await samples(socket)
        assert after["zonal_zones", "running"] == 0
        assert not [name for name in after if "seen" in name[1]]
        assert after["zonal_start_seconds_count", ""] == 1


async def test_openmetrics_is_given_to_who_asks_for_it(
    client: Client, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(client, folder, monkeypatch) as socket:
        accept = b"GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text; version=1.0.0\r\n\r\n"
        head, _, body = (await ask(socket, accept)).partition(b"\r\n\r\n")
        assert b"Content-Type: application/openmetrics-text; version=1.0.0" in head
        assert body.endswith(b"# EOF\n")
        assert "zonal_zones" in {
            family.name for family in cast("Any", openmetrics).text_string_to_metric_families(body.decode())
        }


async def test_what_is_no_request_for_figures_is_refused(
    client: Client, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(client, folder, monkeypatch) as socket:
        for request, status in (
            (b"GET / HTTP/1.1\r\n\r\n", b"404"),
            (b"GET /metrics/../x HTTP/1.1\r\n\r\n", b"404"),
            (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
            (b"\x16\x03\x01\x00\r\n\r\n", b"400"),
            (b"GET /metrics HTTP/2\r\n\r\n", b"400"),
            (b"GET /metrics?x=1 HTTP/1.0\r\n\r\n", b"200"),
            (b"GET /metrics HTTP/1.1\r\nA: " + b"a" * 65536 + b"\r\n\r\n", b"431"),
        ):
            assert (await ask(socket, request)).split(b" ")[1] == status, request[:40]
        answer = await ask(socket, b"HEAD /metrics HTTP/1.1\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.endswith(b"\r\n\r\n")


async def test_who_only_listens_is_sent_away_and_others_are_served(
    client: Client, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "HEAD_TIMEOUT", 0.3)
    async with served(client, folder, monkeypatch) as socket:
        idle = [await asyncio.open_unix_connection(str(socket)) for _ in range(http.MAX_CONNECTIONS + 3)]
        assert [await reader.read() for reader, _ in idle] == [b""] * len(idle)
        assert (await ask(socket, GET)).startswith(b"HTTP/1.1 200")
        for _, writer in idle:
            writer.close()


async def test_many_that_ask_at_once_have_zones_asked_once(client: Client, folder: Path) -> None:
    asked = 0
    zones: Any = client.services.zones
    list_zones = zones.list

    async def counted() -> Any:
        nonlocal asked
        asked += 1
        return await list_zones()

    zones.list = counted
    socket = folder / "metrics.sock"
    async with serving_metrics(client.services, MetricsAddress(socket=socket), folder):
        answers = await asyncio.gather(*(ask(socket, GET) for _ in range(10)))
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
    assert asked <= 2


async def test_an_address_that_cannot_be_had(client: Client, folder: Path) -> None:
    for address in (MetricsAddress(socket=folder / "no/such"), MetricsAddress(host="192.0.2.1", port=9)):
        with pytest.raises(UnavailableError, match="metrics cannot be served on"):
            async with serving_metrics(client.services, address, folder):
                pass
    kept = folder / "file"
    kept.write_text("mine")
    with pytest.raises(UnavailableError):
        async with serving_metrics(client.services, MetricsAddress(socket=kept), folder):
            pass
    assert kept.read_text() == "mine"


def test_addresses() -> None:
    assert parse_metrics_address("9100") == MetricsAddress(host="127.0.0.1", port=9100)
    assert str(parse_metrics_address("[::1]:9100")) == "[::1]:9100"
    assert parse_metrics_address("0.0.0.0:1").host == "0.0.0.0"
    assert parse_metrics_address("unix:/run/x").socket == parse_metrics_address("/run/x").socket == Path("/run/x")
    for text in ("", "x", "0", "65536", "host:80", ":80", "1.2.3:80", "::1:80", "[1.2.3.4:80", "80 ", "-1", "run/x"):
        with pytest.raises(InvalidInputError):
            parse_metrics_address(text)


def test_times_fall_into_buckets() -> None:
    histogram = Histogram()
    for seconds in (0.0, 0.005, 0.006, 1.0, 1000.0):
        histogram.observe(seconds)
    found = dict(histogram.cumulative())
    assert (found["0.005"], found["0.01"], found["1.0"], found["120.0"], found["+Inf"]) == (2, 3, 4, 4, 5)
    assert len(found) == len(BUCKETS) + 1


async def test_names_are_bounded(client: Client) -> None:
    history = History(client.services.zones)
    for number in range(100):
        history.started([Phase(f"phase {number}", 0, 10**9)])
    assert len(history.phases) == MAX_NAMES + 1
    assert dict(history.phases["other"].cumulative())["+Inf"] == 100 - MAX_NAMES
