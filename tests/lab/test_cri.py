"""Pods and containers through the CRI's socket, as a kubelet asks for them, in real zones."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import tempfile
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest

from tests.kube.client import CriClient
from tests.lab.driver import IMAGE, Host, NamedLab
from zonal.cri.api import runtime_pb2 as pb
from zonal.lab.access import ssh_command
from zonal.lab.paths import cache
from zonal.lab.state import load

pytestmark = pytest.mark.lab
LOGS = "/var/log/pods/test"
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (stdout|stderr) ([FP]) (.*)")


@pytest.fixture(name="host", scope="module")
def the_host(lab: NamedLab) -> Iterator[Host]:
    host = Host(lab)
    host.run(IMAGE, "true")
    host.shell(f"rm -rf {LOGS}")  # of a run that was cut off
    yield host
    host.remove_all()


@pytest.fixture(name="socket", scope="module")
def the_socket(host: Host) -> Iterator[Path]:
    """The lab's socket, here."""
    paths = cache().lab(host.lab)
    state = load(paths)
    assert state is not None
    assert state.run is not None
    with tempfile.TemporaryDirectory(prefix="cri") as folder:
        socket = Path(folder, "cri.sock")
        command = ssh_command(paths, state.run.ssh_port, [])
        forward = [
            "-N",
            "-o",
            "ControlPath=none",
            "-o",
            "ExitOnForwardFailure=yes",
            "-L",
            f"{socket}:/run/zonal/cri.sock",
        ]
        with subprocess.Popen([*command[:-1], *forward, command[-1]], stdin=subprocess.DEVNULL) as tunnel:
            try:
                yield socket
            finally:
                tunnel.terminate()


@asynccontextmanager
async def client(socket: Path) -> AsyncGenerator[CriClient]:
    made = CriClient(socket)
    try:
        yield made
    finally:
        await made.close()


def pod_config(name: str, **more: object) -> pb.PodSandboxConfig:
    config = pb.PodSandboxConfig(
        metadata=pb.PodSandboxMetadata(name=name, namespace="default", uid=f"uid-{name}"),
        log_directory=f"{LOGS}/{name}",
        labels={"app": name},
        annotations={"note": "kept"},
    )
    for field, value in more.items():
        getattr(config, field).CopyFrom(value)
    return config


def container_config(name: str, *command: str) -> pb.ContainerConfig:
    return pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name=name),
        image=pb.ImageSpec(image=IMAGE),
        command=command,
        log_path=f"{name}/0.log",
        envs=[pb.KeyValue(key="WHO", value=b"world")],
        labels={"container": name},
    )


async def run_pod(cri: CriClient, config: pb.PodSandboxConfig) -> str:
    request = pb.RunPodSandboxRequest(config=config)
    return (await cri.call("RunPodSandbox", request, pb.RunPodSandboxResponse)).pod_sandbox_id


async def start_container(cri: CriClient, pod: str, config: pb.ContainerConfig, sandbox: pb.PodSandboxConfig) -> str:
    request = pb.CreateContainerRequest(pod_sandbox_id=pod, config=config, sandbox_config=sandbox)
    made = await cri.call("CreateContainer", request, pb.CreateContainerResponse)
    again = await cri.call("CreateContainer", request, pb.CreateContainerResponse)
    assert again.container_id == made.container_id
    await cri.call(
        "StartContainer", pb.StartContainerRequest(container_id=made.container_id), pb.StartContainerResponse
    )
    return made.container_id


async def status(cri: CriClient, container: str) -> pb.ContainerStatus:
    request = pb.ContainerStatusRequest(container_id=container)
    return (await cri.call("ContainerStatus", request, pb.ContainerStatusResponse)).status


async def ended(cri: CriClient, container: str) -> pb.ContainerStatus:
    for _ in range(600):
        found = await status(cri, container)
        if found.state == pb.CONTAINER_EXITED:
            return found
        await asyncio.sleep(0.2)
    raise AssertionError(f"container {container} goes on")


async def remove_pod(cri: CriClient, pod: str) -> None:
    for _ in range(2):  # both may come twice
        await cri.call("StopPodSandbox", pb.StopPodSandboxRequest(pod_sandbox_id=pod), pb.StopPodSandboxResponse)
    for _ in range(2):
        await cri.call("RemovePodSandbox", pb.RemovePodSandboxRequest(pod_sandbox_id=pod), pb.RemovePodSandboxResponse)


def lines(host: Host, path: str) -> list[tuple[str, str, str]]:
    found = [LINE.fullmatch(line) for line in host.shell(f"cat {path}").splitlines()]
    assert all(found), found
    return [(match[1], match[2], match[3]) for match in found if match]


