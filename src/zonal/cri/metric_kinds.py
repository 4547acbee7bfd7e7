"""Metrics of containers and pods by the names that cAdvisor has for them, which monitoring knows (KEP-2371).

Each has a value of an integer, as the CRI has it: seconds are whole ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from zonal.cri.api import runtime_pb2 as pb
from zonal.network.links import Flow, Traffic
from zonal.zones.figures import ContainerFigures
from zonal.zones.spec import ZoneStatistics

LABELS: Final = ("container", "id", "image", "name", "namespace", "pod")
"""What every metric says of whom it is, in this order."""
INTERFACE: Final = "eth0"
"""A zone's one interface, by the name that it has there."""
_SECOND: Final = 1_000_000_000
_CPU_PERIOD: Final = 100_000
"""µs: the kernel's own, where none is given."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What metrics are made of: a container's, or with ``config`` None a pod's."""

    used: ZoneStatistics
    started_ns: int
    config: pb.ContainerConfig | None = None
    figures: ContainerFigures = field(default_factory=ContainerFigures)


Values = Iterable[tuple[tuple[str, ...], int | None]]
"""Values of further labels, and what is counted there; None is left out."""


@dataclass(frozen=True, slots=True)
class MetricKind:
    """One metric."""

    name: str
    help: str
    read: Callable[[Measured], Values]
    labels: tuple[str, ...] = ()
    """Beyond ``LABELS``."""
    counter: bool = True

    @property
    def descriptor(self) -> pb.MetricDescriptor:
        """As ``ListMetricDescriptors`` has it."""
        return pb.MetricDescriptor(name=self.name, help=self.help, label_keys=(*LABELS, *self.labels))

    def metrics(self, measured: Measured, labels: tuple[str, ...], now: int) -> Iterable[pb.Metric]:
        """The values of ``LABELS`` are ``labels``; ``now`` in ns of the wall clock."""
        for more, value in self.read(measured):
            if value is not None:
                yield pb.Metric(
                    name=self.name,
                    timestamp=now,
                    metric_type=pb.COUNTER if self.counter else pb.GAUGE,
                    label_values=(*labels, *more),
                    value=pb.UInt64Value(value=value),
                )


def _figure(name: str, *labels: str, of: int = 1) -> Callable[[Measured], Values]:
    """One of ``ContainerFigures``, in units ``of`` so many."""

    def read(measured: Measured) -> Values:
        value: int | None = getattr(measured.figures, name)
        yield labels, value // of if value is not None else None

    return read


def _counter(name: str, help: str, figure: str, of: int = 1) -> MetricKind:
    return MetricKind(name, help, _figure(figure, of=of))


def _gauge(name: str, help: str, figure: str) -> MetricKind:
    return MetricKind(name, help, _figure(figure), counter=False)


def _disk(name: str, help: str, figure: str, *, counter: bool = False) -> MetricKind:
    return MetricKind(name, help, _figure(figure, ""), labels=("device",), counter=counter)


def _limit(name: str) -> Callable[[Measured], Values]:
    """One of ``ContainerFigures``; 0 where no limit is set, as long as something is known of the container."""

    def read(measured: Measured) -> Values:
        if measured.figures.processes is not None:
            yield (), getattr(measured.figures, name) or 0

    return read


def _now(_measured: Measured) -> Values:
    yield (), time.time_ns() // _SECOND


def _block_bytes(measured: Measured) -> Values:
    """All disks are one here, without numbers."""
    yield ("", "", "", "Read"), measured.figures.disk_read_bytes
    yield ("", "", "", "Write"), measured.figures.disk_written_bytes


def _cpu(measured: Measured) -> Values:
    yield ("total",), measured.used.cpu_time_ns // _SECOND


def _memory(measured: Measured) -> Values:
    usage = measured.figures.memory_usage
    yield (), usage if usage is not None else measured.used.memory_bytes


def _working_set(measured: Measured) -> Values:
    working = measured.figures.working_set
    yield (), working if working is not None else measured.used.memory_bytes


def _faults(measured: Measured) -> Values:
    yield ("pgfault", "container"), measured.figures.page_faults
    yield ("pgmajfault", "container"), measured.figures.major_page_faults


def _free_inodes(measured: Measured) -> Values:
    figures = measured.figures
    if figures.layer_inodes is not None and figures.layer_inodes_used is not None:
        yield ("",), max(figures.layer_inodes - figures.layer_inodes_used, 0)


def _traffic(read: Callable[[Traffic], int]) -> Callable[[Measured], Values]:
    def values(measured: Measured) -> Values:
        yield (INTERFACE,), read(measured.used.traffic)

    return values


def _network() -> Iterable[MetricKind]:
    """Bytes, packets, errors and drops, each way."""
    ways: tuple[tuple[str, Callable[[Traffic], Flow]], ...] = (
        ("receive", lambda traffic: traffic.received),
        ("transmit", lambda traffic: traffic.sent),
    )
    counts: tuple[tuple[str, Callable[[Flow], int]], ...] = (
        ("bytes", lambda flow: flow.bytes),
        ("packets", lambda flow: flow.packets),
        ("errors", lambda flow: flow.errors),
        ("packets_dropped", lambda flow: flow.dropped),
    )
    for way, flow in ways:
        for what, count in counts:
            yield MetricKind(
                f"container_network_{way}_{what}_total",
                f"{what.replace('_', ' ').capitalize()} of its interface: {way}.",
                _traffic(lambda traffic, flow=flow, count=count: count(flow(traffic))),
                labels=("interface",),
            )


def _started(measured: Measured) -> Values:
    yield (), measured.started_ns // _SECOND or None


def _pressure(resource: str, kind: str) -> Callable[[Measured], Values]:
    def read(measured: Measured) -> Values:
        found = measured.figures.pressure.get(resource, {}).get(kind)
        yield (), found.total_ns // _SECOND if found is not None else None

    return read


