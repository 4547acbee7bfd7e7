"""Restart policies and health checks over the control API."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import pytest

from tests.unit.daemon.conftest import Client, spec
from zonal.api import control_pb2 as pb
from zonal.daemon.policies import resolve_health
from zonal.images.config import ImageConfig
from zonal.images.healthcheck import HealthCheck

S = 10**9
IMAGE = HealthCheck(("CMD", "ask"), 7 * S, 6 * S, 5 * S, 4 * S, 3, ("/bin/bash", "-c"))


def test_what_is_asked_for_goes_before_the_images() -> None:
    assert resolve_health(pb.HealthCheck(), IMAGE) == IMAGE
    assert resolve_health(pb.HealthCheck(), None) is None
    assert resolve_health(pb.HealthCheck(test=["NONE"]), IMAGE) is None
    mine = resolve_health(pb.HealthCheck(test=["CMD-SHELL", "x y"], retries=9, timeout_ns=S), IMAGE)
    assert mine == HealthCheck(("CMD-SHELL", "x y"), 7 * S, S, 5 * S, 4 * S, 9, ("/bin/bash", "-c"))
    assert mine
    assert mine.command == ("/bin/bash", "-c", "x y")
    # As for docker, what an image says that nobody understands is no health check.
    assert resolve_health(pb.HealthCheck(), HealthCheck(("ask",))) is None
    assert resolve_health(pb.HealthCheck(), HealthCheck(("NONE",))) is None


async def test_the_images_check_is_the_zones(client: Client) -> None:
    images: Any = client.services.images
    images.configs[images.images["local:1"].id] = ImageConfig(command=("/bin/sh",), health=IMAGE)
    zone_id = (await client.run(spec("sleep", "1000", detach=True)))[0].started.zone_id
    found = await client.call("InspectZone", pb.ZoneRef(zone=zone_id), pb.Zone)
    assert list(found.config.health.test) == ["CMD", "ask"]
    assert found.health.status == "starting"


@pytest.mark.parametrize(
    "values",
    [
        {"restart": pb.RestartPolicy(name="sometimes")},
        {"restart": pb.RestartPolicy(name="always", maximum_retries=1)},
        {"restart": pb.RestartPolicy(name="on-failure", maximum_retries=1 << 31)},
        {"restart": pb.RestartPolicy(name="always"), "remove": True},
        {"health": pb.HealthCheck(test=["NONE", "x"])},
        {"health": pb.HealthCheck(test=["CMD"])},
        {"health": pb.HealthCheck(test=["curl", "x"])},
        {"health": pb.HealthCheck(test=["CMD-SHELL", "a", "b"])},
        {"health": pb.HealthCheck(test=["CMD", "a\0b"])},
        {"health": pb.HealthCheck(test=["CMD-SHELL", "x" * (129 << 10)])},
        {"health": pb.HealthCheck(test=["CMD", "a"], interval_ns=-1)},
        {"health": pb.HealthCheck(test=["CMD", "a"], timeout_ns=1)},
        {"health": pb.HealthCheck(test=["CMD", "a"], start_period_ns=(1 << 63) - 1)},
        {"health": pb.HealthCheck(interval_ns=S)},
    ],
)
async def test_what_cannot_be_is_refused(client: Client, values: dict[str, Any]) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.run(spec("true", **values))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert client.zones.store.list() == []


async def test_an_update_changes_what_it_names(client: Client) -> None:
    zone_id = (await client.run(spec("sleep", "1000", detach=True, restart=pb.RestartPolicy(name="always"))))[0]
    request = pb.UpdateZoneRequest(zone=zone_id.started.zone_id)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.call("UpdateZone", request, pb.UpdateZoneReply)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    request.resources.cpu_weight = 512
    await client.call("UpdateZone", request, pb.UpdateZoneReply)
    found = await client.call("InspectZone", pb.ZoneRef(zone=request.zone), pb.Zone)
    assert (found.config.restart.name, found.resources.cpu_weight) == ("always", 512)
    request.restart.name = "no"
    await client.call("UpdateZone", request, pb.UpdateZoneReply)
    found = await client.call("InspectZone", pb.ZoneRef(zone=request.zone), pb.Zone)
    assert (found.config.restart.name, found.resources.cpu_weight) == ("no", 512)
