"""The figures by name, as prometheus-client has them. ``docs/seeing.md`` lists them."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric

import zonal
from zonal.daemon.metrics.history import Histogram, History
from zonal.daemon.snapshot import Snapshot
from zonal.zones.channel_health import ChannelHealth
from zonal.zones.pool_plan import PoolView
from zonal.zones.spec import SHORT_ID, ZoneRecord, ZoneState, ZoneStatistics

_Measured = tuple[ZoneRecord, ZoneStatistics]
_NS = 1e-9

_GAUGES: dict[str, tuple[str, Callable[[_Measured], float]]] = {
    "zonal_zone_cpus": ("CPUs of a zone that are online.", lambda each: each[1].cpus),
    "zonal_zone_start_time_seconds": ("When its workload was started.", lambda each: each[0].started_ns * _NS),
    "zonal_zone_memory_bytes": ("Memory in use, by the zone's own word.", lambda each: each[1].memory_bytes),
    "zonal_zone_memory_held_bytes": ("Memory that its domain has.", lambda each: each[1].memory_held_bytes),
    "zonal_zone_memory_limit_bytes": ("Memory that it may come to have.", lambda each: each[1].memory_limit_bytes),
    "zonal_zone_processes": ("Processes and threads of its container.", lambda each: each[1].processes),
}
_COUNTERS: dict[str, tuple[str, Callable[[_Measured], float]]] = {
    "zonal_zone_cpu_seconds": ("CPU time of the whole zone.", lambda each: each[1].cpu_time_ns * _NS),
    "zonal_zone_disk_read_bytes": ("Read from its disks.", lambda each: each[1].block_read_bytes),
    "zonal_zone_disk_written_bytes": ("Written to its disks.", lambda each: each[1].block_written_bytes),
    "zonal_zone_network_received_bytes": ("Received from its network.", lambda each: each[1].traffic.received.bytes),
    "zonal_zone_network_sent_bytes": ("Sent to its network.", lambda each: each[1].traffic.sent.bytes),
}
_CHANNEL_GAUGES: dict[str, tuple[str, Callable[[ChannelHealth], float]]] = {
    "zonal_zone_channel_up": ("Whether its agent has just answered.", lambda each: float(each.up)),
    "zonal_zone_channel_answer_seconds": ("How long that answer took.", lambda each: each.answer_ns * _NS),
    "zonal_zone_channel_pending_calls": ("Calls without an answer.", lambda each: each.pending_calls),
}
_CHANNEL_COUNTERS: dict[str, tuple[str, Callable[[ChannelHealth], float]]] = {
    "zonal_zone_channel_received_bytes": ("Received from its agent.", lambda each: each.received_bytes),
    "zonal_zone_channel_sent_bytes": ("Sent to its agent.", lambda each: each.sent_bytes),
    "zonal_zone_channel_held_seconds": ("Not read, since it sent too many frames.", lambda each: each.held_ns * _NS),
}


def families(now: Snapshot, history: History, state: Path, resident: int) -> Iterator[Metric]:
    """All of them. ``resident``: zonald's own memory in bytes."""
    yield InfoMetricFamily("zonal_build", "The Zonal that runs.", {"version": zonal.__version__})
    yield GaugeMetricFamily("zonal_resident_bytes", "Resident memory of zonald.", resident)
    yield GaugeMetricFamily("zonal_gather_seconds", "How long it took to ask all zones.", now.seconds)
    yield from _host(now, state)
    states = GaugeMetricFamily("zonal_zones", "Zones by state.", labels=["state"])
    found = Counter(record.state for record in now.records)
    for each in ZoneState:
        states.add_metric([each.value], found[each])
    yield states
    yield GaugeMetricFamily("zonal_zones_left_out", "Zones that run and have no figures here.", now.left_out)
    yield from _zones(now.measured)
    yield from _pool(now.pool)
    events = CounterMetricFamily("zonal_events", "What has happened to zones.", labels=["action"])
    for action, count in sorted(history.events.items()):
        events.add_metric([action], count)
    yield events
    starts = HistogramMetricFamily("zonal_start_seconds", "From the request to the workload's start.")
    _add(starts, [], history.starts)
    yield starts
    phases = HistogramMetricFamily("zonal_start_phase_seconds", "Phases of a start.", labels=["phase"])
    for name, histogram in sorted(history.phases.items()):
        _add(phases, [name], histogram)
    yield phases


