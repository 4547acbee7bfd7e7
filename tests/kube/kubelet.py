"""Runs a pod as a kubelet does, through a CRI socket: sandbox, init containers, sidecars, hooks, probes, restarts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio

from tests.kube.client import CriClient
from tests.kube.documents import Document, Objects, Pod
from tests.kube.translate import container_config, sandbox_config, termination_file
from tests.kube.volumes import Volumes
from zonal.cri.api import runtime_pb2 as cri

POLL = 0.3
"""Seconds between looks at the containers."""
MAX_MESSAGE = 4096
"""Bytes of a termination message that count."""


class PodFailedError(Exception):
    """A pod did not come up: which container, its state, and the end of its log."""


@dataclass
class Running:
    """A container that was started."""

    document: Document
    id: str
    attempt: int
    init: bool = False
    killed: list[str] = field(default_factory=list[str])


class RunningPod:
    """A pod on the node, up to its removal."""

    def __init__(self, node: Node, pod: Pod) -> None:
        self.pod = pod
        self.sandbox = ""
        self.address = ""
        self.containers: dict[str, Running] = {}
        self.config = cri.PodSandboxConfig()
        self._node = node
        self._client = node.client
        self._folder = node.folder / "pods" / pod.uid
        self._logs = node.logs / f"{pod.namespace}_{pod.name}_{pod.uid}"
        self.volumes = Volumes(node.objects, pod, self._folder, node.folder / "claims")

    async def start(self) -> None:
        """Makes the sandbox, runs the init containers one after the other, and starts the others."""
        self._folder.mkdir(parents=True)
        self._logs.mkdir(parents=True)
        (self._folder / "etc-hosts").write_text(f"127.0.0.1\tlocalhost\n::1\tlocalhost\n127.0.1.1\t{self.pod.name}\n")
        self.volumes.set_up()
        self.config = sandbox_config(self.pod, self._logs)
        request = cri.RunPodSandboxRequest(
            config=self.config, runtime_handler=self.pod.spec.get("runtimeClassName", "")
        )
        self.sandbox = (await self._client.call("RunPodSandbox", request, cri.RunPodSandboxResponse)).pod_sandbox_id
        status = await self._client.call(
            "PodSandboxStatus",
            cri.PodSandboxStatusRequest(pod_sandbox_id=self.sandbox),
            cri.PodSandboxStatusResponse,
        )
        self.address = status.status.network.ip
        self.volumes.update(self.address)
        for document in self.pod.spec.get("initContainers", []):
            await self._start(document, 0, init=document.get("restartPolicy") != "Always")
            if document.get("restartPolicy") == "Always":
                await self._wait_for(document["name"], "startupProbe")
            else:
                await self._run_to_end(document)
        for document in self.pod.spec["containers"]:
            await self._start(document, 0)

    async def ready(self) -> None:
        """Returns when all containers run and their startup and readiness probes succeed."""
        for document in self.pod.spec["containers"]:
            await self._wait_for(document["name"], "startupProbe")
            await self._wait_for(document["name"], "readinessProbe")

    async def finished(self) -> bool:
        """Returns when all containers but sidecars have ended for good: whether with success. Restarts them before."""
        names = [document["name"] for document in self.pod.spec["containers"]]
        while True:
            statuses = [await self.status(name) for name in names]
            if all(each.state == cri.CONTAINER_EXITED for each in statuses) and not await self.sync():
                return all(each.exit_code == 0 for each in statuses)
            await asyncio.sleep(POLL)

    async def sync(self) -> bool:
        """Starts ended containers again as the restart policy wants, after live volumes were brought up to date.

        Returns whether it did.
        """
        self.volumes.update(self.address)
        restarted = False
        for running in list(self.containers.values()):
            if running.init:
                continue
            status = await self.status(running.document["name"])
            if status.state == cri.CONTAINER_EXITED and self._restarts(running.document, status.exit_code):
                await self._start(running.document, running.attempt + 1)
                restarted = True
        return restarted

    async def check_liveness(self) -> list[str]:
        """Runs the liveness probes once, stops those that fail as often as they may, and gives their names."""
        failed: list[str] = []
        for running in list(self.containers.values()):
            probe = running.document.get("livenessProbe")
            if probe is None:
                continue
            for _ in range(probe.get("failureThreshold", 3)):
                if await self._probe(running, probe):
                    break
                await asyncio.sleep(POLL)
            else:
                failed.append(running.document["name"])
                await self._stop(running)
        return failed

    async def exec(self, name: str, *command: str, timeout: int = 0) -> cri.ExecSyncResponse:
        """Runs a command in a container."""
        request = cri.ExecSyncRequest(container_id=self.containers[name].id, cmd=command, timeout=timeout)
        return await self._client.call("ExecSync", request, cri.ExecSyncResponse)

    async def status(self, name: str) -> cri.ContainerStatus:
        """Of a container's last run."""
        request = cri.ContainerStatusRequest(container_id=self.containers[name].id)
        return (await self._client.call("ContainerStatus", request, cri.ContainerStatusResponse)).status

    def log(self, name: str, attempt: int | None = None) -> str:
        """What a container has written, without the CRI's prefixes (time, stream, tag)."""
        number = self.containers[name].attempt if attempt is None else attempt
        path = self._logs / name / f"{number}.log"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        parts = [line.split(" ", 3) for line in lines]
        return "".join(part[3] + ("\n" if part[2] == "F" else "") for part in parts if len(part) == 4)

    async def termination_message(self, name: str, attempt: int | None = None) -> str:
        """The file that it wrote, or the end of its log where that is its policy and it has failed."""
        running = self.containers[name]
        number = running.attempt if attempt is None else attempt
        text = termination_file(self._folder, name, number).read_bytes()[:MAX_MESSAGE].decode(errors="replace")
        policy = running.document.get("terminationMessagePolicy", "File")
        if not text and policy == "FallbackToLogsOnError" and (await self.status(name)).exit_code:
            return self.log(name, number)[-2048:]
        return text

    async def stop(self) -> None:
        """Ends the pod in its order: preStop hooks and containers, then sidecars backwards, then the sandbox."""
        if self.sandbox:
            sidecars = [each["name"] for each in self.pod.spec.get("initContainers", [])]
            mains = [each for name, each in self.containers.items() if name not in sidecars]
            await asyncio.gather(*(self._stop(each) for each in mains))
            for name in reversed(sidecars):
                if name in self.containers:
                    await self._stop(self.containers[name])
            await self._client.call(
                "StopPodSandbox", cri.StopPodSandboxRequest(pod_sandbox_id=self.sandbox), cri.StopPodSandboxResponse
            )

    async def remove(self) -> None:
        """Stops it, and takes away all that it had."""
        try:
            await self.stop()
            if self.sandbox:
                await self._client.call(
                    "RemovePodSandbox",
                    cri.RemovePodSandboxRequest(pod_sandbox_id=self.sandbox),
                    cri.RemovePodSandboxResponse,
                )
        finally:
            self.volumes.tear_down()

    async def _start(self, document: Document, attempt: int, *, init: bool = False) -> None:
        name, image = document["name"], self._node.image(document["image"])
        image_id = await self._node.pull(image, document, self.config)
        message = termination_file(self._folder, name, attempt)
        message.parent.mkdir(parents=True, exist_ok=True)
        message.touch()
        message.chmod(0o666)  # a container need not be root
        (self._logs / name).mkdir(exist_ok=True)
        config = container_config(
            self._node.objects,
            self.pod,
            document,
            self.volumes.places,
            self._folder,
            image=image,
            image_id=image_id,
            address=self.address,
            attempt=attempt,
            held=self.volumes.hold,
        )
        create = cri.CreateContainerRequest(pod_sandbox_id=self.sandbox, config=config, sandbox_config=self.config)
        made = await self._client.call("CreateContainer", create, cri.CreateContainerResponse)
        self.containers[name] = running = Running(document, made.container_id, attempt, init)
        await self._client.call(
            "StartContainer", cri.StartContainerRequest(container_id=running.id), cri.StartContainerResponse
        )
        hook = document.get("lifecycle", {}).get("postStart")
        if hook:
            done = await self.exec(name, *hook["exec"]["command"])
            if done.exit_code:
                await self._stop(running)
                raise PodFailedError(f"{name}: postStart ended with {done.exit_code}: {done.stderr.decode()}")

    async def _run_to_end(self, document: Document) -> None:
        name = document["name"]
        while True:
            status = await self.status(name)
            if status.state != cri.CONTAINER_EXITED:
                await asyncio.sleep(POLL)
                continue
            if status.exit_code == 0:
                return
            if self.pod.spec.get("restartPolicy", "Always") == "Never":
                raise PodFailedError(f"{name} ended with {status.exit_code}: {self.log(name)[-2000:]}")
            await self._start(document, self.containers[name].attempt + 1, init=True)

    async def _wait_for(self, name: str, kind: str) -> None:
        running = self.containers[name]
        probe = running.document.get(kind)
        while True:
            status = await self.status(name)
            if status.state == cri.CONTAINER_EXITED:
                raise PodFailedError(
                    f"{name} ended with {status.exit_code} ({status.reason}): {self.log(name)[-2000:]}"
                )
            if status.state == cri.CONTAINER_RUNNING and (probe is None or await self._probe(running, probe)):
                return
            await asyncio.sleep(POLL)

    async def _probe(self, running: Running, probe: Document) -> bool:
        if "exec" in probe:
            try:
                done = await self.exec(
                    running.document["name"], *probe["exec"]["command"], timeout=probe.get("timeoutSeconds", 60)
                )
            except grpc.aio.AioRpcError:
                return False  # such as of a container that is just ending
            return done.exit_code == 0
        port = (probe.get("tcpSocket") or probe["httpGet"])["port"]
        try:
            reader, writer = await asyncio.open_connection(self.address, port)
        except OSError:
            return False
        try:
            if "tcpSocket" in probe:
                return True
            writer.write(f"GET {probe['httpGet'].get('path', '/')} HTTP/1.0\r\nHost: {self.address}\r\n\r\n".encode())
            answer = await reader.readline()
            return answer[9:10] in (b"2", b"3")
        finally:
            writer.close()

    def _restarts(self, document: Document, exit_code: int) -> bool:
        policy = document.get("restartPolicy") or self.pod.spec.get("restartPolicy", "Always")
        return policy == "Always" or (policy == "OnFailure" and exit_code != 0)

    async def _stop(self, running: Running) -> None:
        name = running.document["name"]
        if (await self.status(name)).state == cri.CONTAINER_RUNNING:
            hook = running.document.get("lifecycle", {}).get("preStop")
            if hook:
                # Whatever comes of it, the container is stopped.
                with suppress(grpc.aio.AioRpcError):
                    await self.exec(name, *hook["exec"]["command"])
        grace = self.pod.spec.get("terminationGracePeriodSeconds", 30)
        request = cri.StopContainerRequest(container_id=running.id, timeout=grace)
        await self._client.call("StopContainer", request, cri.StopContainerResponse)


