"""One CRI socket before two runtimes: where each call goes, what lists tell, and what holds while one is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf.message import Message

from tests.kube.client import CriClient
from tests.unit.cri.memory_runtime import MemoryRuntime, plain_handlers, serving
from zonal.cri import other_runtime
from zonal.cri.api import runtime_pb2 as cri
from zonal.cri.passthrough import passing_through
from zonal.cri.routes import OUR_HANDLERS, RoutingRule, parse_handlers
from zonal.daemon.rpc import Context
from zonal.errors import InvalidInputError, UnsupportedError

HOST_NETWORK = cri.NamespaceOption(network=cri.NODE)


class Node:
    """Both runtimes, the layer, and a kubelet's verbs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ours = MemoryRuntime("ours")
        self.theirs = MemoryRuntime("theirs")
        self.client = CriClient(folder / "cri.sock")
        self._layer = AsyncExitStack()
        self._other = AsyncExitStack()

    async def open(self, rule: RoutingRule | None = None) -> None:
        """Starts the layer, as a new zonald would."""
        handlers = await self._layer.enter_async_context(
            passing_through(self.ours.calls(), self.folder / "other.sock", rule)
        )
        await self._layer.enter_async_context(serving(handlers, self.folder / "cri.sock"))

    async def shut(self) -> None:
        await self._layer.aclose()

    async def start_other(self) -> None:
        await self._other.enter_async_context(serving(plain_handlers(self.theirs), self.folder / "other.sock"))

    async def stop_other(self) -> None:
        await self._other.aclose()

    async def run(self, name: str, handler: str = "", namespaces: cri.NamespaceOption | None = None) -> str:
        request = cri.RunPodSandboxRequest(runtime_handler=handler, config=pod(name, namespaces))
        return (await self.client.call("RunPodSandbox", request, cri.RunPodSandboxResponse)).pod_sandbox_id

    async def create(self, sandbox: str, image: str, name: str = "", of: str = "") -> str:
        request = cri.CreateContainerRequest(
            pod_sandbox_id=sandbox,
            config=cri.ContainerConfig(image=cri.ImageSpec(image=image, user_specified_image=name)),
            sandbox_config=pod(of) if of else None,
        )
        return (await self.client.call("CreateContainer", request, cri.CreateContainerResponse)).container_id

    async def pull(self, image: str, of: cri.PodSandboxConfig | None = None, handler: str = "") -> str:
        spec = cri.ImageSpec(image=image, runtime_handler=handler)
        request = cri.PullImageRequest(image=spec, sandbox_config=of)
        return (await self.client.call("PullImage", request, cri.PullImageResponse)).image_ref

    async def sandboxes(self, wanted: cri.PodSandboxFilter | None = None) -> list[str]:
        request = cri.ListPodSandboxRequest(filter=wanted)
        reply = await self.client.call("ListPodSandbox", request, cri.ListPodSandboxResponse)
        return [each.id for each in reply.items]

    async def status(self) -> cri.StatusResponse:
        return await self.client.call("Status", cri.StatusRequest(verbose=True), cri.StatusResponse)

    async def other_answers(self) -> None:
        """Returns once the layer has found its way back."""
        ready = False
        while not ready:
            await asyncio.sleep(0.05)
            ready = {each.type: each.status for each in (await self.status()).status.conditions}["OtherRuntimeReady"]


def pod(name: str, namespaces: cri.NamespaceOption | None = None) -> cri.PodSandboxConfig:
    return cri.PodSandboxConfig(
        metadata=cri.PodSandboxMetadata(name=name, uid=f"uid-{name}", namespace="default"),
        labels={"app": name},
        linux=cri.LinuxPodSandboxConfig(security_context=cri.LinuxSandboxSecurityContext(namespace_options=namespaces)),
    )


@pytest_asyncio.fixture
async def node(tmp_path: Path) -> AsyncGenerator[Node]:
    node = Node(tmp_path)
    await node.start_other()
    await node.open()
    yield node
    await node.client.close()
    await node.shut()
    await node.stop_other()


