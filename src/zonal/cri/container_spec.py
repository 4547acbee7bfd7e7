"""From a container's configuration to a request for a workload in its pod's zone."""

from __future__ import annotations

import json
from pathlib import Path

from zonal.api import control_pb2 as control
from zonal.cri.api import runtime_pb2 as pb
from zonal.cri.pod_spec import zone_name
from zonal.errors import InvalidInputError, NotFoundError, UnsupportedError
from zonal.zones.runtime_options import Limits
from zonal.zones.seccomp import MAX_PROFILE, UNCONFINED

_SHARES = range(2, 262145)


def container_request(config: pb.ContainerConfig, pod: pb.PodSandboxConfig, pod_id: str, image: str) -> control.RunSpec:
    """The workload; ``image`` is the id of its image. Raises ``InvalidInputError`` and others that a user causes."""
    if not config.HasField("metadata") or not config.metadata.name:
        raise InvalidInputError("a container needs metadata with a name")
    context = config.linux.security_context
    request = control.RunSpec(
        image=image,
        name=zone_name(config.metadata.name),
        zone=pod_id,
        env=[
            *([f"HOSTNAME={pod.hostname}"] if pod.hostname else []),  # the workload's own would be its id
            *(f"{each.key}={each.value.decode(errors='surrogateescape')}" for each in config.envs),
        ],
        working_directory=config.working_dir,
        user=_user(context),
        terminal=config.tty,
        stdin=config.stdin,
        read_only=context.readonly_rootfs,
        create=True,
        # Its first client's end is the end of its input, or any number of clients may come.
        detach=not config.stdin_once,
        stop_signal=_signal(config),
        mounts=[_mount(each) for each in config.mounts if not _is_shared_memory(each)]
        + [_device(each) for each in config.devices],
    )
    if config.command:
        request.entrypoint = config.command[0]
        request.command.extend([*config.command[1:], *config.args])
    else:
        request.command.extend(config.args)
    if config.CDI_devices:
        raise UnsupportedError("a zone takes no CDI devices", hint="it takes PCI devices and block devices")
    _secure(request.runtime, context, pod.linux.security_context)
    _limit(request.runtime, config.linux.resources)
    return request


def limits_of(resources: pb.LinuxContainerResources, before: Limits) -> Limits:
    """What a container may use from now on: what is 0 stays as it is, and what is less has no bound any more."""
    memory, quota = resources.memory_limit_in_bytes, resources.cpu_quota
    return Limits(
        ulimits=before.ulimits,
        pids=before.pids,
        memory_bytes=max(0, memory) if memory else before.memory_bytes,
        memory_reservation_bytes=before.memory_reservation_bytes,
        cpu_shares=_shares(resources.cpu_shares) or before.cpu_shares,
        cpu_quota_us=max(0, quota) if quota else before.cpu_quota_us,
        cpu_period_us=resources.cpu_period or before.cpu_period_us,
        oom_score_adj=before.oom_score_adj,
    )


def _user(context: pb.LinuxContainerSecurityContext) -> str:
    user = ""
    if context.HasField("run_as_user"):
        user = str(context.run_as_user.value)
    elif context.run_as_username:
        user = context.run_as_username
    if context.HasField("run_as_group"):
        if not user:
            raise InvalidInputError("run_as_group needs a user: run_as_user or run_as_username")
        user += f":{context.run_as_group.value}"
    return user


def _signal(config: pb.ContainerConfig) -> str:
    if config.stop_signal == pb.SIGNAL_RUNTIME_DEFAULT:
        return ""
    name = pb.Signal.Name(config.stop_signal).removeprefix("SIGNAL_")
    return name.replace("MINPLUS", "MIN+").replace("MAXMINUS", "MAX-")


