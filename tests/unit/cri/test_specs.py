"""What zones and workloads are asked for, for a kubelet's configurations."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from zonal.cri.api import runtime_pb2 as pb
from zonal.cri.container_spec import container_request, limits_of
from zonal.cri.pod_network import bandwidth
from zonal.cri.pod_spec import (
    CEILING,
    FLOOR,
    OWN_SHARE,
    check_handler,
    check_metadata,
    pod_request,
    pod_size,
    zone_name,
)
from zonal.errors import InvalidInputError, NotFoundError, UnsupportedError, ZonalError
from zonal.zones.names import check_name
from zonal.zones.runtime_options import Limits

POD = pb.PodSandboxConfig(metadata=pb.PodSandboxMetadata(name="web", namespace="default", uid="1"))
MIB = 1 << 20


def container(**fields: object) -> pb.ContainerConfig:
    return pb.ContainerConfig(metadata=pb.ContainerMetadata(name="main"), **fields)  # pyright: ignore[reportArgumentType]


def test_a_pod_becomes_a_zone_for_others() -> None:
    config = pb.PodSandboxConfig()
    config.CopyFrom(POD)
    config.dns_config.servers.append("10.96.0.10")
    config.dns_config.options.append("ndots:5")
    config.port_mappings.add(container_port=80, host_port=8080)
    config.port_mappings.add(container_port=53)
    config.linux.sysctls["net.core.somaxconn"] = "100"
    request = pod_request(config)
    assert request.without_workload
    assert request.hostname == "web"
    assert list(request.network.dns) == ["10.96.0.10"]
    assert [(each.host_port, each.zone_port) for each in request.network.ports] == [(8080, 80)]
    assert dict(request.runtime.sysctls) == {"net.core.somaxconn": "100"}
    assert request.memory_bytes == FLOOR
    assert request.resources.memory_max_bytes == CEILING


@pytest.mark.parametrize("limit", [0, 10 * MIB, 500 * MIB, 64 << 30])
def test_a_zone_can_hold_what_its_containers_may_use(limit: int) -> None:
    linux = pb.LinuxPodSandboxConfig(
        resources=pb.LinuxContainerResources(memory_limit_in_bytes=limit, cpu_quota=250_000)
    )
    floor, ceiling, cpus, _ = pod_size(linux)
    assert FLOOR <= floor <= ceiling <= 10 * floor
    assert ceiling >= limit + (OWN_SHARE if limit else 0)
    assert floor % MIB == ceiling % MIB == 0
    assert cpus == 3


@pytest.mark.parametrize("space", ["network", "pid", "ipc"])
def test_a_pod_that_would_share_the_host_is_refused_with_the_reason(space: str) -> None:
    config = pb.PodSandboxConfig()
    config.CopyFrom(POD)
    setattr(config.linux.security_context.namespace_options, space, pb.NODE)
    with pytest.raises(UnsupportedError, match=f"host's {space} namespace"):
        pod_request(config)


@pytest.mark.parametrize("missing", ["name", "namespace", "uid"])
def test_a_pod_needs_all_of_its_metadata(missing: str) -> None:
    config = pb.PodSandboxConfig()
    config.CopyFrom(POD)
    config.metadata.ClearField(missing)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidInputError):
        check_metadata(config)


def test_handlers() -> None:
    for handler in ("", "zonal", "edera"):
        check_handler(handler)
    with pytest.raises(InvalidInputError, match="runc"):
        check_handler("runc")


@pytest.mark.parametrize("name", ["a", "x" * 300, "ünïcode", "-.-", "", "with space/and:more"])
def test_any_name_becomes_one_of_a_zone(name: str) -> None:
    assert check_name(zone_name(name)) != zone_name(name)


@pytest.mark.parametrize(
    ("command", "arguments", "entrypoint", "rest"),
    [
        (["a", "b"], ["c"], "a", ["b", "c"]),
        (["a"], [], "a", []),
        ([], ["c", "d"], None, ["c", "d"]),
        ([], [], None, []),
    ],
)
def test_commands_and_arguments_are_kubernetes_words(
    command: list[str], arguments: list[str], entrypoint: str | None, rest: list[str]
) -> None:
    request = container_request(container(command=command, args=arguments), POD, "pod", "image")
    assert (request.entrypoint if request.HasField("entrypoint") else None) == entrypoint
    assert list(request.command) == rest
    assert (request.zone, request.image, request.create) == ("pod", "image", True)


def test_a_security_context_is_passed_on() -> None:
    context = pb.LinuxContainerSecurityContext(
        capabilities=pb.Capability(add_capabilities=["NET_ADMIN"], drop_capabilities=["ALL"]),
        namespace_options=pb.NamespaceOption(pid=pb.CONTAINER),
        run_as_user=pb.Int64Value(value=1000),
        run_as_group=pb.Int64Value(value=2000),
        supplemental_groups=[3000],
        readonly_rootfs=True,
        no_new_privs=True,
        seccomp=pb.SecurityProfile(profile_type=pb.SecurityProfile.RuntimeDefault),
    )
    resources = pb.LinuxContainerResources(memory_limit_in_bytes=64 * MIB, cpu_quota=50_000, cpu_period=100_000)
    config = container(
        linux=pb.LinuxContainerConfig(security_context=context, resources=resources),
        stop_signal=pb.SIGNAL_SIGRTMINPLUS3,
    )
    request = container_request(config, POD, "pod", "image")
    security = request.runtime.security
    assert (request.user, list(security.groups)) == ("1000:2000", ["3000"])
    assert (list(security.cap_add), list(security.cap_drop)) == (["NET_ADMIN"], ["ALL"])
    assert request.read_only
    assert security.no_new_privileges
    assert security.seccomp == ""
    assert request.stop_signal == "SIGRTMIN+3"
    assert request.runtime.limits.memory_bytes == 64 * MIB
    assert request.runtime.limits.cpu_quota_us == 50_000
    assert request.runtime.namespaces.pid == ""


def test_processes_are_seen_as_asked_for() -> None:
    for mode, pid in ((pb.POD, "host"), (pb.CONTAINER, "")):
        context = pb.LinuxContainerSecurityContext(namespace_options=pb.NamespaceOption(pid=mode))
        config = container(linux=pb.LinuxContainerConfig(security_context=context))
        assert container_request(config, POD, "pod", "image").runtime.namespaces.pid == pid


def test_memory_for_shared_memory_is_the_zones_own(tmp_path: Path) -> None:
    place = tmp_path / "volumes/kubernetes.io~empty-dir/shm"
    place.mkdir(parents=True)
    config = container(mounts=[pb.Mount(container_path="/dev/shm", host_path=str(place))])
    # A folder on disk is what was asked for, then.
    assert len(container_request(config, POD, "pod", "image").mounts) == 1
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
    try:
        assert not container_request(config, POD, "pod", "image").mounts
    finally:
        subprocess.run(["umount", place], check=True)


def test_mounts_and_devices(tmp_path: Path) -> None:
    config = container(
        mounts=[
            pb.Mount(container_path="/a", host_path=str(tmp_path), readonly=True),
            pb.Mount(container_path="/b", image=pb.ImageSpec(image="data:1"), image_sub_path="x"),
        ],
        devices=[pb.Device(container_path="/dev/fuse", host_path="/dev/fuse", permissions="rw")],
    )
    bind, image, device = container_request(config, POD, "pod", "image").mounts
    assert (bind.type, bind.source, bind.target, bind.read_only) == ("bind", str(tmp_path), "/a", True)
    assert (image.type, image.source, image.subpath) == ("image", "data:1", "x")
    assert (device.type, device.access) == ("device", "rw")


@pytest.mark.parametrize(
    ("config", "error"),
    [
        (pb.ContainerConfig(), InvalidInputError),
        (container(CDI_devices=[pb.CDIDevice(name="a/b=c")]), UnsupportedError),
        (container(mounts=[pb.Mount(container_path="/a", propagation=pb.PROPAGATION_BIDIRECTIONAL)]), UnsupportedError),
        (
            container(
                linux=pb.LinuxContainerConfig(
                    security_context=pb.LinuxContainerSecurityContext(run_as_group=pb.Int64Value(value=1))
                )
            ),
            InvalidInputError,
        ),
        (
            container(
                linux=pb.LinuxContainerConfig(security_context=pb.LinuxContainerSecurityContext(privileged=True))
            ),
            InvalidInputError,
        ),
        (
            container(
                linux=pb.LinuxContainerConfig(
                    security_context=pb.LinuxContainerSecurityContext(
                        seccomp=pb.SecurityProfile(
                            profile_type=pb.SecurityProfile.Localhost, localhost_ref="/nowhere.json"
                        )
                    )
                )
            ),
            NotFoundError,
        ),
    ],
)
def test_what_cannot_be_is_refused(config: pb.ContainerConfig, error: type[ZonalError]) -> None:
    with pytest.raises(error):
        container_request(config, POD, "pod", "image")


def test_a_change_of_limits_is_as_fine_as_it_was_asked_for() -> None:
    before = Limits(pids=7, memory_bytes=64 * MIB, cpu_quota_us=100_000, cpu_period_us=100_000, oom_score_adj=5)
    changed = limits_of(pb.LinuxContainerResources(cpu_quota=25_000, cpu_period=50_000, cpu_shares=512), before)
    assert (changed.cpu_quota_us, changed.cpu_period_us, changed.cpu_shares) == (25_000, 50_000, 512)
    assert (changed.pids, changed.memory_bytes, changed.oom_score_adj) == (7, 64 * MIB, 5)
    unbounded = limits_of(pb.LinuxContainerResources(cpu_quota=-1, memory_limit_in_bytes=-1), changed)
    assert (unbounded.cpu_quota_us, unbounded.memory_bytes) == (0, 0)
    assert limits_of(pb.LinuxContainerResources(), changed) == changed


@pytest.mark.parametrize(
    ("annotations", "rates"),
    [
        ({}, {}),
        ({"kubernetes.io/ingress-bandwidth": "10M"}, {"ingressRate": 10_000_000, "ingressBurst": (1 << 32) - 1}),
        ({"kubernetes.io/egress-bandwidth": "1.5Ki"}, {"egressRate": 1536, "egressBurst": (1 << 32) - 1}),
    ],
)
def test_bandwidth_by_annotations(annotations: dict[str, str], rates: dict[str, int]) -> None:
    assert bandwidth(annotations) == rates


@pytest.mark.parametrize("text", ["", "10", "much", "-1M", "1e3", "5P" * 40, "9999T"])
def test_bandwidth_that_cannot_be(text: str) -> None:
    with pytest.raises(InvalidInputError, match="ingress-bandwidth"):
        bandwidth({"kubernetes.io/ingress-bandwidth": text})