@pytest.mark.parametrize(
    ("handler", "namespaces", "owner"),
    [
        ("", None, "ours"),
        ("zonal", None, "ours"),
        ("edera", None, "ours"),
        ("runc", None, "theirs"),
        ("", HOST_NETWORK, "theirs"),
        ("", cri.NamespaceOption(pid=cri.NODE), "theirs"),
        ("", cri.NamespaceOption(ipc=cri.NODE), "theirs"),
        ("", cri.NamespaceOption(pid=cri.CONTAINER), "ours"),
        # A kernel of its own was asked for by name: that is not silently left out.
        ("zonal", HOST_NETWORK, "ours"),
    ],
)
async def test_a_pod_goes_where_its_class_and_namespaces_say(
    node: Node, handler: str, namespaces: cri.NamespaceOption | None, owner: str
) -> None:
    assert (await node.run("web", handler, namespaces)).startswith(owner)


async def test_pods_without_a_class_can_be_the_other_runtimes(tmp_path: Path) -> None:
    node = Node(tmp_path)
    await node.start_other()
    await node.open(RoutingRule(frozenset({"zonal", "edera"})))
    assert (await node.run("plain")).startswith("theirs")
    assert (await node.run("zoned", "zonal")).startswith("ours")
    node.theirs.registry["debian"] = node.ours.registry["debian"] = "sha256:d"
    await node.pull("debian")
    await node.pull("debian", pod("zoned"))
    assert node.theirs.images and node.ours.images
    await node.client.close()
    await node.shut()
    await node.stop_other()


async def test_calls_follow_the_ids(node: Node) -> None:
    for handler, owner, runtime in (("", "ours", node.ours), ("runc", "theirs", node.theirs)):
        runtime.images["sha256:d"] = cri.Image(id="sha256:d")
        sandbox = await node.run(owner, handler)
        container = await node.create(sandbox, "sha256:d")
        await node.client.call(
            "StartContainer", cri.StartContainerRequest(container_id=container), cri.StartContainerResponse
        )
        assert runtime.containers[container].state == cri.CONTAINER_RUNNING
        url = (await node.client.call("Exec", cri.ExecRequest(container_id=container), cri.ExecResponse)).url
        assert url == f"http://127.0.0.1:1/{owner}/exec/{container}"
        await node.client.call(
            "RemoveContainer", cri.RemoveContainerRequest(container_id=container), cri.RemoveContainerResponse
        )
        await node.client.call(
            "RemovePodSandbox", cri.RemovePodSandboxRequest(pod_sandbox_id=sandbox), cri.RemovePodSandboxResponse
        )
        assert not runtime.sandboxes and not runtime.containers
    assert node.ours.count("StartContainer") == node.theirs.count("StartContainer") == 1


async def test_errors_keep_their_code_and_message(node: Node) -> None:
    node.theirs.images["sha256:d"] = node.ours.images["sha256:d"] = cri.Image(id="sha256:d")
    for handler in ("", "runc"):
        container = await node.create(await node.run(f"pod-{handler}", handler), "sha256:d")
        start = cri.StartContainerRequest(container_id=container)
        await node.client.call("StartContainer", start, cri.StartContainerResponse)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await node.client.call("StartContainer", start, cri.StartContainerResponse)
        assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert caught.value.details() == "it runs already (stop it first)"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await node.client.call(
            "StartContainer", cri.StartContainerRequest(container_id="nobody"), cri.StartContainerResponse
        )
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    assert caught.value.details() == "ours has no container nobody"


