"""What the control API says, as JSON for programs."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from zonal.api import control_pb2 as pb
from zonal.cli.networks import port_document
from zonal.cli.policies import show_check, show_health, show_policy
from zonal.cli.runtime_document import runtime_config, runtime_host_config
from zonal.errors import InvalidInputError

_HEALTH = ("starting", "healthy", "unhealthy", "none")


def state_name(state: pb.ZoneState) -> str:
    """``running`` and the like."""
    return pb.ZoneState.Name(state).removeprefix("ZONE_STATE_").lower()


def zone_document(zone: pb.Zone) -> dict[str, Any]:
    """One zone; times in RFC 3339, sizes in bytes."""
    return {
        "id": zone.id,
        "name": zone.name,
        "zone": zone.zone_name or None,
        "image": zone.image,
        "image_id": zone.image_id,
        "command": list(zone.command),
        "state": state_name(zone.state),
        "domain_id": zone.domain_id or None,
        "exit_status": zone.exit_status,
        "reason": zone.reason,
        "created": time_text(zone.created_ns),
        "started": time_text(zone.started_ns),
        "finished": time_text(zone.finished_ns),
        "memory_bytes": zone.memory_bytes,
        "cpus": zone.cpus,
        "resources": resources_document(zone.resources),
        "kernel": zone.kernel,
        "kernel_release": zone.kernel_release,
        "virt": zone.virt,
        "pci": [each.address for each in zone.pci],
        "agent_resident_bytes": zone.agent_resident_bytes,
        "storage_bytes": zone.storage_bytes,
        "mounts": [mount_document(mount) for mount in zone.mounts],
        "hostname": zone.hostname,
        "network": zone.network,
        "addresses": list(zone.addresses),
        "mac": zone.mac,
        "ports": [port_document(port) for port in zone.ports],
        "labels": dict(sorted(zone.labels.items())),
        "restart_count": zone.restart_count,
        "health": zone.health.status or None,
        "phases": [{"name": p.name, "begin_ns": p.begin_ns, "end_ns": p.end_ns} for p in zone.phases],
    }


def parse_filters(texts: Iterable[str]) -> dict[str, set[str]]:
    """``status=running`` and the like, by name. Raises ``InvalidInputError``."""
    wanted: dict[str, set[str]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = "image" if name == "ancestor" else name
        if (
            not equals
            or not value
            or name not in ("id", "name", "zone", "image", "status", "exited", "label", "health")
        ):
            raise InvalidInputError(
                f"the filter {text!r} is unknown",
                hint="id, name, zone, image, status, exited, label or health, each with =…",
            )
        if name == "health" and value not in _HEALTH:
            raise InvalidInputError(f"there is no health {value!r}", hint=", ".join(_HEALTH))
        wanted.setdefault(name, set()).add(value)
    return wanted


def passes(zone: pb.Zone, wanted: Mapping[str, set[str]]) -> bool:
    """Whether a zone fulfils one filter of each name, as docker understands them."""
    state = state_name(zone.state)
    ended = state in ("exited", "crashed")
    tests: dict[str, Callable[[str], bool]] = {
        "id": zone.id.startswith,
        "name": lambda value: value in zone.name,
        "zone": lambda value: value == zone.zone_name or (bool(zone.zone_id) and zone.zone_id.startswith(value)),
        "image": lambda value: value == zone.image or zone.image_id.removeprefix("sha256:").startswith(value),
        "status": lambda value: value == state or (value == "exited" and ended),
        "exited": lambda value: ended and value == str(zone.exit_status),
        "label": lambda value: _has_label(zone, value),
        "health": lambda value: value == (zone.health.status or "none"),
    }
    # As docker has it: of several labels all are wanted, of all else one.
    return all((all if name == "label" else any)(map(tests[name], values)) for name, values in wanted.items())


def _has_label(zone: pb.Zone, text: str) -> bool:
    name, equals, value = text.partition("=")
    return name in zone.labels and (not equals or zone.labels[name] == value)


def inspect_document(zone: pb.Zone) -> dict[str, Any]:
    """One zone in docker's words where it has them; ``Zone`` has the rest. Times in RFC 3339, sizes in bytes."""
    state, config, resources = state_name(zone.state), zone.config, zone.resources
    never = "0001-01-01T00:00:00Z"
    listed = zone_document(zone)
    alone = (
        "domain_id",
        "kernel",
        "kernel_release",
        "virt",
        "pci",
        "agent_resident_bytes",
        "storage_bytes",
        "resources",
        "phases",
    )
    return {
        "Id": zone.id,
        "Created": time_text(zone.created_ns),
        "Path": zone.command[0] if zone.command else "",
        "Args": list(zone.command[1:]),
        "State": {
            "Status": "exited" if state == "crashed" else state,
            "Running": state in ("running", "paused", "stopping", "restarting"),
            "Paused": state == "paused",
            "Restarting": state == "restarting",
            "OOMKilled": zone.reason == "out of memory",
            "Dead": state == "crashed",
            "ExitCode": zone.exit_status,
            "Error": zone.reason,
            "StartedAt": time_text(zone.started_ns) or never,
            "FinishedAt": time_text(zone.finished_ns) or never,
            **({"Health": show_health(zone.health)} if zone.HasField("health") else {}),
        },
        "Image": zone.image_id,
        "Name": zone.name,
        "RestartCount": zone.restart_count,
        "HostConfig": {
            # Docker's limit and reservation: what it may have, and what it has in any case.
            "Memory": max(zone.memory_bytes, resources.memory_max_bytes),
            "MemoryReservation": config.runtime.limits.memory_reservation_bytes
            or (zone.memory_bytes if resources.memory_max_bytes > zone.memory_bytes else 0),
            "CpuShares": 4 * resources.cpu_weight,
            "CpusetCpus": resources.cpuset_cpus,
            "RestartPolicy": show_policy(config.restart),
            "NanoCpus": zone.cpus * 1_000_000_000,
            "AutoRemove": config.remove,
            "ReadonlyRootfs": config.read_only,
            "LogConfig": {"max-size": config.log_max_bytes, "max-file": config.log_max_files},
            **runtime_host_config(zone),
        },
        "Mounts": [
            {
                "Type": mount.type,
                "Name": mount.source if mount.type == "volume" else "",
                "Source": mount.source,
                "Destination": mount.target,
                "RW": not mount.read_only,
            }
            for mount in zone.mounts
            if mount.type != "zone-device"
        ],
        "Config": {
            "Hostname": config.hostname,
            "User": config.user,
            "Tty": config.terminal,
            "OpenStdin": config.stdin,
            "Env": list(config.env),
            "Cmd": list(zone.command),
            "Image": zone.image,
            "WorkingDir": config.working_directory,
            "StopSignal": config.stop_signal,
            **runtime_config(zone),
            **({"Healthcheck": show_check(config.health)} if config.HasField("health") else {}),
        },
        "NetworkSettings": {
            "Ports": _port_map(zone.ports),
            "Networks": {zone.network: _addresses(zone)} if zone.network != "none" else {},
        },
        "Zone": {"state": state, "shared": zone.zone_name or None, **{key: listed[key] for key in alone}},
    }


