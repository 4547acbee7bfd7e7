"""The pass-through before Debian's own containerd, with a root, a state and a socket of its own."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from tests.kube.client import CriClient
from tests.unit.cri.memory_runtime import MemoryRuntime, serving
from tests.unit.images.registry import Registry, registry
from tests.unit.images.tarballs import OciLayout, configuration, file, tarball
from zonal.cri.api import runtime_pb2 as cri
from zonal.cri.passthrough import passing_through

PAUSE = "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n"
CONFIGURATION = """
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Generator[Registry]:
    """A registry with ``pause``, a program that waits to be ended."""
    folder = tmp_path_factory.mktemp("registry")
    (folder / "pause.c").write_text(PAUSE)
    subprocess.run(["gcc", "-static", "-o", "pause", "pause.c"], cwd=folder, check=True)
    program = tarball(file("pause", (folder / "pause").read_bytes(), mode=0o755))
    with registry(folder / "served") as running:
        layout = OciLayout().add([program], configuration([program], {"Entrypoint": ["/pause"]}))
        running.put("pause", "1", layout)
        yield running


class Containerd:
    """A process that can be ended and started again."""

    def __init__(self, folder: Path, pause: str) -> None:
        self.socket = folder / "containerd.sock"
        self._settings = folder / "config.toml"
        self._settings.write_text(CONFIGURATION.format(folder=folder, pause=pause))
        self._log = (folder / "log").open("ab")
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            "containerd", "--config", str(self._settings), stdout=self._log, stderr=self._log
        )

    async def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            await self._process.wait()
            self._process = None


class Node:
    """Our side in memory, before a real containerd."""

    def __init__(self, folder: Path, containerd: Containerd) -> None:
        self.ours = MemoryRuntime("ours")
        self.containerd = containerd
        self.client = CriClient(folder / "cri.sock")
        self.folder = folder

    async def answers(self) -> cri.RuntimeCondition:
        """The condition that tells of containerd, once it answers."""
        while True:
            status = await self.client.call("Status", cri.StatusRequest(), cri.StatusResponse)
            condition = next(each for each in status.status.conditions if each.type == "OtherRuntimeReady")
            if condition.reason != "NoAnswer":
                return condition
            await asyncio.sleep(0.1)


@asynccontextmanager
async def running_node(folder: Path, pause: str) -> AsyncGenerator[Node]:
    node = Node(folder, Containerd(folder, pause))
    try:
        await node.containerd.start()
        async with (
            passing_through(node.ours.calls(), node.containerd.socket) as handlers,
            serving(handlers, folder / "cri.sock"),
        ):
            yield node
            await node.client.close()
    finally:
        await node.containerd.stop()


@pytest_asyncio.fixture
async def node(tmp_path: Path, images: Registry) -> AsyncGenerator[Node]:
    if shutil.which("containerd") is None:
        pytest.skip("containerd is not installed")
    async with running_node(tmp_path, f"{images.host}/pause:1") as node:
        yield node


async def test_status_images_and_lists(node: Node, images: Registry) -> None:
    condition = await node.answers()
    assert condition.reason == "NetworkPluginNotReady" and "NetworkReady" in condition.message
    assert await _sandboxes(node) == []
    name = f"{images.host}/pause:1"
    pulled = await node.client.call(
        "PullImage",
        cri.PullImageRequest(image=cri.ImageSpec(image=name, runtime_handler="runc")),
        cri.PullImageResponse,
    )
    node.ours.registry[name] = pulled.image_ref
    await node.client.call("PullImage", cri.PullImageRequest(image=cri.ImageSpec(image=name)), cri.PullImageResponse)
    reply = await node.client.call("ListImages", cri.ListImagesRequest(), cri.ListImagesResponse)
    assert [(each.id, list(each.repo_tags)) for each in reply.images] == [(pulled.image_ref, [name])]
    assert reply.images[0].size > 100
    systems = await node.client.call("ImageFsInfo", cri.ImageFsInfoRequest(), cri.ImageFsInfoResponse)
    assert len(systems.image_filesystems) == 2
    await node.client.call(
        "RemoveImage", cri.RemoveImageRequest(image=cri.ImageSpec(image=pulled.image_ref)), cri.RemoveImageResponse
    )
    reply = await node.client.call("ListImages", cri.ListImagesRequest(), cri.ListImagesResponse)
    assert not reply.images and not node.ours.images
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        spec = cri.ImageSpec(image=f"{images.host}/nothing:1", runtime_handler="runc")
        await node.client.call("PullImage", cri.PullImageRequest(image=spec), cri.PullImageResponse)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_calls_of_later_versions_find_an_older_containerd(node: Node) -> None:
    await node.answers()
    async for message in node.client.stream("StreamPodSandboxes", cri.StreamPodSandboxesRequest()):
        assert not message.pod_sandboxes
    await node.client.call(
        "ListMetricDescriptors", cri.ListMetricDescriptorsRequest(), cri.ListMetricDescriptorsResponse
    )
    config = await node.client.call("RuntimeConfig", cri.RuntimeConfigRequest(), cri.RuntimeConfigResponse)
    assert config.HasField("linux")


async def test_a_pod_that_shares_the_host_over_a_restart(node: Node, images: Registry, tmp_path: Path) -> None:
    await node.answers()
    logs = tmp_path / "logs"
    logs.mkdir()
    pod = cri.PodSandboxConfig(
        metadata=cri.PodSandboxMetadata(name="proxy", uid="1", namespace="kube-system"),
        log_directory=str(logs),
        linux=cri.LinuxPodSandboxConfig(
            security_context=cri.LinuxSandboxSecurityContext(
                namespace_options=cri.NamespaceOption(network=cri.NODE, pid=cri.NODE, ipc=cri.NODE)
            )
        ),
    )
    sandbox = (
        await node.client.call("RunPodSandbox", cri.RunPodSandboxRequest(config=pod), cri.RunPodSandboxResponse)
    ).pod_sandbox_id
    create = cri.CreateContainerRequest(
        pod_sandbox_id=sandbox,
        config=cri.ContainerConfig(
            metadata=cri.ContainerMetadata(name="main"),
            image=cri.ImageSpec(image=f"{images.host}/pause:1"),
            log_path="main.log",
        ),
        sandbox_config=pod,
    )
    container = (await node.client.call("CreateContainer", create, cri.CreateContainerResponse)).container_id
    await node.client.call(
        "StartContainer", cri.StartContainerRequest(container_id=container), cri.StartContainerResponse
    )
    await node.containerd.stop()
    assert await _sandboxes(node) == [sandbox]
    await node.containerd.start()
    await node.answers()
    assert await _sandboxes(node) == [sandbox]
    status = await node.client.call(
        "ContainerStatus", cri.ContainerStatusRequest(container_id=container), cri.ContainerStatusResponse
    )
    assert status.status.state == cri.CONTAINER_RUNNING
    assert not node.ours.sandboxes
    for name, request in (
        ("StopPodSandbox", cri.StopPodSandboxRequest(pod_sandbox_id=sandbox)),
        ("RemovePodSandbox", cri.RemovePodSandboxRequest(pod_sandbox_id=sandbox)),
    ):
        await node.client.raw(name, request.SerializeToString())
    assert await _sandboxes(node) == []


async def _sandboxes(node: Node) -> list[str]:
    reply = await node.client.call("ListPodSandbox", cri.ListPodSandboxRequest(), cri.ListPodSandboxResponse)
    return [each.id for each in reply.items]
