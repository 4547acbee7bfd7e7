"""What the control API says to a network that cannot be, and to a zone on it."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import pytest

from tests.unit.daemon.conftest import Client, spec
from zonal.api import control_pb2 as pb


async def code_of(work: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await work
    return caught.value.code()


async def test_networks_are_made_listed_and_removed(client: Client) -> None:
    wanted = pb.CreateNetworkRequest(name="blue", subnets=["10.44.0.0/24"], labels={"a": "b"})
    made = await client.call("CreateNetwork", wanted, pb.Network)
    assert list(made.gateways) == ["10.44.0.1"]
    assert await client.call("InspectNetwork", pb.NetworkRef(name="blue"), pb.Network) == made
    listed = await client.call("ListNetworks", pb.ListNetworksRequest(), pb.ListNetworksReply)
    assert list(listed.networks) == [made]
    assert await code_of(client.call("CreateNetwork", wanted, pb.Network)) == grpc.StatusCode.ALREADY_EXISTS


@pytest.mark.parametrize(
    ("call", "request_", "code"),
    [
        ("InspectNetwork", pb.NetworkRef(name="nowhere"), "NOT_FOUND"),
        ("RemoveNetwork", pb.NetworkRef(name="nowhere"), "NOT_FOUND"),
        ("RemoveNetwork", pb.NetworkRef(name="zonal"), "FAILED_PRECONDITION"),
        ("CreateNetwork", pb.CreateNetworkRequest(name="zonal"), "ALREADY_EXISTS"),
        ("CreateNetwork", pb.CreateNetworkRequest(name=""), "INVALID_ARGUMENT"),
        ("CreateNetwork", pb.CreateNetworkRequest(name="../x"), "INVALID_ARGUMENT"),
        ("CreateNetwork", pb.CreateNetworkRequest(name="red", subnets=["x"]), "INVALID_ARGUMENT"),
    ],
)
async def test_a_wrong_call_gets_its_code(client: Client, call: str, request_: Any, code: str) -> None:
    assert (await code_of(client.call(call, request_, pb.Network))).name == code


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (pb.NetworkOptions(network="nowhere"), "NOT_FOUND"),
        (pb.NetworkOptions(network="host"), "INVALID_ARGUMENT"),
        (pb.NetworkOptions(network="none", ports=[pb.Port(zone_port=80)]), "FAILED_PRECONDITION"),
        (pb.NetworkOptions(network="none", mac="00:16:3e:00:00:01"), "FAILED_PRECONDITION"),
        (pb.NetworkOptions(mac="01:00:00:00:00:01"), "INVALID_ARGUMENT"),
        (pb.NetworkOptions(mac="00:00:00:00:00:00"), "INVALID_ARGUMENT"),
        (pb.NetworkOptions(mac="nonsense"), "INVALID_ARGUMENT"),
        (pb.NetworkOptions(ports=[pb.Port(zone_port=0)]), "INVALID_ARGUMENT"),
        (pb.NetworkOptions(ports=[pb.Port(zone_port=80, protocol="sctp")]), "INVALID_ARGUMENT"),
        (pb.NetworkOptions(ports=[pb.Port(zone_port=80, host_ip="x")]), "INVALID_ARGUMENT"),
        (pb.NetworkOptions(dns=["x"]), "INVALID_ARGUMENT"),
        (pb.NetworkOptions(dns=["10.0.0.1"] * 4), "INVALID_ARGUMENT"),
        (pb.NetworkOptions(dns_search=["a\nnameserver 1.1.1.1"]), "INVALID_ARGUMENT"),
        (pb.NetworkOptions(dns_options=["ndots:2 x"]), "INVALID_ARGUMENT"),
        (pb.NetworkOptions(hosts=[pb.HostEntry(name="a b", address="10.0.0.1")]), "INVALID_ARGUMENT"),
        (pb.NetworkOptions(hosts=[pb.HostEntry(name="a", address="10.0.0")]), "INVALID_ARGUMENT"),
        (pb.NetworkOptions(hosts=[pb.HostEntry(name="a", address="10.0.0.1")] * 257), "INVALID_ARGUMENT"),
    ],
)
async def test_a_zone_with_an_absurd_network_is_refused(client: Client, options: pb.NetworkOptions, code: str) -> None:
    assert (await code_of(client.run(spec("true", network=options)))).name == code
    zones = await client.call("ListZones", pb.ListZonesRequest(all=True), pb.ListZonesReply)
    assert not zones.zones
