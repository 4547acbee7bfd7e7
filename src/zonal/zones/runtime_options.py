"""How a workload is run and confined inside of its zone: what docker's options of ``run`` and the OCI runtime know.

Plain values, checked by who makes them. What is empty, zero or ``None`` is as docker has it when nothing is said. Where
docker says "host", the zone is meant: nothing here reaches out of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ULIMITS: Final = (
    *("core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio"),
    *("rttime", "sigpending", "stack"),
)
"""Names of setrlimit(2), without ``RLIMIT_`` and in small letters."""
UNLIMITED: Final = (1 << 64) - 1
"""RLIM_INFINITY of linux/resource.h."""
OF_WORKLOAD: Final = "workload:"
"""Begins the name of a workload of the same zone whose namespace is meant; the agent knows it by the rest."""
HOOK_STAGES: Final = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
"""OCI runtime-spec 1.2 ``config.md``, "POSIX-platform Hooks"."""


@dataclass(frozen=True)
class Security:
    """What a workload may do."""

    cap_add: tuple[str, ...] = ()
    """``CAP_…`` or ``ALL``; as in ``zonal.zones.capabilities``."""
    cap_drop: tuple[str, ...] = ()
    privileged: bool = False
    """Everything within the zone, and nothing outside of it."""
    no_new_privileges: bool = False
    seccomp: str = ""
    """Empty for our own profile; ``unconfined``; or a profile in docker's format."""
    unmasked: bool = False
    """Whether no paths of /proc and /sys are masked or read-only."""
    own_paths: bool = False
    """Whether the two lists that follow are meant instead of the usual ones."""
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    writable_cgroups: bool = False
    groups: tuple[str, ...] = ()
    """Supplementary groups besides the user's: names, which are the image's, or numbers."""


@dataclass(frozen=True)
class Ulimit:
    """One limit of each process (setrlimit(2))."""

    name: str
    """One of `ULIMITS`."""
    soft: int
    hard: int


@dataclass(frozen=True)
class Limits:
    """What a workload may use of its zone; the zone's own size is another matter. Sizes in bytes."""

    ulimits: tuple[Ulimit, ...] = ()
    pids: int = 0
    """Processes and threads; 0 for as many as the zone can hold."""
    memory_bytes: int = 0
    memory_reservation_bytes: int = 0
    """What the kernel takes from it last."""
    cpu_shares: int = 0
    """Weight against the zone's other workloads, as docker counts it: 2 to 262144, 1024 where nothing is said."""
    cpu_quota_us: int = 0
    """Of each period; 0 for no bound."""
    cpu_period_us: int = 0
    oom_score_adj: int = 0
    """-1000 to 1000: proc_pid_oom_score_adj(5)."""


@dataclass(frozen=True)
class IdMap:
    """Ids of a user namespace: ``size`` of them, from ``container`` on, are those of the zone from ``zone`` on."""

    container: int
    zone: int
    size: int


@dataclass(frozen=True)
class Namespaces:
    """What a workload shares with its zone: ``host`` in each field; empty for a namespace of its own."""

    ipc: str = ""
    """Also ``none``: of its own, and without /dev/shm."""
    pid: str = ""
    """Also `OF_WORKLOAD` and a name."""
    uts: str = ""
    cgroup: str = ""
    uids: tuple[IdMap, ...] = ()
    """With these it has a user namespace; without, none."""
    gids: tuple[IdMap, ...] = ()


@dataclass(frozen=True)
class DeviceRule:
    """Which device nodes may be opened or made; a number that is ``None`` stands for all."""

    kind: str
    """``a`` for both, ``b`` or ``c``."""
    major: int | None
    minor: int | None
    access: str
    """Some of ``rwm``."""


@dataclass(frozen=True)
class Hook:
    """A program that crun runs in the zone at a stage of the container's life."""

    stage: str
    """One of `HOOK_STAGES`."""
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int = 0
    """Seconds; 0 for no bound."""


@dataclass(frozen=True)
class RuntimeOptions:
    """All of it."""

    security: Security = Security()
    limits: Limits = Limits()
    namespaces: Namespaces = Namespaces()
    device_rules: tuple[DeviceRule, ...] = ()
    hooks: tuple[Hook, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()
    """Any parameter of the zone's kernel, which is nobody else's."""
    annotations: tuple[tuple[str, str], ...] = ()
    init: bool = False
    """Whether a small init is process 1 of the container, and reaps what the workload leaves behind."""
    domainname: str = ""
    shm_bytes: int = 0
    """Of /dev/shm."""


DEFAULT_RUNTIME: Final = RuntimeOptions()
"""When nothing is said."""