class Node:
    """Pods of some objects through one socket; ``images`` gives the references that manifests' names stand for."""

    def __init__(self, client: CriClient, objects: Objects, folder: Path, images: Mapping[str, str]) -> None:
        self.client = client
        self.objects = objects
        self.folder = folder
        self.logs = folder / "logs"
        self._images = images
        self.pods: list[RunningPod] = []

    def image(self, name: str) -> str:
        """The reference to pull."""
        return self._images.get(name, name)

    async def pull(self, image: str, document: Document, config: cri.PodSandboxConfig) -> str:
        """Sees to it that an image is there, by the container's policy, and gives its id."""
        spec = cri.ImageSpec(image=image)
        if document.get("imagePullPolicy", "IfNotPresent") != "Always":
            request = cri.ImageStatusRequest(image=spec)
            found = await self.client.call("ImageStatus", request, cri.ImageStatusResponse)
            if found.HasField("image"):
                return found.image.id
        pull = cri.PullImageRequest(image=spec, sandbox_config=config)
        return (await self.client.call("PullImage", pull, cri.PullImageResponse)).image_ref

    async def run(self, name: str) -> RunningPod:
        """Starts one of the objects' pods."""
        pod = RunningPod(self, self.objects.pods[name])
        self.pods.append(pod)
        await pod.start()
        return pod


@asynccontextmanager
async def node(socket: Path, objects: Objects, folder: Path, images: Mapping[str, str]) -> AsyncGenerator[Node]:
    """A node, whose pods are removed at the end of the block."""
    client = CriClient(socket)
    made = Node(client, objects, folder, images)
    try:
        yield made
    finally:
        for pod in reversed(made.pods):
            await pod.remove()
        await client.close()
