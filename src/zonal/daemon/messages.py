"""From the words of zones to the messages of the control API."""

from __future__ import annotations

from collections.abc import Iterable

from zonal.api import control_pb2 as pb
from zonal.daemon.policies import check_message, health_message
from zonal.daemon.resources import resources_message
from zonal.daemon.runtime_spec import runtime_message
from zonal.network.ports import Port
from zonal.zones.mounts import Mount, MountKind
from zonal.zones.spec import Phase, ZoneRecord, ZoneSpec, ZoneState

_STATES = {
    ZoneState.CREATED: pb.ZONE_STATE_CREATED,
    ZoneState.CREATING: pb.ZONE_STATE_CREATING,
    ZoneState.RUNNING: pb.ZONE_STATE_RUNNING,
    ZoneState.PAUSED: pb.ZONE_STATE_PAUSED,
    ZoneState.RESTARTING: pb.ZONE_STATE_RESTARTING,
    ZoneState.STOPPING: pb.ZONE_STATE_STOPPING,
    ZoneState.EXITED: pb.ZONE_STATE_EXITED,
    ZoneState.CRASHED: pb.ZONE_STATE_CRASHED,
}


def zone_message(record: ZoneRecord, zone_name: str = "") -> pb.Zone:
    """One zone, as ``zonal zone inspect`` shows it; ``zone_name``: of a workload, that of the zone that it shares."""
    spec = record.spec
    return pb.Zone(
        id=spec.id,
        name=spec.name,
        image=spec.image,
        image_id=spec.image_id,
        command=spec.command,
        state=_STATES[record.state],
        domain_id=record.domain_id,
        exit_status=record.exit_status,
        reason=record.reason,
        created_ns=record.created_ns,
        started_ns=record.started_ns,
        finished_ns=record.finished_ns,
        memory_bytes=spec.runtime.limits.memory_bytes if spec.zone else spec.resources.memory,
        cpus=spec.resources.cpus,
        resources=resources_message(spec.resources),
        kernel=spec.kernel,
        phases=phase_messages(record.phases),
        agent_resident_bytes=record.agent_resident_bytes,
        kernel_release=record.kernel_release,
        virt=record.virt,
        storage_bytes=spec.storage_bytes,
        mounts=[mount_message(mount) for mount in _mounts(record)],
        network=spec.network.network,
        addresses=record.addresses,
        mac=record.mac or spec.network.mac,
        ports=[port_message(port) for port in record.ports or spec.network.ports],
        hostname=spec.hostname,
        labels=dict(spec.labels),
        restart_count=record.restarts.count,
        health=health_message(record.health) if record.health else None,
        zone_id=spec.zone,
        zone_name=zone_name,
        without_workload=spec.houses,
        pci=[
            pb.PciDevice(address=each.address, insecure_no_iommu=each.insecure, permissive=each.permissive)
            for each in spec.pci
        ],
    )


def port_message(port: Port) -> pb.Port:
    """One published port."""
    return pb.Port(host_ip=port.host_ip, host_port=port.host_port, zone_port=port.zone_port, protocol=port.protocol)


def config_message(spec: ZoneSpec) -> pb.ZoneConfig:
    """How a zone was asked for."""
    return pb.ZoneConfig(
        env=spec.env,
        working_directory=spec.cwd,
        user=spec.user,
        hostname=spec.hostname,
        terminal=spec.terminal,
        stdin=spec.stdin,
        remove=spec.remove,
        detach=spec.detach,
        stop_signal=spec.stop_signal,
        read_only=spec.read_only,
        log_max_bytes=spec.log.max_size,
        log_max_files=spec.log.max_files,
        runtime=runtime_message(spec.runtime),
        stop_timeout_seconds=spec.stop_timeout,
        exposed_ports=spec.exposed_ports,
        restart=pb.RestartPolicy(name=spec.restart.kind, maximum_retries=spec.restart.max_retries),
        health=check_message(spec.health) if spec.health else None,
    )


def mount_message(mount: Mount) -> pb.Mount:
    """One mount."""
    return pb.Mount(
        type=mount.kind,
        source=mount.source,
        target=mount.target,
        read_only=mount.read_only,
        subpath=mount.subpath,
        size_bytes=mount.size_bytes,
        options=mount.options,
        access=mount.access if mount.kind is MountKind.ZONE_DEVICE else "",
    )


def _mounts(record: ZoneRecord) -> list[Mount]:
    """What is mounted now; of a zone that has ended, what was when it began."""
    if not record.attached:
        return list(record.spec.mounts)
    lasting = [mount for mount in record.spec.mounts if not mount.needs_attaching]
    return [*lasting, *(each.mount for each in record.attached)]


def phase_messages(phases: Iterable[Phase]) -> list[pb.Phase]:
    """The phases, in order of their begin."""
    ordered = sorted(phases, key=lambda phase: (phase.begin_ns, phase.end_ns))
    return [pb.Phase(name=phase.name, begin_ns=phase.begin_ns, end_ns=phase.end_ns) for phase in ordered]
