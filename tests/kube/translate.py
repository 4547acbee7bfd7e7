"""A pod as the CRI has it: ``PodSandboxConfig``, and a ``ContainerConfig`` for each container."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from tests.kube.documents import Document, Objects, Pod
from tests.kube.values import all_containers, environment, expand, quantity
from zonal.cri.api import runtime_pb2 as cri

PERIOD = 100_000
"""Microseconds, of CPU quotas."""
MIN_SHARES = 2
_PROTOCOLS = {"TCP": cri.TCP, "UDP": cri.UDP, "SCTP": cri.SCTP}
_PROPAGATION = {
    "None": cri.PROPAGATION_PRIVATE,
    "HostToContainer": cri.PROPAGATION_HOST_TO_CONTAINER,
    "Bidirectional": cri.PROPAGATION_BIDIRECTIONAL,
}
_PROFILES = {
    "RuntimeDefault": cri.SecurityProfile.RuntimeDefault,
    "Unconfined": cri.SecurityProfile.Unconfined,
    "Localhost": cri.SecurityProfile.Localhost,
}


def sandbox_config(pod: Pod, logs: Path, attempt: int = 0) -> cri.PodSandboxConfig:
    """The sandbox of a pod, which logs into ``logs``."""
    spec, security = pod.spec, pod.spec.get("securityContext", {})
    config = cri.PodSandboxConfig(
        metadata=cri.PodSandboxMetadata(name=pod.name, uid=pod.uid, namespace=pod.namespace, attempt=attempt),
        hostname="" if spec.get("hostNetwork") else spec.get("hostname", pod.name)[:63],
        log_directory=str(logs),
        labels=pod.labels | _labels(pod),
        annotations=pod.annotations,
    )
    dns: Document = spec.get("dnsConfig", {})
    config.dns_config.servers.extend(dns.get("nameservers", []))
    config.dns_config.searches.extend(dns.get("searches", []))
    config.dns_config.options.extend(
        f"{each['name']}:{each['value']}" if "value" in each else each["name"] for each in dns.get("options", [])
    )
    for container in all_containers(pod):
        for port in container.get("ports", []):
            config.port_mappings.add(
                protocol=_PROTOCOLS[port.get("protocol", "TCP")],
                container_port=port["containerPort"],
                host_port=port.get("hostPort", 0),
                host_ip=port.get("hostIP", ""),
            )
    linux = config.linux
    for each in security.get("sysctls", []):
        linux.sysctls[each["name"]] = each["value"]
    linux.security_context.namespace_options.CopyFrom(_namespaces(pod))
    linux.security_context.seccomp.CopyFrom(_profile(security.get("seccompProfile")))
    linux.security_context.supplemental_groups.extend(_groups(pod))
    linux.security_context.privileged = any(
        each.get("securityContext", {}).get("privileged", False) for each in all_containers(pod)
    )
    if "runAsUser" in security:
        linux.security_context.run_as_user.value = security["runAsUser"]
    if "runAsGroup" in security:
        linux.security_context.run_as_group.value = security["runAsGroup"]
    linux.resources.CopyFrom(_sum(_resources(each) for each in spec["containers"]))
    for name, value in spec.get("overhead", {}).items():
        if name == "memory":
            linux.overhead.memory_limit_in_bytes = int(quantity(value))
        elif name == "cpu":
            linux.overhead.cpu_shares = _shares(value)
    return config


def container_config(
    objects: Objects,
    pod: Pod,
    container: Document,
    places: Mapping[str, Path],
    folder: Path,
    *,
    image: str,
    image_id: str,
    address: str,
    attempt: int,
    held: Callable[[Path, str], Path] = lambda place, _: place,
) -> cri.ContainerConfig:
    """One container; ``places`` are the pod's volumes, ``folder`` is for files of this container's own.

    ``held`` gives another path of a part of a volume, by which it stays though the volume lets go of it.
    """
    values = environment(objects, pod, container, address)
    name = container["name"]
    config = cri.ContainerConfig(
        metadata=cri.ContainerMetadata(name=name, attempt=attempt),
        image=cri.ImageSpec(image=image_id, user_specified_image=image),
        command=[expand(each, values) for each in container.get("command", [])],
        args=[expand(each, values) for each in container.get("args", [])],
        working_dir=container.get("workingDir", ""),
        envs=[cri.KeyValue(key=key, value=value.encode()) for key, value in values.items()],
        labels={**_labels(pod), "io.kubernetes.container.name": name},
        annotations={"io.kubernetes.container.restartCount": str(attempt)},
        log_path=f"{name}/{attempt}.log",
        stdin=container.get("stdin", False),
        stdin_once=container.get("stdinOnce", False),
        tty=container.get("tty", False),
    )
    for number, each in enumerate(container.get("volumeMounts", [])):
        mount = _mount(pod, each, places, values)
        if "subPath" in each or "subPathExpr" in each:
            mount.host_path = str(held(Path(mount.host_path), f"{each['name']}/{name}/{number}"))
        config.mounts.append(mount)
    config.mounts.add(
        container_path=container.get("terminationMessagePath", "/dev/termination-log"),
        host_path=str(termination_file(folder, name, attempt)),
    )
    config.mounts.add(container_path="/etc/hosts", host_path=str(folder / "etc-hosts"))
    for each in container.get("volumeDevices", []):
        config.devices.add(container_path=each["devicePath"], host_path=str(places[each["name"]]), permissions="mrw")
    config.linux.resources.CopyFrom(_resources(container))
    config.linux.security_context.CopyFrom(_security(pod, container))
    return config


def termination_file(folder: Path, name: str, attempt: int) -> Path:
    """Where a container's termination message is on the node."""
    return folder / "containers" / name / str(attempt)