def _port_map(ports: Iterable[pb.Port]) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for port in ports:
        there = {"HostIp": port.host_ip or "0.0.0.0", "HostPort": str(port.host_port)}
        found.setdefault(f"{port.zone_port}/{port.protocol}", []).append(there)
    return found


def _addresses(zone: pb.Zone) -> dict[str, Any]:
    """The first address of each family; they are there while the zone runs."""
    interfaces = [ipaddress.ip_interface(each) for each in zone.addresses]
    first = {each.version: each for each in reversed(interfaces)}
    old, new = first.get(4), first.get(6)
    return {
        "IPAddress": str(old.ip) if old else "",
        "IPPrefixLen": old.network.prefixlen if old else 0,
        "GlobalIPv6Address": str(new.ip) if new else "",
        "GlobalIPv6PrefixLen": new.network.prefixlen if new else 0,
        "MacAddress": zone.mac,
    }


def resources_document(resources: pb.Resources) -> dict[str, Any]:
    """What a zone may have; sizes in bytes, the cap in per cent of one CPU."""
    return {
        "memory_bytes": resources.memory_bytes,
        "memory_max_bytes": max(resources.memory_bytes, resources.memory_max_bytes),
        "cpus": resources.cpus,
        "cpus_max": max(resources.cpus, resources.cpus_max),
        "cpu_weight": resources.cpu_weight,
        "cpu_cap": resources.cpu_cap,
        "cpuset_cpus": resources.cpuset_cpus,
    }


def mount_document(mount: pb.Mount) -> dict[str, Any]:
    """One mount; what says nothing is left out."""
    document: dict[str, Any] = {"type": mount.type, "source": mount.source, "target": mount.target}
    document |= {"read_only": mount.read_only}
    document |= {"subpath": mount.subpath} if mount.subpath else {}
    document |= {"size_bytes": mount.size_bytes} if mount.size_bytes else {}
    return document | ({"options": list(mount.options)} if mount.options else {})


def zone_line(zone: pb.Zone) -> str:
    """One zone on one line."""
    return json.dumps(zone_document(zone), ensure_ascii=False)


def image_document(image: pb.Image) -> dict[str, Any]:
    """One image, as listed."""
    return {
        "id": image.id,
        "references": list(image.references),
        "size_bytes": image.size_bytes,
        "created": time_text(image.created_ns),
        "platform": image.platform,
    }


def kernel_document(kernel: pb.Kernel) -> dict[str, Any]:
    """One kernel, as listed."""
    return {
        "name": kernel.name,
        "release": kernel.release,
        "size_bytes": kernel.size_bytes,
        "default": kernel.is_default,
        "source": kernel.source,
        "modules": kernel.has_modules,
        "metadata": dict(kernel.metadata),
    }


def pretty(document: object) -> str:
    """Indented JSON."""
    return json.dumps(document, ensure_ascii=False, indent=2)


def time_text(ns: int) -> str | None:
    """A wall-clock time as RFC 3339 with microseconds, ``None`` for 0."""
    return datetime.fromtimestamp(ns / 1e9, UTC).isoformat().replace("+00:00", "Z") if ns else None