def _mount(mount: pb.Mount) -> control.Mount:
    if mount.HasField("image") and mount.image.image:
        return control.Mount(
            type="image", source=mount.image.image, target=mount.container_path, subpath=mount.image_sub_path
        )
    if mount.propagation == pb.PROPAGATION_BIDIRECTIONAL:
        raise UnsupportedError(
            f"what is mounted in a zone at {mount.container_path} cannot come to be seen in the host",
            hint="HostToContainer can be had",
        )
    return control.Mount(
        type="bind", source=mount.host_path, target=mount.container_path, read_only=mount.readonly, create=True
    )


def _is_shared_memory(mount: pb.Mount) -> bool:
    """Whether it is an ``emptyDir`` in memory for /dev/shm. A pod's containers share their zone's, which is one.

    The host's, by 9p, could not be mapped as shared memory, which is what /dev/shm is for.
    """
    source = Path(mount.host_path)
    return (
        Path(mount.container_path) == Path("/dev/shm")
        and source.parent.name == "kubernetes.io~empty-dir"
        and source.is_mount()
    )


def _device(device: pb.Device) -> control.Mount:
    return control.Mount(
        type="device", source=device.host_path, target=device.container_path, access=device.permissions
    )


def _secure(
    runtime: control.RuntimeOptions,
    context: pb.LinuxContainerSecurityContext,
    pod: pb.LinuxSandboxSecurityContext,
) -> None:
    security, spaces = runtime.security, context.namespace_options
    security.privileged = context.privileged
    if context.privileged and not pod.privileged:
        raise InvalidInputError("a privileged container needs a pod sandbox that is privileged")
    security.no_new_privileges = context.no_new_privs
    security.cap_add.extend(context.capabilities.add_capabilities)
    security.cap_drop.extend(context.capabilities.drop_capabilities)
    security.groups.extend(str(each) for each in context.supplemental_groups)
    security.seccomp = _seccomp(context)
    # A kubelet always names them all, and none for ``procMount: Unmasked``.
    security.own_paths = True
    security.masked_paths.extend(context.masked_paths)
    security.readonly_paths.extend(context.readonly_paths)
    for what, mode in (("pid", spaces.pid), ("ipc", spaces.ipc)):
        if mode == pb.NODE:
            raise UnsupportedError(f"a container in a zone cannot have the host's {what} namespace")
    if spaces.pid == pb.POD:
        runtime.namespaces.pid = "host"  # the zone's
    elif spaces.pid == pb.TARGET:
        runtime.namespaces.pid = f"container:{spaces.target_id}"


def _seccomp(context: pb.LinuxContainerSecurityContext) -> str:
    if context.HasField("seccomp"):
        profile = context.seccomp
        if profile.profile_type == pb.SecurityProfile.RuntimeDefault:
            return ""
        if profile.profile_type == pb.SecurityProfile.Unconfined:
            return UNCONFINED
        return _profile(profile.localhost_ref)
    old = context.seccomp_profile_path
    if old.startswith("localhost/"):
        return _profile(old.removeprefix("localhost/"))
    return "" if old in ("runtime/default", "docker/default") else UNCONFINED


def _profile(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_PROFILE + 1)
    except OSError as error:
        raise NotFoundError(f"the seccomp profile {path} cannot be read: {error.strerror}") from error
    try:
        json.loads(data)
        return data.decode()
    except ValueError:
        raise InvalidInputError(f"the seccomp profile {path} is no JSON") from None


def _limit(runtime: control.RuntimeOptions, resources: pb.LinuxContainerResources) -> None:
    limits = runtime.limits
    limits.memory_bytes = max(0, resources.memory_limit_in_bytes)
    limits.cpu_shares = _shares(resources.cpu_shares)
    limits.cpu_quota_us = max(0, resources.cpu_quota)
    limits.cpu_period_us = max(0, resources.cpu_period)
    limits.oom_score_adj = max(-1000, min(1000, resources.oom_score_adj))


def _shares(shares: int) -> int:
    return min(max(shares, _SHARES.start), _SHARES.stop - 1) if shares > 0 else 0
