"""The control groups of containers: what is counted of them, and what holds them back. Linux, cgroup-v2.rst."""

from __future__ import annotations

import os

from zonal.agent.processes import SIGKILL, send_signal

_MOUNT = "/sys/fs/cgroup"
_SESSION_LOOKS = 50


def oom_kills(cgroup: str) -> int:
    """How many processes of a cgroup, a path under the cgroup mount, the kernel has killed for want of memory."""
    try:
        with open(f"{_MOUNT}{cgroup}/memory.events") as file:
            for line in file:
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    except OSError:  # no memory controller, or gone: then nobody knows
        return 0
    return 0


def process_count(cgroup: str) -> int:
    """How many tasks there are in a cgroup and below it, threads included; 0 when nobody counts them."""
    try:
        with open(f"{_MOUNT}{cgroup}/pids.current") as file:
            return int(file.read())
    except OSError:
        return 0


def signal_cgroup(cgroup: str, number: int) -> None:
    """A signal to every process of a cgroup, never the root, and those below it; raises ``OSError``."""
    if not cgroup.strip("/"):
        raise ValueError("the root cgroup holds the agent itself")
    path = f"{_MOUNT}{cgroup}"
    if number == SIGKILL:
        with open(f"{path}/cgroup.kill", "w") as file:  # the kernel's way leaves out no newborn
            file.write("1")
        return
    for pid in _processes(cgroup):
        send_signal(pid, number)


def signal_session(cgroup: str, leader: int, number: int) -> None:
    """A signal to the processes of a session within a cgroup; crun makes the first process its leader.

    Raises ``OSError``. A process that forks meanwhile may escape a first look, not for ever.
    """
    seen: set[int] = set()
    for _ in range(_SESSION_LOOKS):
        found = {pid for pid in _processes(cgroup) if pid not in seen and _session(pid) == leader}
        if not found:
            return
        for pid in found:
            send_signal(pid, number)
        seen |= found


def _processes(cgroup: str) -> list[int]:
    pids: list[int] = []
    for directory, _, _ in os.walk(f"{_MOUNT}{cgroup}"):
        with open(f"{directory}/cgroup.procs") as file:
            pids += [int(line) for line in file]
    return pids


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def usage(cgroup: str) -> tuple[int, int]:
    """CPU time in ns and bytes of memory that a cgroup and those below it have used and hold; zeros when unknown."""
    cpu_ns = memory = 0
    try:
        with open(f"{_MOUNT}{cgroup}/cpu.stat") as file:
            for line in file:
                if line.startswith("usage_usec "):
                    cpu_ns = int(line.split()[1]) * 1000
        with open(f"{_MOUNT}{cgroup}/memory.current") as file:
            memory = int(file.read())
    except OSError:
        pass
    return cpu_ns, memory


def freeze(cgroup: str, *, frozen: bool) -> None:
    """Has every process of a cgroup stand still, or go on. Raises ``OSError``."""
    _write(cgroup, "cgroup.freeze", str(int(frozen)))


def limit(cgroup: str, memory: int | None, cpu: tuple[int, int] | None, shares: int = 0) -> None:
    """Bounds a cgroup's memory in bytes, and its CPU time to the first of the second µs; 0 is no bound, None no change.

    ``shares``: its weight as version 1 of cgroups has it, 2 to 262144; 0 is no change.

    Raises ``OSError``: memory that is in use and cannot be given back is no error, the kernel kills then.
    """
    if memory is not None:
        _write(cgroup, "memory.max", str(memory or "max"))
    if cpu is not None:
        _write(cgroup, "cpu.max", f"{cpu[0] or 'max'} {cpu[1]}")
    if shares:
        _write(cgroup, "cpu.weight", str(1 + (shares - 2) * 9999 // 262142))  # as crun has it at the start


def _write(cgroup: str, name: str, value: str) -> None:
    if not cgroup.strip("/"):
        raise ValueError("the root cgroup holds the agent itself")
    with open(f"{_MOUNT}{cgroup}/{name}", "w") as file:
        file.write(value)