def _labels(pod: Pod) -> dict[str, str]:
    return {
        "io.kubernetes.pod.name": pod.name,
        "io.kubernetes.pod.namespace": pod.namespace,
        "io.kubernetes.pod.uid": pod.uid,
    }


def _mount(pod: Pod, mount: Document, places: Mapping[str, Path], values: dict[str, str]) -> cri.Mount:
    made = cri.Mount(
        container_path=mount["mountPath"],
        readonly=mount.get("readOnly", False),
        propagation=_PROPAGATION[mount.get("mountPropagation", "None")],
    )
    volume = next(each for each in pod.spec["volumes"] if each["name"] == mount["name"])
    sub_path = mount.get("subPath") or expand(mount.get("subPathExpr", ""), values)
    if "image" in volume:
        made.image.image = volume["image"]["reference"]
        made.image_sub_path = sub_path
        made.readonly = True
        return made
    place = places[mount["name"]]
    if sub_path:
        # Through the links of a live volume to one version of a file: a kubelet's subPath does not follow updates.
        inner = (place / sub_path).resolve()
        if not inner.is_relative_to(place.resolve()):
            raise ValueError(f"subPath {sub_path} leads out of its volume")
        if not inner.exists():
            inner.mkdir(parents=True)
            inner.chmod(0o777)
        place = inner
    made.host_path = str(place)
    return made


def _namespaces(pod: Pod, target: str = "") -> cri.NamespaceOption:
    spec = pod.spec
    shared = cri.POD if spec.get("shareProcessNamespace") else cri.CONTAINER
    return cri.NamespaceOption(
        network=cri.NODE if spec.get("hostNetwork") else cri.POD,
        pid=cri.NODE if spec.get("hostPID") else shared,
        ipc=cri.NODE if spec.get("hostIPC") else cri.POD,
        target_id=target,
    )


def _groups(pod: Pod) -> list[int]:
    security = pod.spec.get("securityContext", {})
    groups: list[int] = list(security.get("supplementalGroups", []))
    return [*groups, security["fsGroup"]] if "fsGroup" in security else groups


def _profile(profile: Document | None) -> cri.SecurityProfile:
    if profile is None:
        return cri.SecurityProfile(profile_type=cri.SecurityProfile.Unconfined)
    return cri.SecurityProfile(
        profile_type=_PROFILES[profile["type"]], localhost_ref=profile.get("localhostProfile", "")
    )


def _security(pod: Pod, container: Document) -> cri.LinuxContainerSecurityContext:
    """The container's settings before the pod's."""
    settings: Document = {**pod.spec.get("securityContext", {}), **container.get("securityContext", {})}
    capabilities: Document = settings.get("capabilities", {})
    made = cri.LinuxContainerSecurityContext(
        capabilities=cri.Capability(
            add_capabilities=capabilities.get("add", []), drop_capabilities=capabilities.get("drop", [])
        ),
        privileged=settings.get("privileged", False),
        namespace_options=_namespaces(pod),
        readonly_rootfs=settings.get("readOnlyRootFilesystem", False),
        supplemental_groups=_groups(pod),
        no_new_privs=not settings.get("allowPrivilegeEscalation", True),
        seccomp=_profile(settings.get("seccompProfile")),
    )
    if "runAsUser" in settings:
        made.run_as_user.value = settings["runAsUser"]
    if "runAsGroup" in settings:
        made.run_as_group.value = settings["runAsGroup"]
    return made


def _shares(cpus: str | int | float) -> int:
    return max(MIN_SHARES, int(quantity(cpus) * 1024))


def _resources(container: Document) -> cri.LinuxContainerResources:
    resources: Document = container.get("resources", {})
    limits, requests = resources.get("limits", {}), resources.get("requests", {})
    made = cri.LinuxContainerResources(
        cpu_shares=_shares(requests.get("cpu", limits.get("cpu", 0))),
        memory_limit_in_bytes=int(quantity(limits.get("memory", 0))),
        oom_score_adj=1000 if not limits and not requests else 500,
    )
    if "cpu" in limits:
        made.cpu_period, made.cpu_quota = PERIOD, int(quantity(limits["cpu"]) * PERIOD)
    return made


def _sum(several: Iterable[cri.LinuxContainerResources]) -> cri.LinuxContainerResources:
    """Of a pod: a limit only where each container has one."""
    parts = list(several)
    total = cri.LinuxContainerResources(cpu_shares=sum(each.cpu_shares for each in parts))
    if all(each.memory_limit_in_bytes for each in parts):
        total.memory_limit_in_bytes = sum(each.memory_limit_in_bytes for each in parts)
    if all(each.cpu_quota for each in parts):
        total.cpu_period, total.cpu_quota = PERIOD, sum(each.cpu_quota for each in parts)
    return total
