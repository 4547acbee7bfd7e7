"""From a pod's configuration to a request for a zone that houses its containers."""

from __future__ import annotations

import re
import secrets

from zonal.api import control_pb2 as control
from zonal.cri.api import runtime_pb2 as pb
from zonal.errors import InvalidInputError, UnsupportedError
from zonal.zones.resources import MAX_CPUS, MIB

HANDLERS = ("", "zonal", "edera")
"""Names of runtime handlers that mean zones; the last one for manifests that were written for it."""
FLOOR = 192 * MIB
"""Bytes that a pod's zone has in any case: its kernel, the agent, and room for small containers."""
OWN_SHARE = 128 * MIB
"""Bytes of a zone that are not for its containers."""
CEILING = 1024 * MIB
"""Bytes that one may grow to where no limit is given."""
_CPU_PERIOD = 100_000
_LABEL = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?", re.ASCII)


def check_metadata(config: pb.PodSandboxConfig) -> None:
    """Raises ``InvalidInputError`` for a pod that has no name."""
    metadata = config.metadata
    if not config.HasField("metadata") or not metadata.name or not metadata.uid or not metadata.namespace:
        raise InvalidInputError("a pod sandbox needs metadata with a name, a namespace and a uid")


def check_handler(handler: str) -> None:
    """Raises ``InvalidInputError`` for one that is not ours."""
    if handler not in HANDLERS:
        known = ", ".join(repr(each) for each in HANDLERS if each)
        raise InvalidInputError(f"there is no runtime handler {handler!r}", hint=f"there are {known}")


def pod_request(config: pb.PodSandboxConfig) -> control.RunSpec:
    """The zone. Raises ``InvalidInputError``, and ``UnsupportedError`` for a pod that would share the host."""
    linux, context = config.linux, config.linux.security_context
    spaces = context.namespace_options
    for what, mode in (("network", spaces.network), ("pid", spaces.pid), ("ipc", spaces.ipc)):
        if mode == pb.NODE:
            raise UnsupportedError(
                f"a pod in a zone cannot have the host's {what} namespace: it has a kernel of its own",
                hint="leave it out, or give the pod to another runtime by its RuntimeClass",
            )
    if spaces.network == pb.CONTAINER or spaces.network == pb.TARGET:
        raise InvalidInputError("a pod's network is the pod's")
    request = control.RunSpec(
        without_workload=True,
        detach=True,
        name=zone_name(config.metadata.name),
        hostname=_hostname(config),
        network=_network(config),
        stop_timeout_seconds=0,
    )
    request.runtime.sysctls.update(linux.sysctls)
    _size(request, linux)
    return request


def zone_name(name: str) -> str:
    """One that is free, by which a person knows the pod or container again."""
    clean = re.sub(r"[^a-zA-Z0-9_.-]", "-", name)[:48].strip("-_.") or "pod"
    return f"{clean}-{secrets.token_hex(4)}"


def pod_size(linux: pb.LinuxPodSandboxConfig) -> tuple[int, int, int, int]:
    """Bytes at first and at most, CPUs online and at most."""
    limit = linux.resources.memory_limit_in_bytes
    ceiling = -(-(limit + OWN_SHARE) // MIB) * MIB if limit > 0 else CEILING
    ceiling = max(ceiling, FLOOR)
    floor = max(FLOOR, -(-ceiling // (8 * MIB)) * MIB)
    quota, period = linux.resources.cpu_quota, linux.resources.cpu_period or _CPU_PERIOD
    cpus = min(MAX_CPUS, max(1, -(-quota // period))) if quota > 0 else 1
    return floor, ceiling, cpus, cpus


def _size(request: control.RunSpec, linux: pb.LinuxPodSandboxConfig) -> None:
    floor, ceiling, cpus, _ = pod_size(linux)
    request.memory_bytes = floor
    if ceiling > floor:
        request.resources.memory_max_bytes = ceiling
    request.cpus = cpus


def _hostname(config: pb.PodSandboxConfig) -> str:
    """As given; else the pod's name, as far as Linux takes it."""
    if config.hostname:
        return config.hostname
    name = config.metadata.name[:63].strip("-.")
    return name if _LABEL.fullmatch(name) else ""


def _network(config: pb.PodSandboxConfig) -> control.NetworkOptions:
    dns = config.dns_config
    ports: list[control.Port] = []
    for each in config.port_mappings:
        if each.protocol == pb.SCTP:
            raise UnsupportedError("ports of SCTP cannot be published", hint="TCP and UDP can")
        if not 0 <= each.host_port < 65536 or not 0 < each.container_port < 65536:
            raise InvalidInputError(f"port {each.container_port} cannot be published as {each.host_port}")
        if each.host_port:
            protocol = "udp" if each.protocol == pb.UDP else "tcp"
            ports.append(
                control.Port(
                    host_ip=each.host_ip, host_port=each.host_port, zone_port=each.container_port, protocol=protocol
                )
            )
    return control.NetworkOptions(ports=ports, dns=dns.servers, dns_search=dns.searches, dns_options=dns.options)
