"""What the kernel counts of a container: CPU, memory, disks, pressure, and its writable layer. Linux, cgroup-v2.rst.

What a kernel does not count is left out.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zonal.agent.protocol.cbor import Value

_MOUNT = "/sys/fs/cgroup"
_MOST_PROCESSES, _MOST_FILES = 1000, 5000
"""That are looked at; who has more has no time to lose on being counted."""
_TIMES = {"usage_usec": "cpu_usage_ns", "user_usec": "cpu_user_ns", "system_usec": "cpu_system_ns"}
_THROTTLING = {"nr_periods": "cpu_periods", "nr_throttled": "cpu_throttled_periods"}
_MEMORY = {
    "anon": "memory_anon",
    "file": "memory_file",
    "file_mapped": "memory_mapped",
    "kernel": "memory_kernel",
    "inactive_file": "memory_inactive_file",
    "pgfault": "page_faults",
    "pgmajfault": "major_page_faults",
}
_SINGLE = {
    "memory.current": "memory_usage",
    "memory.peak": "memory_peak",
    "memory.max": "memory_limit",
    "memory.swap.current": "swap_usage",
    "memory.swap.max": "swap_limit",
    "pids.current": "threads",
    "pids.max": "threads_limit",
}
_DISK = {"rbytes": "disk_read_bytes", "wbytes": "disk_written_bytes", "rios": "disk_reads", "wios": "disk_writes"}
_EVENTS = {"max": "memory_limit_hits", "oom_kill": "oom_kills"}


def read_figures(cgroup: str, root: str, *, mount: str = _MOUNT, proc: str = "/proc") -> dict[str, Value]:
    """Of a control group, a path below the mount, and of the root (``…/root``) that its container has.

    Times in ns, sizes in bytes; a limit that is not set is left out. ``pressure`` has for ``cpu``, ``memory`` and
    ``io`` the figures of ``some`` and ``full``: shares of 10, 60 and 300 s in hundredths of a per cent, and ns in all.
    """
    figures: dict[str, Value] = {}
    if cgroup.strip("/"):
        folder = mount + cgroup
        for name, value in _pairs(f"{folder}/cpu.stat"):
            if name in _TIMES:
                figures[_TIMES[name]] = value * 1000
            elif name in _THROTTLING:
                figures[_THROTTLING[name]] = value
            elif name == "throttled_usec":
                figures["cpu_throttled_ns"] = value * 1000
        for file, names in (("memory.stat", _MEMORY), ("memory.events", _EVENTS)):
            figures |= {names[name]: value for name, value in _pairs(f"{folder}/{file}") if name in names}
        for file, name in _SINGLE.items():
            if (text := _text(f"{folder}/{file}").strip()).isdecimal():  # "max" is no limit
                figures[name] = int(text)
        processes = _text(f"{folder}/cgroup.procs")
        figures["processes"] = processes.count("\n")
        figures |= _descriptors(processes.split(), proc)
        figures |= _disks(_text(f"{folder}/io.stat"))
        if pressure := _pressures(folder):
            figures["pressure"] = pressure
    return figures | _layer(root)


def _pressures(folder: str) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for what in ("cpu", "memory", "io"):
        kinds: dict[str, Value] = {}
        for line in _text(f"{folder}/{what}.pressure").splitlines():
            # some avg10=0.00 avg60=0.00 avg300=0.00 total=0, in per cent and µs
            kind, *fields = line.split()
            values = [field.partition("=")[2] for field in fields]
            try:
                shares: list[Value] = [round(float(value) * 100) for value in values[:3]]
                kinds[kind] = [*shares, int(values[3]) * 1000]
            except (ValueError, IndexError):
                continue
        if kinds:
            found[what] = kinds
    return found


def _disks(text: str) -> dict[str, Value]:
    """The sums over all devices: ``8:0 rbytes=1 wbytes=2 …``."""
    sums = dict.fromkeys(_DISK.values(), 0)
    for field in text.split():
        name, _, value = field.partition("=")
        if name in _DISK and value.isdecimal():
            sums[_DISK[name]] += int(value)
    return dict(sums) if text else {}


def _descriptors(processes: list[str], proc: str) -> dict[str, Value]:
    """Of all processes together: files that are open, and those of them that are sockets."""
    files = sockets = 0
    for process in processes[:_MOST_PROCESSES]:
        folder = f"{proc}/{process}/fd"
        try:
            names = os.listdir(folder)
        except OSError:  # it has just ended
            continue
        for name in names[: max(0, _MOST_FILES - files)]:
            try:
                sockets += os.readlink(f"{folder}/{name}").startswith("socket:")
            except OSError:
                continue
        files += len(names)
    return {"file_descriptors": files, "sockets": sockets}


def _layer(root: str) -> dict[str, Value]:
    """Its writable layer has a file system to itself: a disk, or memory."""
    try:
        layer = os.statvfs(f"{root.rpartition('/')[0]}/scratch")
    except OSError:
        return {}
    return {
        "layer_size": layer.f_blocks * layer.f_frsize,
        "layer_used": (layer.f_blocks - layer.f_bfree) * layer.f_frsize,
        "layer_inodes": layer.f_files,
        "layer_inodes_used": layer.f_files - layer.f_ffree,
    }


def _pairs(path: str) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for line in _text(path).splitlines():
        name, _, value = line.partition(" ")
        if value.isdecimal():
            found.append((name, int(value)))
    return found


def _text(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:  # no such controller, or the container has just gone
        return ""
