"""What of a run request is a workload's, and what its zone's."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest

from tests.unit.daemon.conftest import Client, spec
from zonal.api import control_pb2 as pb
from zonal.zones.spec import SHORT_ID, ZoneState


async def zone_alone(client: Client, name: str = "house") -> str:
    wanted = pb.RunSpec(without_workload=True, create=True, name=name, hostname="shared", memory_bytes=512 << 20)
    replies = await client.run(pb.RunRequest(spec=wanted))
    return replies[0].started.zone_id


def into(zone: str, *command: str, **more: object) -> pb.RunSpec:
    request = spec(*command, **more).spec
    request.zone = zone
    request.create = True
    return request


async def created(client: Client, request: pb.RunSpec) -> pb.Zone:
    replies = await client.run(pb.RunRequest(spec=request))
    assert len(replies) == 1
    return await client.call("InspectZone", pb.ZoneRef(zone=replies[0].started.zone_id), pb.Zone)


async def test_a_zone_without_a_workload_has_none(client: Client) -> None:
    zone_id = await zone_alone(client)
    found = await client.call("InspectZone", pb.ZoneRef(zone=zone_id), pb.Zone)
    assert found.without_workload
    assert (list(found.command), found.image, found.memory_bytes) == ([], "", 512 << 20)


async def test_a_workload_takes_name_and_ipc_of_its_zone_and_bounds_of_its_own(client: Client) -> None:
    zone_id = await zone_alone(client)
    found = await created(client, into("house", "true", memory_bytes=64 << 20, cpus=2))
    assert (found.zone_id, found.zone_name, found.hostname) == (zone_id, "house", "shared")
    assert found.state == pb.ZONE_STATE_CREATED
    runtime = found.config.runtime
    assert (runtime.namespaces.ipc, runtime.namespaces.uts, runtime.namespaces.pid) == ("host", "host", "")
    limits = runtime.limits
    assert (limits.memory_bytes, limits.cpu_quota_us, limits.cpu_period_us) == (64 << 20, 200_000, 100_000)
    assert client.zones.store.get(found.id).state is ZoneState.CREATED
    alone = await created(client, into("house", "true", hostname="own"))
    assert (alone.hostname, alone.config.runtime.namespaces.uts) == ("own", "")


async def test_another_workloads_processes(client: Client) -> None:
    await zone_alone(client)
    await zone_alone(client, "other")
    first = await created(client, into("house", "true", name="first"))
    request = into("house", "true")
    request.runtime.namespaces.pid = "container:first"
    second = await created(client, request)
    assert second.config.runtime.namespaces.pid == f"workload:{first.id[:SHORT_ID]}"
    request.zone = "other"
    with pytest.raises(grpc.aio.AioRpcError, match="not in zone other"):
        await client.run(pb.RunRequest(spec=request))


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        (pb.RunSpec(kernel="k"), grpc.StatusCode.INVALID_ARGUMENT, "as a whole"),
        (pb.RunSpec(network=pb.NetworkOptions(network="none")), grpc.StatusCode.INVALID_ARGUMENT, "as a whole"),
        (pb.RunSpec(resources=pb.Resources(memory_max_bytes=1 << 30)), grpc.StatusCode.INVALID_ARGUMENT, "as a whole"),
        (pb.RunSpec(memory_bytes=1), grpc.StatusCode.INVALID_ARGUMENT, "1 bytes of memory"),
        (pb.RunSpec(cpus=1000), grpc.StatusCode.INVALID_ARGUMENT, "1000 CPUs"),
        (pb.RunSpec(zone="nobody"), grpc.StatusCode.NOT_FOUND, "nobody"),
        (pb.RunSpec(zone="lodger"), grpc.StatusCode.INVALID_ARGUMENT, "no zone to be shared"),
        (pb.RunSpec(image="none:1"), grpc.StatusCode.NOT_FOUND, "none:1"),
    ],
    ids=lambda value: str(value).replace("\n", " ")[:40],
)
async def test_what_only_a_zone_can_have(client: Client, change: pb.RunSpec, code: grpc.StatusCode, text: str) -> None:
    await zone_alone(client)
    await created(client, into("house", "true", name="lodger"))
    request = into("house", "true")
    request.MergeFrom(change)
    with pytest.raises(grpc.aio.AioRpcError, match=text) as caught:
        await client.run(pb.RunRequest(spec=request))
    assert caught.value.code() == code


@pytest.mark.parametrize("change", [pb.RunSpec(image="local:1"), pb.RunSpec(command=["x"]), pb.RunSpec(zone="house")])
async def test_a_zone_without_a_workload_takes_nothing_of_one(client: Client, change: pb.RunSpec) -> None:
    await zone_alone(client)
    request = pb.RunSpec(without_workload=True)
    request.MergeFrom(change)
    with pytest.raises(grpc.aio.AioRpcError, match="without a workload"):
        await client.run(pb.RunRequest(spec=request))
