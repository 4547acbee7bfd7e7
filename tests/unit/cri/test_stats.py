"""Statistics, metrics and readiness through the CRI's socket; the zones' figures are given, all above them is real."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio
import pytest
from google.protobuf.message_factory import GetMessageClass

from tests.unit.daemon.local_zones import LocalZones, open_local_services
from zonal.cri.api import runtime_pb2 as pb
from zonal.cri.info import RuntimeInfo
from zonal.cri.metric_kinds import LABELS
from zonal.cri.pod_network import AUTO, PodNetwork
from zonal.cri.rates import SHORTEST_NS, Rates
from zonal.cri.records import ContainerEntry, CriStore, PodEntry
from zonal.cri.server import STORE, serving_cri
from zonal.daemon.control import Services
from zonal.errors import WrongStateError
from zonal.network.links import Flow, Traffic
from zonal.zones.figures import ContainerFigures, Pressure
from zonal.zones.spec import ZoneStatistics

SECOND = 1_000_000_000
MIB = 1 << 20
POD, WEB, DONE = "aa" * 16, "bb" * 16, "cc" * 16
METHODS = {method.name: method for service in pb.DESCRIPTOR.services_by_name.values() for method in service.methods}


class MeasuredZones(LocalZones):
    """With figures as a test wants them."""

    figures: dict[str, ZoneStatistics]

    async def statistics(self, ref: str) -> ZoneStatistics:
        if ref not in self.figures:
            raise WrongStateError(f"zone {ref} is not running")
        return self.figures[ref]

    async def disk_usage(self, ref: str) -> int:
        return 12345


class Client:
    def __init__(self, channel: Any, zones: MeasuredZones) -> None:
        self.zones = zones
        self._channel = channel

    async def call(self, name: str, request: Any) -> Any:
        return await self._multi("unary_unary", name)(request)

    async def stream(self, name: str, request: Any) -> list[Any]:
        return [reply async for reply in self._multi("unary_stream", name)(request)]

    def _multi(self, kind: str, name: str) -> Any:
        method = METHODS[name]
        return getattr(self._channel, kind)(
            f"/{method.containing_service.full_name}/{name}",
            request_serializer=GetMessageClass(method.input_type).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )


def statistics(cpu: int, memory: int, **more: Any) -> ZoneStatistics:
    values: dict[str, Any] = {"time_ns": time.monotonic_ns(), "memory_limit_bytes": 256 * MIB, **more}
    return ZoneStatistics(cpu_time_ns=cpu, memory_bytes=memory, **values)


def write_records(state: Path) -> None:
    store = CriStore.open(state / STORE)
    pod = pb.PodSandboxConfig(metadata=pb.PodSandboxMetadata(name="web", namespace="shop", uid="u1"), labels={"a": "1"})
    store.put_pod(PodEntry(POD, pod, made=True))
    for container_id, name in ((WEB, "server"), (DONE, "setup")):
        config = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name=name),
            image=pb.ImageSpec(image="sha256:1", user_specified_image="shop/web:1"),
            labels={"role": name},
        )
        store.put_container(ContainerEntry(container_id, POD, config, made=True))
    store.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cri-") as path:
        yield Path(path)


@asynccontextmanager
async def connected(folder: Path) -> AsyncGenerator[Client]:
    write_records(folder)
    async with open_local_services(folder) as services:
        local = cast("LocalZones", services.zones)
        zones = MeasuredZones(local.store, local.group, local.folder, local.told)
        zones.figures = {
            POD: statistics(9 * SECOND, 100 * MIB, traffic=Traffic(Flow(1, 11, 3, 4), Flow(5, 22, 6, 7))),
            WEB: statistics(
                4 * SECOND,
                50 * MIB,
                figures=ContainerFigures(
                    cpu_usage_ns=4 * SECOND,
                    cpu_user_ns=3 * SECOND,
                    memory_usage=50 * MIB,
                    memory_inactive_file=10 * MIB,
                    memory_anon=30 * MIB,
                    page_faults=5,
                    processes=3,
                    layer_used=77777,
                    layer_inodes_used=7,
                    layer_inodes=100,
                    pressure={"cpu": {"some": Pressure(1.5, 0.5, 0.0, 99)}},
                ),
            ),
        }
        measured: Services = replace(services, zones=zones)
        socket = folder / "cri.sock"
        channel = cast("Any", grpc.aio).insecure_channel(f"unix:{socket}")
        async with serving_cri(measured, socket, folder, network=AUTO), channel:
            yield Client(channel, zones)


async def test_a_containers_figures_are_those_of_its_control_group(folder: Path) -> None:
    async with connected(folder) as client:
        stats = (await client.call("ContainerStats", pb.ContainerStatsRequest(container_id=WEB))).stats
        assert stats.attributes.metadata.name == "server"
        assert stats.attributes.labels == {"role": "server"}
        assert stats.cpu.usage_core_nano_seconds.value == 4 * SECOND
        assert not stats.cpu.HasField("usage_nano_cores")
        assert stats.cpu.psi.Some.Total == 99
        assert stats.memory.usage_bytes.value == 50 * MIB
        assert stats.memory.working_set_bytes.value == 40 * MIB
        assert stats.memory.available_bytes.value == 216 * MIB
        assert stats.memory.rss_bytes.value == 30 * MIB
        assert stats.memory.page_faults.value == 5
        assert not stats.memory.HasField("major_page_faults")
        assert (stats.writable_layer.used_bytes.value, stats.writable_layer.inodes_used.value) == (77777, 7)
        assert Path(stats.writable_layer.fs_id.mountpoint).is_dir()


async def test_a_container_that_has_ended_has_its_layer_alone(folder: Path) -> None:
    async with connected(folder) as client:
        stats = (await client.call("ContainerStats", pb.ContainerStatsRequest(container_id=DONE[:12]))).stats
        assert not stats.HasField("cpu")
        assert not stats.HasField("memory")
        assert stats.writable_layer.used_bytes.value == 12345


async def test_unknown_containers_and_pods_are_not_found(folder: Path) -> None:
    async with connected(folder) as client:
        for name, request in (
            ("ContainerStats", pb.ContainerStatsRequest(container_id="nothing")),
            ("PodSandboxStats", pb.PodSandboxStatsRequest(pod_sandbox_id="nothing")),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.call(name, request)
            assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_lists_are_filtered_and_come_in_parts_too(folder: Path) -> None:
    async with connected(folder) as client:
        for wanted, expected in (
            (pb.ContainerStatsFilter(), {WEB, DONE}),
            (pb.ContainerStatsFilter(id=WEB), {WEB}),
            (pb.ContainerStatsFilter(pod_sandbox_id=POD), {WEB, DONE}),
            (pb.ContainerStatsFilter(pod_sandbox_id="dd"), set[str]()),
            (pb.ContainerStatsFilter(label_selector={"role": "setup"}), {DONE}),
        ):
            reply = await client.call("ListContainerStats", pb.ListContainerStatsRequest(filter=wanted))
            assert {each.attributes.id for each in reply.stats} == expected
            pieces = await client.stream("StreamContainerStats", pb.StreamContainerStatsRequest(filter=wanted))
            assert {each.attributes.id for piece in pieces for each in piece.container_stats} == expected


async def test_a_pods_figures_are_those_of_its_zone_with_its_containers(folder: Path) -> None:
    async with connected(folder) as client:
        pod = (await client.call("PodSandboxStats", pb.PodSandboxStatsRequest(pod_sandbox_id=POD))).stats
        assert pod.attributes.metadata.namespace == "shop"
        assert pod.linux.cpu.usage_core_nano_seconds.value == 9 * SECOND
        assert pod.linux.memory.working_set_bytes.value == 100 * MIB
        assert pod.linux.network.default_interface.rx_bytes.value == 11
        assert pod.linux.network.default_interface.tx_bytes.value == 22
        assert pod.linux.network.default_interface.rx_errors.value == 3
        assert pod.linux.network.default_interface.tx_errors.value == 6
        assert pod.linux.process.process_count.value == 3
        assert [each.attributes.id for each in pod.linux.containers] == [WEB, DONE]
        wanted = pb.PodSandboxStatsFilter(label_selector={"a": "2"})
        listed = await client.call("ListPodSandboxStats", pb.ListPodSandboxStatsRequest(filter=wanted))
        assert not listed.stats
        (piece,) = await client.stream("StreamPodSandboxStats", pb.StreamPodSandboxStatsRequest())
        assert [each.attributes.id for each in piece.pod_sandbox_stats] == [POD]


async def test_a_rate_is_there_from_the_second_look_on(folder: Path) -> None:
    async with connected(folder) as client:
        request = pb.ContainerStatsRequest(container_id=WEB)
        await client.call("ContainerStats", request)
        last = client.zones.figures[WEB]
        client.zones.figures[WEB] = replace(
            last, time_ns=last.time_ns + 10 * SECOND, cpu_time_ns=last.cpu_time_ns + 5 * SECOND
        )
        stats = (await client.call("ContainerStats", request)).stats
        assert stats.cpu.usage_nano_cores.value == SECOND // 2


async def test_every_metric_has_a_descriptor_with_as_many_labels(folder: Path) -> None:
    async with connected(folder) as client:
        described = (await client.call("ListMetricDescriptors", pb.ListMetricDescriptorsRequest())).descriptors
        keys = {each.name: list(each.label_keys) for each in described}
        assert len(keys) == len(described)
        (pod,) = (await client.call("ListPodSandboxMetrics", pb.ListPodSandboxMetricsRequest())).pod_metrics
        assert pod.pod_sandbox_id == POD
        (web,) = pod.container_metrics
        for metric in (*pod.metrics, *web.metrics):
            assert len(metric.label_values) == len(keys[metric.name])
            assert keys[metric.name][: len(LABELS)] == list(LABELS)
        network = {metric.name: metric.value.value for metric in pod.metrics}
        assert network["container_network_receive_packets_total"] == 1
        assert network["container_network_transmit_packets_dropped_total"] == 7
        values = {metric.name: metric for metric in web.metrics}
        assert values["container_memory_working_set_bytes"].value.value == 40 * MIB
        assert values["container_cpu_user_seconds_total"].value.value == 3
        assert values["container_fs_inodes_free"].value.value == 93
        assert dict(zip(LABELS, values["container_memory_rss"].label_values, strict=True)) == {
            "container": "server",
            "id": WEB,
            "image": "shop/web:1",
            "name": WEB,
            "namespace": "shop",
            "pod": "web",
        }
        assert "container_memory_swap" not in values  # its kernel does not count it
        (piece,) = await client.stream("StreamPodSandboxMetrics", pb.StreamPodSandboxMetricsRequest())
        assert [each.pod_sandbox_id for each in piece.pod_sandbox_metrics] == [POD]


async def test_the_runtime_tells_its_version_and_what_it_is_given(folder: Path) -> None:
    async with connected(folder) as client:
        version = await client.call("Version", pb.VersionRequest())
        assert (version.runtime_name, version.runtime_api_version) == ("zonal", "v1")
        status = await client.call("Status", pb.StatusRequest(verbose=True))
        assert {each.type for each in status.status.conditions} == {"RuntimeReady", "NetworkReady"}
        assert "" in {each.name for each in status.runtime_handlers}
        config = pb.RuntimeConfig(network_config=pb.NetworkConfig(pod_cidr="10.1.0.0/24,fd00::/64"))
        await client.call("UpdateRuntimeConfig", pb.UpdateRuntimeConfigRequest(runtime_config=config))
        status = await client.call("Status", pb.StatusRequest(verbose=True))
        assert json.loads(status.info["config"])["podRanges"] == ["10.1.0.0/24", "fd00::/64"]
        config.network_config.pod_cidr = "everywhere"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.call("UpdateRuntimeConfig", pb.UpdateRuntimeConfigRequest(runtime_config=config))
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_checkpoints_are_refused_with_a_reason(folder: Path) -> None:
    async with connected(folder) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.call("CheckpointContainer", pb.CheckpointContainerRequest(container_id=WEB))
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
        assert "memory" in (caught.value.details() or "")


async def test_the_network_is_ready_when_the_cluster_has_one_whose_plugins_are_there(folder: Path) -> None:
    async with open_local_services(folder) as services:
        info = RuntimeInfo(services.zones, PodNetwork(services.networks))

        async def told() -> pb.RuntimeCondition:
            runtime, network = (await info.status(verbose=False)).status.conditions
            assert runtime.status
            return network

        network = await told()
        assert not network.status
        assert network.reason == "NetworkPluginNotReady"
        assert "there is none" in network.message
        configurations = folder / "cni"
        configurations.mkdir(exist_ok=True)
        (configurations / "10-broken.conflist").write_text("{")
        assert "10-broken.conflist" in (await told()).message
        document = {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "no-such-plugin"}]}
        (configurations / "20-pods.conflist").write_text(json.dumps(document))
        assert "no-such-plugin is not installed" in (await told()).message
        document["plugins"] = [{"type": "bridge"}]
        (configurations / "20-pods.conflist").write_text(json.dumps(document))
        assert (await told()).status


def test_rates() -> None:
    rates = Rates()
    assert rates.take("a", 0, 100) is None
    assert rates.take("a", SHORTEST_NS // 2, 200) is None
    assert rates.take("a", 2 * SHORTEST_NS, 2 * SECOND + 100) == SECOND
    assert rates.take("a", 2 * SHORTEST_NS + 1, 3 * SECOND) == SECOND
    assert rates.take("a", 4 * SHORTEST_NS, 5) is None  # it was started anew
    rates.take("b", 0, 1)
    rates.keep_only({"b"})
    assert len(rates) == 1