async def test_a_pod_runs_its_containers_and_leaves_nothing(host: Host, socket: Path) -> None:
    async with client(socket) as cri:
        for each in (await cri.call("ListPodSandbox", pb.ListPodSandboxRequest(), pb.ListPodSandboxResponse)).items:
            await remove_pod(cri, each.id)  # of another's
    before = host.snapshot()
    async with client(socket) as cri:
        config = pod_config("plain")
        pod = await run_pod(cri, config)
        assert await run_pod(cri, config) == pod
        found = await cri.call(
            "PodSandboxStatus", pb.PodSandboxStatusRequest(pod_sandbox_id=pod), pb.PodSandboxStatusResponse
        )
        assert found.status.state == pb.SANDBOX_READY
        assert found.status.network.ip.startswith("10.")
        assert dict(found.status.annotations) == {"note": "kept"}
        script = "echo hello $WHO; echo wrong >&2; hostname; printf unended; exit 3"
        one = await start_container(cri, pod, container_config("one", "sh", "-c", script), config)
        two = await start_container(cri, pod, container_config("two", "sleep", "1000"), config)
        end = await ended(cri, one)
        assert (end.exit_code, end.reason) == (3, "Error")
        assert end.started_at > end.created_at > 0
        assert sorted(lines(host, end.log_path)) == [
            ("stderr", "F", "wrong"),
            ("stdout", "F", "hello world"),
            ("stdout", "F", "plain"),
            ("stdout", "P", "unended"),
        ]
        done = await cri.call(
            "ExecSync",
            pb.ExecSyncRequest(container_id=two, cmd=["sh", "-c", "echo out; echo err >&2; exit 5"]),
            pb.ExecSyncResponse,
        )
        assert (done.stdout, done.stderr, done.exit_code) == (b"out\n", b"err\n", 5)
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await cri.call(
                "ExecSync", pb.ExecSyncRequest(container_id=two, cmd=["sleep", "50"], timeout=1), pb.ExecSyncResponse
            )
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        listed = await cri.call("ListContainers", pb.ListContainersRequest(), pb.ListContainersResponse)
        states = {each.id: each.state for each in listed.containers}
        assert states == {one: pb.CONTAINER_EXITED, two: pb.CONTAINER_RUNNING}
        await cri.call("StopContainer", pb.StopContainerRequest(container_id=two, timeout=1), pb.StopContainerResponse)
        assert (await status(cri, two)).exit_code in (137, 143)
        await remove_pod(cri, pod)
        left = await cri.call("ListPodSandbox", pb.ListPodSandboxRequest(), pb.ListPodSandboxResponse)
        assert not left.items
    host.shell(f"rm -rf {LOGS}")
    after = host.snapshot()
    assert after.domains == before.domains
    assert after.zone_folders == before.zone_folders


async def test_a_containers_figures_are_its_own_and_a_pods_its_zones(host: Host, socket: Path) -> None:
    async with client(socket) as cri:
        config = pod_config("figures")
        pod = await run_pod(cri, config)
        script = "head -c 20000000 /dev/zero > /big; sync; touch /done; sleep 1000"
        busy = await start_container(cri, pod, container_config("busy", "sh", "-c", script), config)
        written = "until test -e /done; do sleep 0.2; done"
        check = pb.ExecSyncRequest(container_id=busy, cmd=["sh", "-c", written], timeout=120)
        assert (await cri.call("ExecSync", check, pb.ExecSyncResponse)).exit_code == 0
        one = await cri.call("ContainerStats", pb.ContainerStatsRequest(container_id=busy), pb.ContainerStatsResponse)
        assert one.stats.cpu.usage_core_nano_seconds.value > 0
        assert 0 < one.stats.memory.working_set_bytes.value <= one.stats.memory.usage_bytes.value
        assert one.stats.memory.page_faults.value > 0
        assert one.stats.writable_layer.used_bytes.value >= 20_000_000
        assert one.stats.writable_layer.inodes_used.value > 0
        of_pod = await cri.call(
            "PodSandboxStats", pb.PodSandboxStatsRequest(pod_sandbox_id=pod), pb.PodSandboxStatsResponse
        )
        linux = of_pod.stats.linux
        assert linux.cpu.usage_core_nano_seconds.value > one.stats.cpu.usage_core_nano_seconds.value
        assert linux.process.process_count.value >= 1
        assert [each.attributes.id for each in linux.containers] == [busy]
        metrics = await cri.call(
            "ListPodSandboxMetrics", pb.ListPodSandboxMetricsRequest(), pb.ListPodSandboxMetricsResponse
        )
        (mine,) = [each for each in metrics.pod_metrics if each.pod_sandbox_id == pod]
        names = {metric.name for each in mine.container_metrics for metric in each.metrics}
        assert {"container_cpu_usage_seconds_total", "container_memory_working_set_bytes"} <= names
        await remove_pod(cri, pod)