async def test_what_we_do_not_have_or_fail_at(node: Node) -> None:
    node.ours.images["sha256:d"] = cri.Image(id="sha256:d")
    sandbox = await node.run("mine")
    for name, request, code, words in (
        (
            "UpdatePodSandboxResources",
            cri.UpdatePodSandboxResourcesRequest(pod_sandbox_id=sandbox),
            grpc.StatusCode.UNIMPLEMENTED,
            "ours has no UpdatePodSandboxResources",
        ),
        # A fault of ours is told without its details.
        ("PortForward", cri.PortForwardRequest(pod_sandbox_id=sandbox), grpc.StatusCode.INTERNAL, "zonald; its log"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await node.client.raw(name, request.SerializeToString())
        assert (caught.value.code(), words in str(caught.value.details())) == (code, True)


async def test_rubbish_is_refused(node: Node) -> None:
    for name in ("RunPodSandbox", "StartContainer", "PullImage", "ListContainers"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await node.client.raw(name, b"\x0a\xff\xff")
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "the request is no" in str(caught.value.details())


async def test_lists_are_of_both_and_take_filters(node: Node) -> None:
    mine, other = await node.run("mine"), await node.run("other", "runc")
    assert await node.sandboxes() == [mine, other]
    assert await node.sandboxes(cri.PodSandboxFilter(id=other)) == [other]
    assert await node.sandboxes(cri.PodSandboxFilter(label_selector={"app": "mine"})) == [mine]
    for has_streams in (True, False):
        node.theirs.streams_lists = has_streams
        streamed = [
            each.id
            async for message in node.client.stream("StreamPodSandboxes", cri.StreamPodSandboxesRequest())
            for each in message.pod_sandboxes
        ]
        assert streamed == [mine, other]
    for runtime in (node.ours, node.theirs):
        runtime.images["sha256:d"] = cri.Image(id="sha256:d")
    containers = [await node.create(mine, "sha256:d"), await node.create(other, "sha256:d")]
    stats = await node.client.call(
        "ListContainerStats", cri.ListContainerStatsRequest(), cri.ListContainerStatsResponse
    )
    assert [each.attributes.id for each in stats.stats] == containers
    reply = await node.client.call(
        "ListMetricDescriptors", cri.ListMetricDescriptorsRequest(), cri.ListMetricDescriptorsResponse
    )
    assert [each.name for each in reply.descriptors] == [
        "container_cpu_usage_seconds_total",
        "of_ours",
        "of_theirs",
    ]


async def test_figures_of_the_other_where_we_have_none(node: Node) -> None:
    class Without(MemoryRuntime):
        async def ListContainerStats(self, request: cri.ListContainerStatsRequest, context: Context) -> Message:  # noqa: N802
            raise UnsupportedError("there are no figures")

    await node.shut()
    node.ours = Without("ours")
    await node.open()
    request = cri.ListContainerStatsRequest()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await node.client.call("ListContainerStats", request, cri.ListContainerStatsResponse)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    node.theirs.images["sha256:d"] = cri.Image(id="sha256:d")
    container = await node.create(await node.run("other", "runc"), "sha256:d")
    stats = await node.client.call("ListContainerStats", request, cri.ListContainerStatsResponse)
    assert [each.attributes.id for each in stats.stats] == [container]


async def test_fields_of_a_later_version_survive(node: Node) -> None:
    later = b"\xfa\x3f\x05later"  # field 1023
    request = cri.RunPodSandboxRequest(runtime_handler="runc", config=pod("later")).SerializeToString()
    await node.client.raw("RunPodSandbox", request + later)
    assert node.theirs.asked[-1][1].SerializeToString().endswith(later)
    sandbox = next(iter(node.theirs.sandboxes))
    node.theirs.sandboxes[sandbox].MergeFromString(later)
    assert later in await node.client.raw("ListPodSandbox", b"")
    # Also where our own version of the message is taken apart and put together again.
    node.theirs.images["sha256:d"] = cri.Image.FromString(cri.Image(id="sha256:d").SerializeToString() + later)
    assert later in await node.client.raw("ListImages", b"")


async def test_a_new_zonald_and_ids_that_appear_later(node: Node) -> None:
    mine, other = await node.run("mine"), await node.run("other", "runc")
    await node.shut()
    await node.open()
    status = cri.PodSandboxStatusRequest(pod_sandbox_id=other)
    assert (await node.client.call("PodSandboxStatus", status, cri.PodSandboxStatusResponse)).status.id == other
    reply = await node.theirs.RunPodSandbox(cri.RunPodSandboxRequest(), None)  # pyright: ignore[reportArgumentType]
    assert isinstance(reply, cri.RunPodSandboxResponse)
    later = reply.pod_sandbox_id
    # crictl takes the beginning of an id.
    for key, whole in ((later, later), (later[:-1], other), (mine[:6], mine)):
        request = cri.PodSandboxStatusRequest(pod_sandbox_id=key)
        found = await node.client.call("PodSandboxStatus", request, cri.PodSandboxStatusResponse)
        assert found.status.id == whole


async def test_status_is_ours_and_tells_of_the_other(node: Node) -> None:
    node.theirs.network_ready = False
    status = await node.status()
    conditions = {each.type: each for each in status.status.conditions}
    assert conditions["RuntimeReady"].status and conditions["NetworkReady"].status
    assert not conditions["OtherRuntimeReady"].status
    assert conditions["OtherRuntimeReady"].reason == "NoNetwork"
    assert [each.name for each in status.runtime_handlers] == ["", "ours-handler", "theirs-handler"]
    assert not status.features.supplemental_groups_policy
    assert dict(status.info) == {"config": "ours", "other-runtime.config": "theirs"}
    config = await node.client.call("RuntimeConfig", cri.RuntimeConfigRequest(), cri.RuntimeConfigResponse)
    assert config.linux.cgroup_driver == cri.SYSTEMD


async def test_events_of_both_over_a_restart(node: Node) -> None:
    stream = node.client.stream("GetContainerEvents", cri.GetEventsRequest())
    for runtime in (node.ours, node.theirs):
        await runtime.listening.wait()
        await runtime.events.put(cri.ContainerEventResponse(container_id=runtime.name))
    assert {(await stream.read()).container_id, (await stream.read()).container_id} == {"ours", "theirs"}
    await node.stop_other()
    await node.ours.events.put(cri.ContainerEventResponse(container_id="meanwhile"))
    assert (await stream.read()).container_id == "meanwhile"
    node.theirs.listening.clear()
    node.theirs.events = asyncio.Queue()
    await node.start_other()
    await node.theirs.listening.wait()
    await node.theirs.events.put(cri.ContainerEventResponse(container_id="again"))
    assert (await stream.read()).container_id == "again"
    stream.cancel()


async def test_images_go_where_their_pod_will_run(node: Node) -> None:
    node.ours.registry["debian"] = node.theirs.registry["debian"] = "sha256:d"
    await node.run("other", "runc")
    await node.pull("debian", pod("other"))
    assert node.theirs.images and not node.ours.images
    node.theirs.images.clear()
    await node.pull("debian", pod("proxy", HOST_NETWORK))
    assert node.theirs.images and not node.ours.images
    node.theirs.images.clear()
    await node.pull("debian", handler="runc")
    assert node.theirs.images and not node.ours.images
    await node.pull("debian")
    assert node.ours.images
    images = (await node.client.call("ListImages", cri.ListImagesRequest(), cri.ListImagesResponse)).images
    assert [(each.id, each.size, list(each.repo_tags)) for each in images] == [("sha256:d", 200, ["debian"])]
    request = cri.RemoveImageRequest(image=cri.ImageSpec(image="debian"))
    await node.client.call("RemoveImage", request, cri.RemoveImageResponse)
    assert not node.ours.images and not node.theirs.images


@pytest.mark.parametrize("elsewhere", ["sha256:d", "sha256:moved"])
async def test_an_image_that_is_on_the_other_side_is_fetched_for_its_container(node: Node, elsewhere: str) -> None:
    node.ours.registry["private/app"] = "sha256:d"
    node.theirs.registry["private/app"] = elsewhere
    request = cri.PullImageRequest(
        image=cri.ImageSpec(image="private/app"), auth=cri.AuthConfig(username="me", password="right")
    )
    await node.client.call("PullImage", request, cri.PullImageResponse)
    sandbox = await node.run("other", "runc")
    status = await node.client.call(
        "ImageStatus", cri.ImageStatusRequest(image=cri.ImageSpec(image="private/app")), cri.ImageStatusResponse
    )
    container = await node.create(sandbox, status.image.id, name="private/app", of="other")
    assert node.theirs.containers[container].image_id == elsewhere


async def test_an_image_that_only_the_other_has_is_told_of(node: Node) -> None:
    node.theirs.images["sha256:d"] = cri.Image(id="sha256:d", repo_tags=["debian"])
    for handler, there in (("", True), ("runc", True), ("zonal", False)):
        request = cri.ImageStatusRequest(image=cri.ImageSpec(image="debian", runtime_handler=handler))
        reply = await node.client.call("ImageStatus", request, cri.ImageStatusResponse)
        assert reply.HasField("image") == there


async def test_file_systems_are_ours_first(node: Node) -> None:
    reply = await node.client.call("ImageFsInfo", cri.ImageFsInfoRequest(), cri.ImageFsInfoResponse)
    assert [each.fs_id.mountpoint for each in reply.image_filesystems] == ["/var/lib/ours", "/var/lib/theirs"]
    assert not reply.container_filesystems


async def test_ours_go_on_while_the_other_is_away(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    mine, other = await node.run("mine"), await node.run("other", "runc")
    await node.sandboxes()
    await node.stop_other()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await node.run("another", "runc")
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert f"the runtime at {node.folder / 'other.sock'} does not answer" in str(caught.value.details())
    assert "\n" not in str(caught.value.details())
    node.ours.images["sha256:d"] = cri.Image(id="sha256:d")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        request = cri.RemoveImageRequest(image=cri.ImageSpec(image="sha256:d"))
        await node.client.call("RemoveImage", request, cri.RemoveImageResponse)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE and not node.ours.images
    # A kubelet would take what is not listed for dead, and what is removed without an error for removed.
    assert await node.sandboxes() == [mine, other]
    assert await node.sandboxes(cri.PodSandboxFilter(label_selector={"app": "mine"})) == [mine]
    for key in (other, "somebody-elses"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            request = cri.RemovePodSandboxRequest(pod_sandbox_id=key)
            await node.client.call("RemovePodSandbox", request, cri.RemovePodSandboxResponse)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    # What was ours is known to be, so that removing it twice still works.
    for _ in range(2):
        request = cri.RemovePodSandboxRequest(pod_sandbox_id=mine)
        await node.client.call("RemovePodSandbox", request, cri.RemovePodSandboxResponse)
    assert (await node.run("mine-again")).startswith("ours")
    conditions = {each.type: each for each in (await node.status()).status.conditions}
    assert conditions["RuntimeReady"].status
    assert "does not answer" in conditions["OtherRuntimeReady"].message
    assert len([each for each in caplog.records if "does not answer" in each.message]) == 1
    await node.start_other()
    await node.other_answers()
    assert (await node.run("another", "runc")).startswith("theirs")


async def test_ours_go_on_while_the_other_hangs(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_runtime, "PATIENCE", 0.3)
    mine, other = await node.run("mine"), await node.run("other", "runc")
    node.theirs.stuck = asyncio.Event()
    assert await node.sandboxes() == [mine, other]
    assert (await node.run("mine-too")).startswith("ours")
    assert (await node.status()).status.conditions[0].status
    node.theirs.stuck.set()
    await node.other_answers()


async def test_without_the_other_from_the_beginning(tmp_path: Path) -> None:
    node = Node(tmp_path)
    await node.open()
    mine = await node.run("mine")
    assert await node.sandboxes() == [mine]
    await node.client.close()
    await node.shut()


def test_handlers_of_an_option() -> None:
    assert parse_handlers(",zonal,edera") == OUR_HANDLERS
    assert parse_handlers("zonal, edera") == {"zonal", "edera"}
    for text in ("Zonal", "a b", "-x", "x" * 64, "zonal,é"):
        with pytest.raises(InvalidInputError, match="is not a RuntimeClass's handler"):
            parse_handlers(text)
