"""The CRI's calls for statistics and metrics, whole and in parts."""

from __future__ import annotations

from zonal.cri.api import runtime_pb2 as pb
from zonal.cri.lists import PIECE
from zonal.cri.metrics import Metrics
from zonal.cri.stats import Stats
from zonal.daemon.rpc import Call, Context


def measure_calls(stats: Stats, metrics: Metrics) -> dict[str, Call]:
    """By their names in ``runtime.proto``."""

    async def container(request: pb.ContainerStatsRequest, _: Context) -> pb.ContainerStatsResponse:
        return pb.ContainerStatsResponse(stats=await stats.container(request.container_id))

    async def containers(request: pb.ListContainerStatsRequest, _: Context) -> pb.ListContainerStatsResponse:
        return pb.ListContainerStatsResponse(stats=await stats.containers(request.filter))

    async def pod(request: pb.PodSandboxStatsRequest, _: Context) -> pb.PodSandboxStatsResponse:
        return pb.PodSandboxStatsResponse(stats=await stats.pod(request.pod_sandbox_id))

    async def pods(request: pb.ListPodSandboxStatsRequest, _: Context) -> pb.ListPodSandboxStatsResponse:
        return pb.ListPodSandboxStatsResponse(stats=await stats.pods(request.filter))

    async def descriptors(_request: pb.ListMetricDescriptorsRequest, _: Context) -> pb.ListMetricDescriptorsResponse:
        return pb.ListMetricDescriptorsResponse(descriptors=metrics.descriptors())

    async def measured(_request: pb.ListPodSandboxMetricsRequest, _: Context) -> pb.ListPodSandboxMetricsResponse:
        return pb.ListPodSandboxMetricsResponse(pod_metrics=await metrics.pods())

    async def stream_containers(request: pb.StreamContainerStatsRequest, context: Context) -> None:
        found = await stats.containers(request.filter)
        for at in range(0, len(found), PIECE):
            await context.write(pb.StreamContainerStatsResponse(container_stats=found[at : at + PIECE]))

    async def stream_pods(request: pb.StreamPodSandboxStatsRequest, context: Context) -> None:
        found = await stats.pods(request.filter)
        for at in range(0, len(found), PIECE):
            await context.write(pb.StreamPodSandboxStatsResponse(pod_sandbox_stats=found[at : at + PIECE]))

    async def stream_metrics(_request: pb.StreamPodSandboxMetricsRequest, context: Context) -> None:
        found = await metrics.pods()
        for each in found:  # one has those of all of its pod's containers
            await context.write(pb.StreamPodSandboxMetricsResponse(pod_sandbox_metrics=[each]))

    return {
        "ContainerStats": container,
        "ListContainerStats": containers,
        "PodSandboxStats": pod,
        "ListPodSandboxStats": pods,
        "ListMetricDescriptors": descriptors,
        "ListPodSandboxMetrics": measured,
        "StreamContainerStats": stream_containers,
        "StreamPodSandboxStats": stream_pods,
        "StreamPodSandboxMetrics": stream_metrics,
    }