async def test_logs_and_pods_go_on_over_a_killed_zonald(host: Host, socket: Path) -> None:
    async with client(socket) as cri:
        config = pod_config("killed")
        pod = await run_pod(cri, config)
        script = "for i in $(seq 300); do echo $i; sleep 0.1; done; exit 4"
        container = await start_container(cri, pod, container_config("counts", "sh", "-c", script), config)
        await asyncio.sleep(3)
        host.shell("systemctl kill -s KILL zonald")
        host.until_zonald_answers()
    async with client(socket) as cri:
        moved = f"{LOGS}/killed/counts/0.log"
        host.shell(f"mv {moved} {moved}.1")
        await cri.call(
            "ReopenContainerLog", pb.ReopenContainerLogRequest(container_id=container), pb.ReopenContainerLogResponse
        )
        end = await ended(cri, container)
        assert end.exit_code == 4
        said = [text for _, _, text in lines(host, f"{moved}.1 {moved}")]
        assert said == [str(number) for number in range(1, 301)]
        await remove_pod(cri, pod)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (pb.PodSandboxConfig(), grpc.StatusCode.INVALID_ARGUMENT),
        (
            pb.PodSandboxConfig(
                metadata=pb.PodSandboxMetadata(name="a", namespace="b", uid="c"),
                linux=pb.LinuxPodSandboxConfig(
                    security_context=pb.LinuxSandboxSecurityContext(
                        namespace_options=pb.NamespaceOption(network=pb.NODE)
                    )
                ),
            ),
            grpc.StatusCode.UNIMPLEMENTED,
        ),
    ],
)
async def test_a_pod_that_cannot_be_is_refused(
    socket: Path, change: pb.PodSandboxConfig, code: grpc.StatusCode
) -> None:
    async with client(socket) as cri:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await run_pod(cri, change)
        assert refused.value.code() is code
        listed = await cri.call("ListPodSandbox", pb.ListPodSandboxRequest(), pb.ListPodSandboxResponse)
        assert not listed.items


CONFIGURATION = "/etc/cni/net.d/00-test.conflist"
CLUSTER = {
    "cniVersion": "1.0.0",
    "name": "test-cluster",
    "plugins": [
        {
            "type": "ptp",
            "mtu": 1400,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "10.77.0.0/24"}], [{"subnet": "fd77::/64"}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}
SERVER = (
    "use IO::Socket::INET; my $l = IO::Socket::INET->new(LocalPort => 80, Listen => 5, ReuseAddr => 1) or die $!;"
    ' print "ready\\n"; $|++; while (my $c = $l->accept) { print $c "from one\\n"; close $c }'
)


async def test_pods_are_on_the_network_that_the_cluster_has(host: Host, socket: Path) -> None:
    host.shell(f"mkdir -p /etc/cni/net.d; cat > {CONFIGURATION} <<'EOF'\n{json.dumps(CLUSTER)}\nEOF")
    pods: list[str] = []
    async with client(socket) as cri:
        try:
            port = pb.PortMapping(protocol=pb.TCP, container_port=80, host_port=8099)
            configs = [pod_config("one"), pod_config("two")]
            configs[0].port_mappings.append(port)
            for config in configs:
                pods.append(await run_pod(cri, config))
            request = [pb.PodSandboxStatusRequest(pod_sandbox_id=pod) for pod in pods]
            told = [(await cri.call("PodSandboxStatus", each, pb.PodSandboxStatusResponse)).status for each in request]
            first = told[0].network.ip
            assert [each.network.ip.rpartition(".")[0] for each in told] == ["10.77.0", "10.77.0"]
            assert all(each.network.additional_ips[0].ip.startswith("fd77::") for each in told)
            server = container_config("server", "perl", "-e", SERVER)
            await start_container(cri, pods[0], server, configs[0])
            ask = f"for i in $(seq 50); do exec 3<>/dev/tcp/{first}/80 && break; sleep 0.2; done; cat <&3"
            ask += "; cat /sys/class/net/eth0/mtu"
            container = await start_container(cri, pods[1], container_config("ask", "bash", "-c", ask), configs[1])
            assert (await ended(cri, container)).exit_code == 0
            assert [text for stream, _, text in lines(host, f"{LOGS}/two/ask/0.log") if stream == "stdout"] == [
                "from one",
                "1400",
            ]
            own = '$(ip -4 -o addr show scope global | awk \'NR == 1 {sub("/.*", "", $4); print $4}\')'
            assert host.shell(f"exec 3<>/dev/tcp/{first}/80; cat <&3").strip() == "from one"
            assert host.shell(f"exec 3<>/dev/tcp/{own}/8099; cat <&3").strip() == "from one"
            # A namespace that is gone is a network that is lost.
            host.shell(f"umount /run/netns/zonal-{pods[1][:12]}")
            lost = (await cri.call("PodSandboxStatus", request[1], pb.PodSandboxStatusResponse)).status
            assert lost.state == pb.SANDBOX_NOTREADY
        finally:
            for pod in pods:
                await remove_pod(cri, pod)
            host.shell(f"rm -f {CONFIGURATION}")
    assert host.shell("ls /var/lib/cni/networks/test-cluster | grep -c '^10\\.' || true").strip() == "0"
    assert not host.shell("iptables-save | grep 8099 || true")
