"""From a client's wishes on how its workload is run and confined to checked ones, and back again for who asks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

from zonal.api import control_pb2 as pb
from zonal.daemon.id_maps import resolve_id_maps
from zonal.daemon.labels import MAX_ENTRIES, MAX_TEXT, checked_pairs
from zonal.errors import InvalidInputError
from zonal.zones.capabilities import parse_capability
from zonal.zones.mounts import MAX_PATH
from zonal.zones.oci_spec import capabilities
from zonal.zones.runtime_options import (
    HOOK_STAGES,
    ULIMITS,
    UNLIMITED,
    DeviceRule,
    Hook,
    Limits,
    Namespaces,
    RuntimeOptions,
    Security,
    Ulimit,
)
from zonal.zones.seccomp import MAX_PROFILE, seccomp_program
from zonal.zones.workload_limits import MIN_MEMORY

_T = TypeVar("_T")

CPU_SHARES: Final = range(2, 262145)
_MAX_SIZE: Final = 1 << 40
_MAX_PIDS: Final = 1 << 22  # PID_MAX_LIMIT of linux/threads.h
_MAX_HOOK_SECONDS: Final = 3600
_SYSCTL: Final = re.compile(r"[a-z][a-zA-Z0-9_*-]*(?:[./][a-zA-Z0-9_*-]+)+", re.ASCII)
_DEVICE_RULE: Final = re.compile(r"([abc]) ([0-9]{1,10}|\*):([0-9]{1,10}|\*) ([rwm]{1,3})", re.ASCII)
_DOMAIN: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9_])?", re.ASCII)
_MODES: Final = {
    "ipc": ("", "private", "shareable", "host", "none"),
    "pid": ("", "private", "host"),
    "uts": ("", "private", "host"),
    "cgroup": ("", "private", "host"),
}
OF_CONTAINER: Final = "container:"
_NAMED_ELSEWHERE: Final = {"kernel.hostname": "--hostname", "kernel.domainname": "--domainname"}


def resolve_runtime(request: pb.RuntimeOptions, *, shared: bool = False) -> RuntimeOptions:
    """The options, checked; ``shared``: of a workload in a zone that it shares. Raises ``InvalidInputError``."""
    security = _security(request.security)
    # What is wrong with a profile is told now; what comes of it is kept for when the container is made.
    seccomp_program(security.seccomp, capabilities(security), privileged=security.privileged)
    if request.domainname and not _DOMAIN.fullmatch(request.domainname):
        raise InvalidInputError(f"{request.domainname[:64]!r} is no domain name", hint="such as example.org")
    if request.shm_bytes > _MAX_SIZE:
        raise InvalidInputError(f"/dev/shm cannot have {request.shm_bytes} bytes", hint="such as 256M")
    return RuntimeOptions(
        security=security,
        limits=_limits(request.limits),
        namespaces=_namespaces(request.namespaces, shared=shared),
        device_rules=tuple(map(_device_rule, _bounded("device rules", request.device_rules))),
        hooks=tuple(map(_hook, _entries("hooks", request.hooks))),
        sysctls=_sysctls(request.sysctls),
        annotations=checked_pairs("annotations", request.annotations),
        init=request.init,
        domainname=request.domainname,
        shm_bytes=request.shm_bytes,
    )


def runtime_message(options: RuntimeOptions) -> pb.RuntimeOptions:
    """The options as they are told."""
    security, limits, spaces = options.security, options.limits, options.namespaces
    return pb.RuntimeOptions(
        security=pb.Security(
            cap_add=security.cap_add,
            cap_drop=security.cap_drop,
            privileged=security.privileged,
            no_new_privileges=security.no_new_privileges,
            seccomp=security.seccomp,
            unmasked=security.unmasked,
            own_paths=security.own_paths,
            masked_paths=security.masked_paths,
            readonly_paths=security.readonly_paths,
            writable_cgroups=security.writable_cgroups,
            groups=security.groups,
        ),
        limits=pb.WorkloadLimits(
            ulimits=[pb.Ulimit(name=u.name, soft=_signed(u.soft), hard=_signed(u.hard)) for u in limits.ulimits],
            pids=limits.pids,
            memory_bytes=limits.memory_bytes,
            memory_reservation_bytes=limits.memory_reservation_bytes,
            cpu_shares=limits.cpu_shares,
            cpu_quota_us=limits.cpu_quota_us,
            cpu_period_us=limits.cpu_period_us,
            oom_score_adj=limits.oom_score_adj,
        ),
        namespaces=pb.Namespaces(
            ipc=spaces.ipc,
            pid=spaces.pid,
            uts=spaces.uts,
            cgroup=spaces.cgroup,
            uids=[pb.IdMap(container=each.container, zone=each.zone, size=each.size) for each in spaces.uids],
            gids=[pb.IdMap(container=each.container, zone=each.zone, size=each.size) for each in spaces.gids],
        ),
        device_rules=[_rule_text(rule) for rule in options.device_rules],
        hooks=[
            pb.Hook(stage=hook.stage, path=hook.path, args=hook.args, env=hook.env, timeout_seconds=hook.timeout)
            for hook in options.hooks
        ],
        sysctls=dict(options.sysctls),
        annotations=dict(options.annotations),
        init=options.init,
        domainname=options.domainname,
        shm_bytes=options.shm_bytes,
    )


def _path(text: str) -> str:
    if not text.startswith("/") or len(text) > MAX_PATH or ".." in text.split("/") or not text.isprintable():
        raise InvalidInputError(f"{text[:80]!r} cannot be masked", hint="give a path such as /proc/kcore")
    return text


def _security(request: pb.Security) -> Security:
    if len(request.seccomp) > MAX_PROFILE:
        raise InvalidInputError(f"the seccomp profile has more than {MAX_PROFILE} bytes", hint="give a shorter one")
    return Security(
        cap_add=tuple(map(parse_capability, _bounded("capabilities", request.cap_add))),
        cap_drop=tuple(map(parse_capability, _bounded("capabilities", request.cap_drop))),
        privileged=request.privileged,
        no_new_privileges=request.no_new_privileges,
        seccomp=request.seccomp,
        unmasked=request.unmasked,
        own_paths=request.own_paths,
        masked_paths=tuple(map(_path, _bounded("masked paths", request.masked_paths))),
        readonly_paths=tuple(map(_path, _bounded("read-only paths", request.readonly_paths))),
        writable_cgroups=request.writable_cgroups,
        groups=tuple(map(_group, _bounded("groups", request.groups))),
    )


def _group(text: str) -> str:
    if not text or ":" in text or "\0" in text or "\n" in text:
        raise InvalidInputError(f"{text[:64]!r} is no group", hint="a name of the image's /etc/group, or a number")
    return text


def _limits(request: pb.WorkloadLimits) -> Limits:
    if request.pids > _MAX_PIDS:
        raise InvalidInputError(f"no kernel has {request.pids} processes", hint=f"{_MAX_PIDS} at most")
    if not -1000 <= request.oom_score_adj <= 1000:
        raise InvalidInputError(f"an OOM score cannot be adjusted by {request.oom_score_adj}", hint="-1000 to 1000")
    memory, reserved = request.memory_bytes, request.memory_reservation_bytes
    for what, size in (("limit", memory), ("reservation", reserved)):
        if size and not MIN_MEMORY <= size <= _MAX_SIZE:
            raise InvalidInputError(f"a memory {what} cannot be {size} bytes", hint="6M to 1T")
    if memory and reserved > memory:
        raise InvalidInputError(
            f"{reserved} bytes of memory cannot be reserved of {memory}", hint="give a smaller reservation"
        )
    if request.cpu_shares and request.cpu_shares not in CPU_SHARES:
        raise InvalidInputError(f"{request.cpu_shares} are no CPU shares", hint="2 to 262144; 1024 is the usual weight")
    # Linux, Documentation/admin-guide/cgroup-v2.rst and kernel/sched/core.c: 1 ms at least, and 1 s of period at most.
    for what, micros in (("quota", request.cpu_quota_us), ("period", request.cpu_period_us)):
        if micros and not 1000 <= micros <= (1_000_000 if what == "period" else 1 << 40):
            raise InvalidInputError(f"a CPU {what} cannot be {micros} µs", hint="a period is 1000 to 1000000 µs")
    return Limits(
        ulimits=tuple(map(_ulimit, _entries("ulimits", request.ulimits))),
        pids=request.pids,
        memory_bytes=memory,
        memory_reservation_bytes=reserved,
        cpu_shares=request.cpu_shares,
        cpu_quota_us=request.cpu_quota_us,
        cpu_period_us=request.cpu_period_us,
        oom_score_adj=request.oom_score_adj,
    )


def _ulimit(message: pb.Ulimit) -> Ulimit:
    name = message.name
    if name not in ULIMITS:
        raise InvalidInputError(f"there is no ulimit {name[:64]!r}", hint=f"there are {', '.join(ULIMITS)}")
    if message.soft < -1 or message.hard < -1:
        raise InvalidInputError(f"the ulimit {name} cannot be below -1", hint="-1 is no bound")
    soft, hard = (UNLIMITED if value == -1 else value for value in (message.soft, message.hard))
    if soft > hard:
        raise InvalidInputError(
            f"the ulimit {name} cannot be {message.soft} at first and {message.hard} at most",
            hint="the soft limit comes first, and is not above the hard one",
        )
    return Ulimit(name, soft, hard)


def _namespaces(request: pb.Namespaces, *, shared: bool) -> Namespaces:
    modes: dict[str, str] = {}
    for kind, known in _MODES.items():
        mode: str = getattr(request, kind)
        if shared and kind == "pid" and mode.startswith(OF_CONTAINER):
            modes[kind] = mode  # whose it is, is found out by who knows all workloads
            continue
        if mode.startswith((OF_CONTAINER, "service:")):
            raise InvalidInputError(
                f"the {kind} namespace {mode[:80]!r} is another zone's, and zones share no kernel",
                hint=f"one of {', '.join(known[1:])}",
            )
        if mode not in known:
            raise InvalidInputError(
                f"there is no {kind} namespace {mode[:80]!r}", hint=f"one of {', '.join(known[1:])}"
            )
        # A namespace that others could join is one of its own all the same.
        modes[kind] = mode if mode in ("host", "none") else ""
        if shared and not mode and kind in ("ipc", "uts"):
            modes[kind] = "host"  # those who share a zone share them, as in a pod
    uids, gids = resolve_id_maps(request)
    if uids and modes["pid"] == "host":
        raise InvalidInputError(
            "a user namespace of its own has no part in the zone's process ids", hint="leave out --pid or --userns"
        )
    return Namespaces(**modes, uids=uids, gids=gids)


def _device_rule(text: str) -> DeviceRule:
    match = _DEVICE_RULE.fullmatch(text)
    if not match:
        raise InvalidInputError(f"{text[:64]!r} is no rule for devices", hint="such as 'c 10:200 rwm' or 'b 7:* r'")
    major, minor = (None if part == "*" else int(part) for part in (match[2], match[3]))
    if max(major or 0, minor or 0) > 0xFFFFFFFF:
        raise InvalidInputError(f"{text!r}: there is no such device number", hint="such as 'c 10:200 rwm'")
    return DeviceRule(match[1], major, minor, match[4])


def _rule_text(rule: DeviceRule) -> str:
    major, minor = ("*" if number is None else str(number) for number in (rule.major, rule.minor))
    return f"{rule.kind} {major}:{minor} {rule.access}"


def _hook(message: pb.Hook) -> Hook:
    if message.stage not in HOOK_STAGES:
        raise InvalidInputError(f"there is no stage {message.stage[:64]!r}", hint=f"one of {', '.join(HOOK_STAGES)}")
    if not message.path.startswith("/"):
        raise InvalidInputError(f"the hook {message.path[:64]!r} is no absolute path", hint="of a program in the zone")
    texts = _bounded("words of a hook", (message.path, *message.args, *message.env))
    if any("\0" in text for text in texts):
        raise InvalidInputError(f"the hook {message.path[:64]!r} has a NUL character", hint="leave it out")
    if any("=" not in each for each in message.env):
        raise InvalidInputError(f"the hook {message.path} has a variable without a value", hint="NAME=VALUE each")
    if message.timeout_seconds > _MAX_HOOK_SECONDS:
        raise InvalidInputError(
            f"the hook {message.path} may not take {message.timeout_seconds} s", hint=f"{_MAX_HOOK_SECONDS} at most"
        )
    return Hook(message.stage, message.path, tuple(message.args), tuple(message.env), message.timeout_seconds)


def _sysctls(pairs: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    for name, value in checked_pairs("sysctls", pairs):
        plain = name.replace("/", ".")
        if other := _NAMED_ELSEWHERE.get(plain):
            raise InvalidInputError(f"{plain} is no parameter for --sysctl", hint=f"use {other}")
        if not _SYSCTL.fullmatch(name) or not value or "\n" in value:
            raise InvalidInputError(
                f"{name[:64]!r}={value[:64]!r} is no kernel parameter", hint="such as net.ipv4.ip_forward=1"
            )
    return tuple(sorted((name.replace("/", "."), value) for name, value in pairs.items()))


def _bounded(what: str, texts: Iterable[str]) -> list[str]:
    listed = _entries(what, texts)
    for text in listed:
        if len(text) > MAX_TEXT:
            raise InvalidInputError(f"{text[:64]!r}… is too long for one of the {what}", hint=f"{MAX_TEXT} at most")
    return listed


def _entries(what: str, entries: Iterable[_T]) -> list[_T]:
    listed = list(entries)
    if len(listed) > MAX_ENTRIES:
        raise InvalidInputError(f"{len(listed)} {what} are too many", hint=f"{MAX_ENTRIES} at most")
    return listed


def _signed(value: int) -> int:
    return -1 if value == UNLIMITED else value