def _host(now: Snapshot, state: Path) -> Iterator[Metric]:
    host, disk = now.host, shutil.disk_usage(state)
    yield InfoMetricFamily("zonal_xen", "The hypervisor.", {"version": host.xen_version})
    yield GaugeMetricFamily("zonal_host_cpus", "Physical CPUs.", host.cpus)
    yield GaugeMetricFamily("zonal_host_memory_bytes", "Memory of the machine.", host.memory_bytes)
    yield GaugeMetricFamily("zonal_host_memory_free_bytes", "Memory given to no domain.", host.free_bytes)
    yield GaugeMetricFamily("zonal_state_disk_bytes", "Size of the disk with images and volumes.", disk.total)
    yield GaugeMetricFamily("zonal_state_disk_free_bytes", "Room on that disk.", disk.free)


def _pool(pool: PoolView) -> Iterator[Metric]:
    wanted = GaugeMetricFamily("zonal_pool_wanted", "Zones to be booted ahead of time.", labels=["memory_bytes"])
    ready = GaugeMetricFamily("zonal_pool_ready", "Those that are.", labels=["memory_bytes"])
    counts, found = Counter[int](), Counter(size.memory for size in pool.warm)
    for size in pool.plan.sizes:
        counts[size.resources.memory] += size.count
    for memory, count in sorted(counts.items()):
        wanted.add_metric([str(memory)], count)
        ready.add_metric([str(memory)], found[memory])
    yield from (wanted, ready)
    yield CounterMetricFamily("zonal_pool_taken", "Zones that were given to runs.", pool.counts.taken)
    yield CounterMetricFamily("zonal_pool_missed", "Runs that one would have fitted.", pool.counts.missed)
    yield CounterMetricFamily("zonal_pool_lost", "Zones that ended before anybody took them.", pool.counts.lost)


def _zones(measured: Sequence[_Measured]) -> Iterator[Metric]:
    info = InfoMetricFamily("zonal_zone", "A zone that runs.", labels=["zone"])
    for record, _ in measured:
        about = {"id": record.id[:SHORT_ID], "image": record.spec.image, "kernel": record.kernel_release}
        info.add_metric([record.name], about)
    yield info
    for name, (text, value) in _GAUGES.items():
        yield _filled(
            GaugeMetricFamily(name, text, labels=["zone"]), [(each[0].name, value(each)) for each in measured]
        )
    for name, (text, value) in _COUNTERS.items():
        yield _filled(
            CounterMetricFamily(name, text, labels=["zone"]), [(each[0].name, value(each)) for each in measured]
        )
    channels = [(record.name, used.channel) for record, used in measured if used.channel is not None]
    for name, (text, of) in _CHANNEL_GAUGES.items():
        yield _filled(GaugeMetricFamily(name, text, labels=["zone"]), [(zone, of(each)) for zone, each in channels])
    for name, (text, of) in _CHANNEL_COUNTERS.items():
        yield _filled(CounterMetricFamily(name, text, labels=["zone"]), [(zone, of(each)) for zone, each in channels])


def _filled(
    family: GaugeMetricFamily | CounterMetricFamily, values: Sequence[tuple[str, float]]
) -> GaugeMetricFamily | CounterMetricFamily:
    for zone, value in values:
        family.add_metric([zone], value)
    return family


def _add(family: HistogramMetricFamily, labels: list[str], histogram: Histogram) -> None:
    family.add_metric(labels, histogram.cumulative(), histogram.sum)
