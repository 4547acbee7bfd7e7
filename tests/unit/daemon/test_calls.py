from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import grpc
import grpc.aio
import pytest

import zonal
from tests.unit.daemon.conftest import Client, metadata, spec
from zonal.api import control_pb2 as pb
from zonal.cli.client import Control
from zonal.daemon.info import source_digest
from zonal.errors import InvalidInputError, ResourceExhaustedError, ZoneFailedError
from zonal.lab.source import read_source

SLEEP = ("sh", "-c", "trap 'exit 3' TERM; echo started; while :; do sleep 0.05; done")


async def start(client: Client, *command: str, **values: Any) -> str:
    return (await client.run(spec(*(command or SLEEP), detach=True, **values)))[0].started.zone_id


async def refused(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


async def test_info(client: Client) -> None:
    reply = await client.call("Info", pb.InfoRequest(), pb.InfoReply)
    assert reply.version == zonal.__version__
    assert reply.xen_version == "4.20.4"
    assert reply.resident_bytes > 1 << 20
    assert reply.source_digest == source_digest()


def test_the_digest_of_the_sources_is_the_labs() -> None:
    assert source_digest() == read_source().digest


async def test_list_shows_the_living_or_all(client: Client) -> None:
    await client.run(spec("true", name="ended"))
    await start(client, name="alive")
    living = await client.call("ListZones", pb.ListZonesRequest(), pb.ListZonesReply)
    everything = await client.call("ListZones", pb.ListZonesRequest(all=True), pb.ListZonesReply)
    assert [zone.name for zone in living.zones] == ["alive"]
    assert [zone.name for zone in everything.zones] == ["ended", "alive"]
    assert living.zones[0].state == pb.ZONE_STATE_RUNNING
    assert list(living.zones[0].command) == list(SLEEP)


async def test_inspect_by_id_beginning_and_name(client: Client) -> None:
    zone_id = await start(client, name="this-one")
    for ref in (zone_id, zone_id[:5], "this-one"):
        assert (await client.call("InspectZone", pb.ZoneRef(zone=ref), pb.Zone)).id == zone_id


@pytest.mark.parametrize(
    ("name", "request_", "reply"),
    [
        ("InspectZone", pb.ZoneRef(zone="none"), pb.Zone),
        ("StopZone", pb.StopZoneRequest(zone="none"), pb.StopZoneReply),
        ("KillZone", pb.KillZoneRequest(zone="none"), pb.KillZoneReply),
        ("WaitZone", pb.ZoneRef(zone="none"), pb.WaitZoneReply),
        ("RemoveZone", pb.RemoveZoneRequest(zone="none"), pb.RemoveZoneReply),
        ("StartZone", pb.ZoneRef(zone="none"), pb.StartZoneReply),
        ("RestartZone", pb.StopZoneRequest(zone="none"), pb.StartZoneReply),
        ("PauseZone", pb.ZoneRef(zone="none"), pb.PauseZoneReply),
        ("UnpauseZone", pb.ZoneRef(zone="none"), pb.PauseZoneReply),
        ("UpdateZone", pb.UpdateZoneRequest(zone="none"), pb.UpdateZoneReply),
        ("RenameZone", pb.RenameZoneRequest(zone="none", name="some"), pb.RenameZoneReply),
        ("ZoneStats", pb.ZoneStatsRequest(zones=["none"]), pb.ZoneStatsReply),
        ("ZoneProcesses", pb.ZoneRef(zone="none"), pb.ZoneProcessesReply),
        ("InspectImage", pb.ImageRef(reference="none"), pb.ImageDetails),
        ("RemoveImage", pb.RemoveImageRequest(reference="none"), pb.RemoveImageReply),
    ],
)
async def test_what_is_not_there_is_not_found(client: Client, name: str, request_: Any, reply: Any) -> None:
    assert await refused(client.call(name, request_, reply)) is grpc.StatusCode.NOT_FOUND


async def test_stop_sends_the_stop_signal(client: Client) -> None:
    zone_id = await start(client)
    await client.zones.running(zone_id).grown.wait()
    reply = await client.call("StopZone", pb.StopZoneRequest(zone=zone_id), pb.StopZoneReply)
    assert (reply.zone.state, reply.zone.exit_status) == (pb.ZONE_STATE_EXITED, 3)


async def test_stop_kills_what_does_not_listen(client: Client) -> None:
    zone_id = await start(client, "sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.05; done")
    await client.zones.running(zone_id).grown.wait()
    reply = await client.call("StopZone", pb.StopZoneRequest(zone=zone_id, timeout_seconds=0), pb.StopZoneReply)
    assert reply.zone.exit_status == 137


async def test_kill_and_wait(client: Client) -> None:
    zone_id = await start(client)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(client.call("WaitZone", pb.ZoneRef(zone=zone_id), pb.WaitZoneReply))
        await client.call("KillZone", pb.KillZoneRequest(zone=zone_id), pb.KillZoneReply)
    assert waiting.result().status == 137
    again = client.call("KillZone", pb.KillZoneRequest(zone=zone_id), pb.KillZoneReply)
    assert await refused(again) is grpc.StatusCode.FAILED_PRECONDITION


async def test_only_signals_that_exist_are_sent(client: Client) -> None:
    zone_id = await start(client)
    call = client.call("KillZone", pb.KillZoneRequest(zone=zone_id, signal=65), pb.KillZoneReply)
    assert await refused(call) is grpc.StatusCode.INVALID_ARGUMENT


async def test_remove_refuses_the_living_but_by_force(client: Client) -> None:
    zone_id = await start(client)
    call = client.call("RemoveZone", pb.RemoveZoneRequest(zone=zone_id), pb.RemoveZoneReply)
    assert await refused(call) is grpc.StatusCode.FAILED_PRECONDITION
    await client.call("RemoveZone", pb.RemoveZoneRequest(zone=zone_id, force=True), pb.RemoveZoneReply)
    assert client.zones.store.list() == []


async def test_logs_whole_or_their_end(client: Client) -> None:
    zone_id = (await client.run(spec("sh", "-c", "echo 1; echo 2; echo 3")))[0].started.zone_id

    async def logs(**values: Any) -> bytes:
        call = client.stream("ZoneLogs", pb.ZoneLogsRequest(zone=zone_id, **values), pb.OutputChunk)
        return b"".join([chunk.stdout async for chunk in call])

    assert await logs() == b"1\n2\n3\n"
    stamped = (await logs(timestamps=True)).splitlines()
    assert [line.partition(b"Z ")[2] for line in stamped] == [b"1", b"2", b"3"]
    assert await logs(since_ns=time.time_ns()) == b""
    assert await logs(until_ns=1) == b""
    assert await refused(logs(since_ns=-1)) is grpc.StatusCode.INVALID_ARGUMENT
    assert await logs(tail=2) == b"2\n3\n"
    assert await logs(tail=0) == b""


async def test_console(client: Client) -> None:
    zone_id = await start(client)
    call = client.stream("ZoneConsole", pb.ZoneConsoleRequest(zone=zone_id), pb.OutputChunk)
    assert b"Linux version" in b"".join([chunk.stdout async for chunk in call])


def upload(data: bytes, **header: Any) -> Iterator[pb.ImportImageRequest]:
    yield pb.ImportImageRequest(header=pb.ImportImageHeader(**header))
    for begin in range(0, len(data), 100_000):
        yield pb.ImportImageRequest(data=data[begin : begin + 100_000])


async def import_image(client: Client, requests: Iterator[pb.ImportImageRequest]) -> list[pb.ImportImageReply]:
    replies = [reply async for reply in client.converse("ImportImage", requests, pb.ImportImageReply)]
    assert list(client.services.spool.iterdir()) == []
    return replies


async def attempt_import(client: Client, requests: Iterator[pb.ImportImageRequest]) -> None:
    """With the command line's own client: gRPC's asyncio client may lose the status of a call while it sends."""

    def attempt() -> None:
        with grpc.insecure_channel(client.target) as channel:
            list(Control(channel).converse("ImportImage", requests, pb.ImportImageReply))

    await asyncio.to_thread(attempt)


@pytest.mark.parametrize("turns", range(12))
async def test_an_import_that_fails_while_its_first_reply_is_on_its_way_ends(client: Client, turns: int) -> None:
    async with asyncio.timeout(30):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await import_image(client, upload(b"garbage" + b"." * turns, reference="mine:1", source="x.tar"))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "x.tar is no image" in (caught.value.details() or "")


async def test_an_image_is_imported_listed_and_removed(client: Client) -> None:
    replies = await import_image(client, upload(b"x" * 1_000_000, reference="mine:1", source="x.tar"))
    assert replies[0].progress == "reading x.tar"
    assert replies[-1].image.size_bytes == 1_000_000
    listed = await client.call("ListImages", pb.ListImagesRequest(), pb.ListImagesReply)
    assert [list(image.references) for image in listed.images] == [["local:1"], ["mine:1"]]
    details = await client.call("InspectImage", pb.ImageRef(reference="mine:1"), pb.ImageDetails)
    assert details.image == replies[-1].image
    removed = await client.call("RemoveImage", pb.RemoveImageRequest(reference="mine:1"), pb.RemoveImageReply)
    assert list(removed.untagged) == ["mine:1"]


@pytest.mark.parametrize(
    "requests",
    [
        [],
        [pb.ImportImageRequest(data=b"x")],
        [*upload(b"", reference="a:1")],
        [*upload(b"garbage", reference="a:1")],
        [*upload(b"x", reference="a:1", format="zip")],
        [*upload(b"x")],
    ],
)
async def test_a_bad_image_is_refused_and_leaves_nothing(client: Client, requests: list[pb.ImportImageRequest]) -> None:
    with pytest.raises(InvalidInputError):
        await attempt_import(client, iter(requests))
    assert list(client.services.spool.iterdir()) == []
    assert len(client.services.images.list()) == 1


async def test_an_upload_that_breaks_off_leaves_nothing(client: Client) -> None:
    call = client.converse("ImportImage", None, pb.ImportImageReply)
    for request in upload(b"x" * 500_000, reference="a:1"):
        await call.write(request)
    call.cancel()
    # Another whole one is served after the first is cleared away.
    await client.call("Info", pb.InfoRequest(), pb.InfoReply)
    while list(client.services.spool.iterdir()):
        await client.call("Info", pb.InfoRequest(), pb.InfoReply)
    assert len(client.services.images.list()) == 1


async def test_no_space_is_told_before_the_disk_is_full(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zonal.daemon.uploads.RESERVE_BYTES", 1 << 62)
    with pytest.raises(ResourceExhaustedError):
        await attempt_import(client, upload(b"x", reference="a:1"))


async def test_kernels(client: Client) -> None:
    def requests(data: bytes) -> Iterator[pb.ImportKernelRequest]:
        yield pb.ImportKernelRequest(header=pb.ImportKernelHeader(name="mine", source="vmlinux"))
        yield pb.ImportKernelRequest(data=data)

    made = await client.upload("ImportKernel", requests(b"\x7fELF..."), pb.Kernel)
    assert made.name == "mine"
    listed = await client.call("ListKernels", pb.ListKernelsRequest(), pb.ListKernelsReply)
    assert [kernel.name for kernel in listed.kernels] == ["default", "mine"]
    assert await refused(client.upload("ImportKernel", requests(b"text"), pb.Kernel)) is (
        grpc.StatusCode.INVALID_ARGUMENT
    )


async def test_long_errors_arrive_with_their_end_and_hint(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    console = "\n".join(f"[{i:5}] Kernel ‘panic’ ä" for i in range(2000))

    async def panic(*_: object, **__: object) -> None:
        raise ZoneFailedError(f"the zone's kernel panicked:\n{console}", hint="zonal zone console näme")

    monkeypatch.setattr(client.zones, "run", panic)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.run(spec("true"))
    assert caught.value.code() is grpc.StatusCode.ABORTED
    message = caught.value.details() or ""
    assert message.startswith("the zone's kernel panicked:")
    assert message.endswith("[ 1999] Kernel ‘panic’ ä")
    assert len(message.encode()) <= 8192
    assert metadata(caught.value)["zonal-hint-bin"] == "zonal zone console näme".encode()


async def test_a_log_is_as_large_as_asked(client: Client) -> None:
    script = "for i in $(seq 1000 1999); do echo $i; done"
    zone_id = (await client.run(spec("sh", "-c", script, log_max_bytes=4096, log_max_files=1)))[0].started.zone_id
    files = list((client.zones.folder / zone_id).iterdir())
    assert len(files) == 1
    assert files[0].stat().st_size <= 4096


@pytest.mark.parametrize("values", [{"log_max_bytes": 100}, {"log_max_bytes": 1 << 40}, {"log_max_files": 101}])
async def test_a_log_cannot_be_of_any_size(client: Client, values: dict[str, int]) -> None:
    assert await refused(client.run(spec("true", **values))) is grpc.StatusCode.INVALID_ARGUMENT


async def test_start_and_restart_go_on_in_the_same_log(client: Client) -> None:
    zone_id = await start(client, "sh", "-c", "echo on; exit 3")
    await client.zones.wait(zone_id)
    reply = await client.call("StartZone", pb.ZoneRef(zone=zone_id), pb.StartZoneReply)
    assert reply.zone.id == zone_id
    await client.zones.wait(zone_id)
    request = pb.StopZoneRequest(zone=zone_id, timeout_seconds=1)
    await client.call("RestartZone", request, pb.StartZoneReply)
    await client.zones.wait(zone_id)
    call = client.stream("ZoneLogs", pb.ZoneLogsRequest(zone=zone_id), pb.OutputChunk)
    assert b"".join([chunk.stdout async for chunk in call]) == b"on\n" * 3
    late = client.call("RestartZone", pb.StopZoneRequest(zone=zone_id, timeout_seconds=1 << 30), pb.StartZoneReply)
    assert await refused(late) is grpc.StatusCode.INVALID_ARGUMENT


async def test_who_attaches_may_start_it_and_gets_all_of_it(client: Client) -> None:
    zone_id = await start(client, "sh", "-c", "echo on; exit 3")
    await client.zones.wait(zone_id)
    first = pb.RunRequest(attach=pb.AttachSpec(zone=zone_id, start=True))
    replies = [reply async for reply in client.converse("Attach", iter([first]), pb.RunReply)]
    assert replies[-1].exited.status == 3


async def test_pause_and_unpause(client: Client) -> None:
    zone_id = await start(client)
    zone = pb.ZoneRef(zone=zone_id)
    await client.call("PauseZone", zone, pb.PauseZoneReply)
    assert (await client.call("InspectZone", zone, pb.Zone)).state == pb.ZONE_STATE_PAUSED
    assert await refused(client.call("PauseZone", zone, pb.PauseZoneReply)) is grpc.StatusCode.FAILED_PRECONDITION
    listed = await client.call("ListZones", pb.ListZonesRequest(), pb.ListZonesReply)
    assert [each.id for each in listed.zones] == [zone_id]
    await client.call("UnpauseZone", zone, pb.PauseZoneReply)
    assert await refused(client.call("UnpauseZone", zone, pb.PauseZoneReply)) is grpc.StatusCode.FAILED_PRECONDITION


async def test_rename(client: Client) -> None:
    zone_id = await start(client, name="before")
    await start(client, name="other")

    def rename(name: str) -> Any:
        return client.call("RenameZone", pb.RenameZoneRequest(zone=zone_id, name=name), pb.RenameZoneReply)

    await rename("after")
    assert (await client.call("InspectZone", pb.ZoneRef(zone="after"), pb.Zone)).id == zone_id
    assert await refused(rename("other")) is grpc.StatusCode.ALREADY_EXISTS
    assert await refused(rename("-")) is grpc.StatusCode.INVALID_ARGUMENT
    assert client.zones.store.find("after").name == "after"


async def test_what_zones_use_and_what_runs_in_them(client: Client) -> None:
    zone_id = await start(client)
    await client.run(spec("true", name="ended"))
    reply = await client.call("ZoneStats", pb.ZoneStatsRequest(), pb.ZoneStatsReply)
    assert [(each.id, each.block_read_bytes, each.processes) for each in reply.stats] == [(zone_id, 1, 5)]
    ended = client.call("ZoneStats", pb.ZoneStatsRequest(zones=["ended"]), pb.ZoneStatsReply)
    assert await refused(ended) is grpc.StatusCode.FAILED_PRECONDITION
    reply = await client.call("ZoneProcesses", pb.ZoneRef(zone=zone_id), pb.ZoneProcessesReply)
    assert [(each.pid, each.name) for each in reply.processes] == [(1, "sh")]


async def test_what_happens_is_told_while_it_happens_and_later(client: Client) -> None:
    call = client.stream("Events", pb.EventsRequest(), pb.Event)
    reading = asyncio.ensure_future(call.read())
    await asyncio.sleep(0.2)
    zone_id = (await client.run(spec("sh", "-c", "exit 3")))[0].started.zone_id
    first = await reading
    assert (first.action, first.zone_id, first.image) == ("create", zone_id, "local:1")
    assert (await call.read()).action == "start"
    assert (await call.read()).attributes["exitCode"] == "3"
    call.cancel()
    past = client.stream("Events", pb.EventsRequest(since_ns=1, until_ns=time.time_ns()), pb.Event)
    assert [event.action async for event in past] == ["create", "start", "die"]

    async def read(**values: int) -> None:
        async for _ in client.stream("Events", pb.EventsRequest(**values), pb.Event):
            pass

    assert await refused(read(since_ns=-1)) is grpc.StatusCode.INVALID_ARGUMENT
