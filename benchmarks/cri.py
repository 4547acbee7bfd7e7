"""Pods of one container through a CRI socket, as a kubelet asks for them.

What measures inside the lab's host finds gRPC and the CRI's messages in Zonal's own source there, by PYTHONPATH.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import grpc
from google.protobuf.message import Message

from zonal.cri.api import runtime_pb2 as pb

Reply = TypeVar("Reply", bound=Message)

LOGS = Path("/var/log/pods/bench")
TIMEOUT = 300.0
_SERVICES = [pb.DESCRIPTOR.services_by_name[name] for name in ("RuntimeService", "ImageService")]
_PATHS = {method.name: f"/{service.full_name}/{method.name}" for service in _SERVICES for method in service.methods}


@dataclass(frozen=True)
class Pod:
    """One that runs, and how many seconds each call took."""

    sandbox: str
    container: str
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def total(self) -> float:
        """From nothing to a container that runs."""
        return sum(self.seconds.values())


class Cri:
    """A runtime, by its socket; any number of threads may use it."""

    def __init__(self, who: str, socket: Path, logs: Path = LOGS) -> None:
        """``logs``: the folder for what the containers say."""
        self.who = who
        self._logs = logs
        self._channel = cast("Any", grpc).insecure_channel(
            f"unix:{socket}", options=[("grpc.max_receive_message_length", 16 << 20)]
        )

    def call(self, name: str, request: Message, reply: type[Reply]) -> Reply:
        """One call."""
        call = self._channel.unary_unary(_PATHS[name], response_deserializer=reply.FromString)
        return call(request.SerializeToString(), timeout=TIMEOUT, wait_for_ready=True)

    def run_pod(self, name: str, image: str, command: Sequence[str]) -> Pod:
        """RunPodSandbox, CreateContainer, StartContainer, ContainerStatus: a pod of the class BestEffort."""
        metadata = pb.PodSandboxMetadata(name=name, namespace="bench", uid=secrets.token_hex(8))
        spaces = pb.NamespaceOption(network=pb.POD, pid=pb.CONTAINER, ipc=pb.POD)
        sandbox_config = pb.PodSandboxConfig(
            metadata=metadata,
            hostname=name,
            log_directory=f"{self._logs}/{metadata.uid}",
            labels={"bench": name},
            linux=pb.LinuxPodSandboxConfig(
                security_context=pb.LinuxSandboxSecurityContext(namespace_options=spaces),
            ),
        )
        config = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name="main"),
            image=pb.ImageSpec(image=image),
            command=command,
            log_path="main.log",
            linux=pb.LinuxContainerConfig(
                resources=pb.LinuxContainerResources(cpu_shares=2, oom_score_adj=1000),
                security_context=pb.LinuxContainerSecurityContext(namespace_options=spaces),
            ),
        )
        Path(sandbox_config.log_directory).mkdir(parents=True)  # as a kubelet does
        seconds: dict[str, float] = {}

        def timed(call: str, request: Message, reply: type[Reply]) -> Reply:
            begin = time.monotonic()
            answer = self.call(call, request, reply)
            seconds[call] = time.monotonic() - begin
            return answer

        sandbox = timed("RunPodSandbox", pb.RunPodSandboxRequest(config=sandbox_config), pb.RunPodSandboxResponse)
        create = pb.CreateContainerRequest(
            pod_sandbox_id=sandbox.pod_sandbox_id, config=config, sandbox_config=sandbox_config
        )
        container = timed("CreateContainer", create, pb.CreateContainerResponse).container_id
        timed("StartContainer", pb.StartContainerRequest(container_id=container), pb.StartContainerResponse)
        wanted = pb.ContainerStatusRequest(container_id=container)
        status = timed("ContainerStatus", wanted, pb.ContainerStatusResponse).status
        if status.state != pb.CONTAINER_RUNNING:
            raise RuntimeError(f"{self.who}: the container of {name} does not run: {status}")
        return Pod(sandbox.pod_sandbox_id, container, seconds)

    def address(self, pod: Pod) -> str:
        """Of a pod's network."""
        request = pb.PodSandboxStatusRequest(pod_sandbox_id=pod.sandbox)
        return self.call("PodSandboxStatus", request, pb.PodSandboxStatusResponse).status.network.ip

    def exec(self, pod: Pod, *command: str) -> str:
        """Standard output of a command in its container, which must succeed."""
        request = pb.ExecSyncRequest(container_id=pod.container, cmd=command)
        done = self.call("ExecSync", request, pb.ExecSyncResponse)
        if done.exit_code:
            raise RuntimeError(
                f"{self.who}: {command} ended with {done.exit_code}: {(done.stderr or done.stdout)[-1000:]!r}"
            )
        return done.stdout.decode()

    def remove_pod(self, sandbox: str) -> None:
        """StopPodSandbox, RemovePodSandbox."""
        self.call("StopPodSandbox", pb.StopPodSandboxRequest(pod_sandbox_id=sandbox), pb.StopPodSandboxResponse)
        self.call("RemovePodSandbox", pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox), pb.RemovePodSandboxResponse)

    def remove_all(self, together: int = 1) -> None:
        """Every pod that there is, so many at once."""
        found = self.call("ListPodSandbox", pb.ListPodSandboxRequest(), pb.ListPodSandboxResponse).items
        with ThreadPoolExecutor(together) as pool:
            list(pool.map(self.remove_pod, [each.id for each in found]))

    def has_image(self, name: str) -> bool:
        """Whether it is there."""
        request = pb.ImageStatusRequest(image=pb.ImageSpec(image=name))
        return self.call("ImageStatus", request, pb.ImageStatusResponse).HasField("image")

    def ready(self) -> str:
        """What keeps it from serving pods; empty when nothing does."""
        status = self.call("Status", pb.StatusRequest(), pb.StatusResponse).status
        return "; ".join(f"{each.type}: {each.message}" for each in status.conditions if not each.status)
