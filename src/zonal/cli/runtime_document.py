"""How a zone's workload is run and confined, in the words of docker's ``inspect``."""

from __future__ import annotations

from typing import Any

from zonal.api import control_pb2 as pb

SHM_BYTES = 64 << 20


def runtime_host_config(zone: pb.Zone) -> dict[str, Any]:
    """The part of ``HostConfig`` that says it; times in seconds, sizes in bytes."""
    runtime = zone.config.runtime
    security, limits, spaces = runtime.security, runtime.limits, runtime.namespaces
    bare = security.privileged or security.unmasked
    return {
        "CapAdd": list(security.cap_add) or None,
        "CapDrop": list(security.cap_drop) or None,
        "Privileged": security.privileged,
        "SecurityOpt": _security_options(security) or None,
        "GroupAdd": list(security.groups) or None,
        "MaskedPaths": [] if bare else None,
        "ReadonlyPaths": [] if bare else None,
        "Ulimits": [{"Name": u.name, "Soft": u.soft, "Hard": u.hard} for u in limits.ulimits] or None,
        "PidsLimit": limits.pids or None,
        "OomScoreAdj": limits.oom_score_adj,
        "ShmSize": runtime.shm_bytes or SHM_BYTES,
        "Sysctls": dict(sorted(runtime.sysctls.items())) or None,
        "IpcMode": spaces.ipc or "private",
        "PidMode": spaces.pid,
        "UTSMode": spaces.uts,
        "CgroupnsMode": spaces.cgroup or "private",
        "UsernsMode": "private" if spaces.uids else "",
        "IDMappings": {"UidMap": _maps(spaces.uids), "GidMap": _maps(spaces.gids)} if spaces.uids else None,
        "Init": runtime.init or None,
        "Devices": [
            {"PathOnHost": m.source, "PathInContainer": m.target, "CgroupPermissions": m.access or "rwm"}
            for m in zone.mounts
            if m.type in ("device", "zone-device")
        ],
        "DeviceCgroupRules": list(runtime.device_rules) or None,
        "Annotations": dict(sorted(runtime.annotations.items())) or None,
    }


def runtime_config(zone: pb.Zone) -> dict[str, Any]:
    """The part of ``Config`` that says it."""
    config = zone.config
    return {
        "Domainname": config.runtime.domainname,
        "Labels": dict(sorted(zone.labels.items())),
        "StopTimeout": config.stop_timeout_seconds,
        "ExposedPorts": {port: {} for text in config.exposed_ports for port in _each(text)} or None,
    }


def _security_options(security: pb.Security) -> list[str]:
    options = ["no-new-privileges"] if security.no_new_privileges else []
    options += [f"seccomp={security.seccomp}"] if security.seccomp else []
    options += ["systempaths=unconfined"] if security.unmasked else []
    return [*options, "writable-cgroups=true"] if security.writable_cgroups else options


def _maps(maps: Any) -> list[str]:
    return [f"{each.container}:{each.zone}:{each.size}" for each in maps]


def _each(text: str) -> list[str]:
    """``8000-8001/tcp`` as docker lists it: ``8000/tcp`` and ``8001/tcp``."""
    numbers, _, protocol = text.partition("/")
    first, _, last = numbers.partition("-")
    return [f"{port}/{protocol}" for port in range(int(first), int(last or first) + 1)]
