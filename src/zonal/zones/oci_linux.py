"""What a container sees of its zone's kernel: its mounts, and the ``linux`` part of the OCI runtime configuration.

Source: OCI runtime-spec 1.2 ``config-linux.md``. What nobody has chosen is as docker has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zonal.zones.mounts import DEVICE_NUMBERS
from zonal.zones.runtime_options import OF_WORKLOAD, DeviceRule, IdMap, Limits, Namespaces, RuntimeOptions, Security

CGROUPS = "/zonal"
"""Below it each workload has one. By it the agent holds workloads back: ``zonal.agent.memory.CGROUP``."""
MASKED_PATHS = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/xen",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
SHM_BYTES = 64 << 20
"""Of /dev/shm, where nothing is said."""

# Linux's Documentation/admin-guide/devices.txt: null, zero, full, random, urandom, tty, console, ptmx, all of pts.
_DEVICES = ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, None))
_IPC_SYSCTLS = ("kernel.msg", "kernel.sem", "kernel.shm", "fs.mqueue.")


def linux_section(options: RuntimeOptions, devices: Sequence[Mapping[str, object]], name: str) -> dict[str, Any]:
    """``linux`` of the workload ``name``; ``devices`` are nodes that the container has besides the usual."""
    security, spaces = options.security, options.namespaces
    masked, read_only = _paths(security)
    section: dict[str, Any] = {
        "namespaces": _namespaces(spaces),
        "cgroupsPath": f"{CGROUPS}/{name}",
        "resources": {
            **_resources(options.limits),
            "devices": _device_rules(options.device_rules, every=security.privileged),
        },
        "devices": [*devices],
        "maskedPaths": masked,
        "readonlyPaths": read_only,
    }
    if spaces.uids:
        section["uidMappings"] = _mappings(spaces.uids)
        section["gidMappings"] = _mappings(spaces.gids)
    if own := {name: value for name, value in options.sysctls if is_of_container(name, spaces)}:
        section["sysctl"] = own
    return section


def _paths(security: Security) -> tuple[list[str], list[str]]:
    """Masked ones, and those that can only be read."""
    if security.privileged or security.unmasked:
        return [], []
    if security.own_paths:
        return [*security.masked_paths], [*security.readonly_paths]
    return [*MASKED_PATHS], [*READONLY_PATHS]


def is_of_container(sysctl: str, spaces: Namespaces) -> bool:
    """Whether a kernel parameter belongs to the container's own IPC namespace; all others are the zone's."""
    return spaces.ipc != "host" and sysctl.startswith(_IPC_SYSCTLS)


def standard_mounts(options: RuntimeOptions) -> list[dict[str, object]]:
    """Those that every container has."""
    security, spaces = options.security, options.namespaces
    system = "rw" if security.privileged else "ro"
    cgroups = "rw" if security.privileged or security.writable_cgroups else "ro"
    mounts = [
        _mount("/proc", "proc", "nosuid,noexec,nodev"),
        _mount("/dev", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
        _mount("/dev/pts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
        _mount("/sys", "sysfs", f"nosuid,noexec,nodev,{system}"),
        _mount("/sys/fs/cgroup", "cgroup", f"{cgroups},nosuid,noexec,nodev"),
    ]
    if spaces.ipc == "host":
        return [*mounts, *(_bind(path) for path in ("/dev/mqueue", "/dev/shm"))]
    mounts.append(_mount("/dev/mqueue", "mqueue", "nosuid,noexec,nodev"))
    if spaces.ipc != "none":
        size = options.shm_bytes or SHM_BYTES
        mounts.append(_mount("/dev/shm", "tmpfs", f"nosuid,noexec,nodev,mode=1777,size={size}", source="shm"))
    return mounts


def _namespaces(spaces: Namespaces) -> list[dict[str, str]]:
    """No network namespace: a workload has its zone's network. A user namespace only where its ids are mapped."""
    chosen = [("ipc", spaces.ipc), ("uts", spaces.uts), ("cgroup", spaces.cgroup), ("pid", spaces.pid)]
    found = [{"type": "mount"}]
    for kind, mode in chosen:
        if mode.startswith(OF_WORKLOAD):
            found.append({"type": kind, "path": mode})
        elif mode != "host":
            found.append({"type": kind})
    return [*found, {"type": "user"}] if spaces.uids else found


def _resources(limits: Limits) -> dict[str, Any]:
    resources: dict[str, Any] = {}
    if limits.pids:
        resources["pids"] = {"limit": limits.pids}
    memory = {
        "limit": limits.memory_bytes,
        "swap": limits.memory_bytes,
        "reservation": limits.memory_reservation_bytes,
    }
    if chosen := {name: value for name, value in memory.items() if value}:
        resources["memory"] = chosen
    cpu = {"shares": limits.cpu_shares, "quota": limits.cpu_quota_us, "period": limits.cpu_period_us}
    if chosen := {name: value for name, value in cpu.items() if value}:
        resources["cpu"] = chosen
    return resources


def _device_rules(wanted: Sequence[DeviceRule], *, every: bool) -> list[dict[str, object]]:
    if every:
        return [{"allow": True, "access": "rwm"}]
    # Any node may be made, as under docker; only the harmless ones may be opened.
    rules: list[dict[str, object]] = [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "access": "m"},
        {"allow": True, "type": "b", "access": "m"},
    ]
    harmless = [DeviceRule("c", major, minor, "rwm") for major, minor in _DEVICES]
    # Those that were given to it, or will be while it runs.
    given = [DeviceRule("b", major, minor, "rwm") for major, minor in DEVICE_NUMBERS]
    return [*rules, *(_device_rule(rule) for rule in (*harmless, *given, *wanted))]


def _device_rule(rule: DeviceRule) -> dict[str, object]:
    numbers = {"major": rule.major, "minor": rule.minor}
    known = {name: number for name, number in numbers.items() if number is not None}
    return {"allow": True, "type": rule.kind, **known, "access": rule.access}


def _mappings(maps: Sequence[IdMap]) -> list[dict[str, int]]:
    return [{"containerID": each.container, "hostID": each.zone, "size": each.size} for each in maps]


def _bind(path: str) -> dict[str, object]:
    return _mount(path, "bind", "rbind,rprivate,nosuid,noexec,nodev", source=path)


def _mount(destination: str, kind: str, options: str, *, source: str = "") -> dict[str, object]:
    return {"destination": destination, "type": kind, "source": source or kind, "options": options.split(",")}