def _resources(read: Callable[[pb.LinuxContainerResources], int]) -> Callable[[Measured], Values]:
    """What the container was given; 0 is no limit."""

    def values(measured: Measured) -> Values:
        if measured.config is not None:
            yield (), max(read(measured.config.linux.resources), 0)

    return values


_CPU = MetricKind("container_cpu_usage_seconds_total", "CPU time used, in seconds.", _cpu, labels=("cpu",))
_MEMORY = (
    MetricKind("container_memory_usage_bytes", "Memory in use, with all cache.", _memory, counter=False),
    MetricKind("container_memory_working_set_bytes", "Memory in use that is active.", _working_set, counter=False),
)
_START = MetricKind("container_start_time_seconds", "When it started, since the epoch.", _started, counter=False)

OF_PODS: Final = (
    _CPU,
    *_MEMORY,
    _START,
    *_network(),
)
"""Of a pod as a whole: its zone."""

OF_CONTAINERS: Final = (
    _CPU,
    _counter("container_cpu_user_seconds_total", "CPU time in user space, in seconds.", "cpu_user_ns", _SECOND),
    _counter("container_cpu_system_seconds_total", "CPU time in the kernel, in seconds.", "cpu_system_ns", _SECOND),
    _counter("container_cpu_cfs_periods_total", "Periods in which its CPU quota was enforced.", "cpu_periods"),
    _counter(
        "container_cpu_cfs_throttled_periods_total", "Periods in which it was held back.", "cpu_throttled_periods"
    ),
    _counter("container_cpu_cfs_throttled_seconds_total", "Time it was held back for.", "cpu_throttled_ns", _SECOND),
    *_MEMORY,
    _gauge("container_memory_rss", "Anonymous memory, in bytes.", "memory_anon"),
    _gauge("container_memory_cache", "Cache of files, in bytes.", "memory_file"),
    _gauge("container_memory_mapped_file", "Files mapped into memory, in bytes.", "memory_mapped"),
    _gauge("container_memory_kernel_usage", "The kernel's memory for it, in bytes.", "memory_kernel"),
    _gauge("container_memory_max_usage_bytes", "The most memory that it has used.", "memory_peak"),
    _gauge("container_memory_swap", "Swap in use, in bytes.", "swap_usage"),
    _counter("container_memory_failcnt", "How often it reached its limit of memory.", "memory_limit_hits"),
    MetricKind("container_memory_failures_total", "Page faults.", _faults, labels=("failure_type", "scope")),
    _counter("container_oom_events_total", "Processes killed for want of memory.", "oom_kills"),
    _gauge("container_processes", "Processes in it.", "processes"),
    _gauge("container_threads", "Threads in it.", "threads"),
    MetricKind(
        "container_threads_max", "Threads that it may have; 0: no limit.", _limit("threads_limit"), counter=False
    ),
    _gauge("container_file_descriptors", "Files that its processes have open.", "file_descriptors"),
    _gauge("container_sockets", "Sockets that its processes have open.", "sockets"),
    MetricKind("container_last_seen", "When it was last seen, since the epoch.", _now, counter=False),
    _disk("container_fs_usage_bytes", "Bytes in use of its writable layer's file system.", "layer_used"),
    _disk("container_fs_limit_bytes", "Bytes that this has.", "layer_size"),
    _disk("container_fs_inodes_total", "Inodes that this has.", "layer_inodes"),
    MetricKind(
        "container_fs_inodes_free", "Inodes of it that are free.", _free_inodes, labels=("device",), counter=False
    ),
    _disk("container_fs_reads_bytes_total", "Bytes read from disks.", "disk_read_bytes", counter=True),
    _disk("container_fs_writes_bytes_total", "Bytes written to disks.", "disk_written_bytes", counter=True),
    _disk("container_fs_reads_total", "Reads from disks.", "disk_reads", counter=True),
    MetricKind(
        "container_blkio_device_usage_total",
        "Bytes read from and written to disks.",
        _block_bytes,
        labels=("device", "major", "minor", "operation"),
    ),
    _disk("container_fs_writes_total", "Writes to disks.", "disk_writes", counter=True),
    *(
        MetricKind(f"container_pressure_{resource}_{word}_seconds_total", text, _pressure(resource, kind))
        for resource in ("cpu", "memory", "io")
        for word, kind, text in (
            ("waiting", "some", f"Time in which some of its tasks waited for {resource}, in seconds."),
            ("stalled", "full", f"Time in which all of its tasks waited for {resource}, in seconds."),
        )
    ),
    MetricKind(
        "container_spec_memory_limit_bytes",
        "Memory that it may use; 0: as much as its pod.",
        _resources(lambda given: given.memory_limit_in_bytes),
        counter=False,
    ),
    MetricKind(
        "container_spec_memory_swap_limit_bytes",
        "Swap that it may use; 0: as much as its pod.",
        _limit("swap_limit"),
        counter=False,
    ),
    MetricKind(
        "container_spec_cpu_quota",
        "CPU time that it may use in a period, in µs; 0: no limit.",
        _resources(lambda given: given.cpu_quota),
        counter=False,
    ),
    MetricKind(
        "container_spec_cpu_period",
        "The period of its CPU quota, in µs.",
        _resources(lambda given: given.cpu_period or _CPU_PERIOD),
        counter=False,
    ),
    MetricKind(
        "container_spec_cpu_shares",
        "Its share of the CPUs.",
        _resources(lambda given: given.cpu_shares),
        counter=False,
    ),
    _START,
)
"""Of each container."""

ALL: Final = tuple({kind.name: kind for kind in (*OF_CONTAINERS, *OF_PODS)}.values())
