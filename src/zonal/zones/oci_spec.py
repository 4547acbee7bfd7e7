"""From an image's configuration and a user's wishes to the OCI runtime configuration of a workload.

What neither says is as docker has it. Sources: OCI image-spec 1.1 ``config.md``, OCI runtime-spec 1.2 ``config.md``
and ``config-linux.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zonal.api.signals import parse_signal
from zonal.errors import InvalidInputError
from zonal.images.config import ImageConfig
from zonal.zones.mounts import DEVICE_NUMBERS
from zonal.zones.spec import ExecSpec, ZoneSpec

OCI_VERSION = "1.2.0"
ROOTFS = "rootfs"
"""The root's path, relative to the bundle."""
CGROUP = "/workload"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MAX_VECTOR_BYTES = 1 << 20
"""Bound on arguments and environment together: half of what Linux gives a new program (execve(2))."""
MAX_STRING_BYTES = (128 << 10) - 1
"""Bound on one argument: Linux's MAX_ARG_STRLEN, less the NUL."""

CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)
_EVERY = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT "
    "SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP "
    "MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)
ALL_CAPABILITIES = tuple(f"CAP_{name}" for name in _EVERY.split())
"""Those of linux/capability.h, in its order."""
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
NAMESPACES = ("pid", "mount", "ipc", "uts", "cgroup")
"""No network namespace: a workload has its zone's network. No user namespace: the zone is the border."""
OPEN_FILES = (1024, 524288)
"""RLIMIT_NOFILE, soft and hard, as systemd gives every service and so docker its containers."""

# Linux's Documentation/admin-guide/devices.txt: null, zero, full, random, urandom, tty, console, ptmx, all of pts.
_DEVICES = ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, None))


@dataclass(frozen=True)
class ProcessOptions:
    """What a user said of the process; an empty value or ``None`` leaves the image's."""

    command: tuple[str, ...] = ()
    entrypoint: str | None = None
    """Empty: no entrypoint at all."""
    env: tuple[str, ...] = ()
    """``K=V``, or ``K`` alone to remove one of the image's."""
    working_directory: str = ""
    user: str = ""
    stop_signal: str = ""
    terminal: bool = False
    hostname: str = ""


@dataclass(frozen=True)
class Process:
    """The process to start: its arguments (never empty), environment (``K=V``), directory, user and stop signal."""

    command: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    user: str
    stop_signal: int


def resolve_process(image: ImageConfig, options: ProcessOptions) -> Process:
    """Joins an image's configuration with a user's options, as docker does.

    Raises ``InvalidInputError`` when a value cannot be used or there is nothing to run.
    """
    command = _command(image, options)
    env = _environment(image.env, options)
    cwd = options.working_directory or image.working_directory
    user = options.user or image.user
    _check_place(cwd, user)
    _check_size((*command, *env))
    stop_signal = parse_signal(options.stop_signal) if options.stop_signal else image.stop_signal
    return Process(command=command, env=env, cwd=cwd, user=user, stop_signal=stop_signal)


def exec_process(zone: ZoneSpec, spec: ExecSpec) -> dict[str, Any]:
    """The OCI process object of a further process in a zone's container.

    Its user is root's: the agent resolves the one that is meant. Raises ``InvalidInputError``.
    """
    if not spec.command or not spec.command[0]:
        raise InvalidInputError("no command to run is given", hint="give the program to run after the zone")
    for argument in spec.command:
        _check_text("an argument", argument)
    cwd = spec.cwd or zone.cwd
    _check_place(cwd, spec.user)
    env = _joined_environment(("TERM=xterm",) if spec.terminal else (), (*zone.env, *spec.env))
    _check_size((*spec.command, *env))
    process: dict[str, Any] = {
        "terminal": spec.terminal,
        "user": {"uid": 0, "gid": 0},
        "args": list(spec.command),
        "env": list(env),
        "cwd": cwd,
        "capabilities": _capabilities(spec.user or zone.user, ALL_CAPABILITIES if spec.privileged else CAPABILITIES),
        "rlimits": _limits(),
        "noNewPrivileges": False,
    }
    if spec.terminal:
        process["consoleSize"] = {"height": spec.terminal_size.rows, "width": spec.terminal_size.columns}
    return process


def runtime_config(
    spec: ZoneSpec, mounts: Sequence[Mapping[str, object]] = (), devices: Sequence[Mapping[str, object]] = ()
) -> dict[str, Any]:
    """The content of ``config.json`` for crun, which the agent writes.

    ``mounts`` come after those that every container has, and replace one of them with the same destination.
    ``process.user`` is root's: ``spec.user`` is resolved in the zone, against the container's own files.
    """
    process: dict[str, Any] = {
        "terminal": spec.terminal,
        "user": {"uid": 0, "gid": 0},
        "args": list(spec.command),
        "env": list(spec.env),
        "cwd": spec.cwd,
        "capabilities": _capabilities(spec.user, CAPABILITIES),
        "rlimits": _limits(),
        "noNewPrivileges": False,
    }
    if spec.terminal:
        process["consoleSize"] = {"height": spec.terminal_size.rows, "width": spec.terminal_size.columns}
    config: dict[str, Any] = {
        "ociVersion": OCI_VERSION,
        "hostname": spec.hostname,
        "root": {"path": ROOTFS, "readonly": spec.read_only},
        "process": process,
        "mounts": _joined(_mounts(), mounts),
        "linux": {
            "namespaces": [{"type": name} for name in NAMESPACES],
            "cgroupsPath": CGROUP,
            "resources": {"devices": _device_rules()},
            "devices": [*devices],
            "maskedPaths": list(MASKED_PATHS),
            "readonlyPaths": list(READONLY_PATHS),
        },
    }
    return config


def _command(image: ImageConfig, options: ProcessOptions) -> tuple[str, ...]:
    if options.entrypoint is None:
        entrypoint = image.entrypoint
        arguments = options.command or image.command
    else:
        # As docker has it: an entrypoint of the user's own makes the image's command meaningless.
        entrypoint = (options.entrypoint,) if options.entrypoint else ()
        arguments = options.command
    command = (*entrypoint, *arguments)
    if not command:
        raise InvalidInputError("no command to run: neither the image nor the command line has one", hint="give one")
    if not command[0]:
        raise InvalidInputError("the command's name is empty", hint="give the program to run first")
    for argument in command:
        _check_text("an argument", argument)
    return command


def _environment(image_env: Iterable[str], options: ProcessOptions) -> tuple[str, ...]:
    standard = [f"PATH={DEFAULT_PATH}"]
    standard += [f"HOSTNAME={options.hostname}"] if options.hostname else []
    standard += ["TERM=xterm"] if options.terminal else []
    return _joined_environment(standard, (*image_env, *options.env))


def _joined_environment(standard: Iterable[str], entries: Iterable[str]) -> tuple[str, ...]:
    variables = dict(entry.split("=", 1) for entry in standard)
    for entry in entries:
        _check_text("an environment variable", entry)
        key, equals, value = entry.partition("=")
        if not key:
            raise InvalidInputError(f"the environment variable {entry!r} has no name", hint="write it as NAME=VALUE")
        if equals:
            variables[key] = value
        else:
            variables.pop(key, None)
    return tuple(f"{key}={value}" for key, value in variables.items())


def _limits() -> list[dict[str, object]]:
    return [{"type": "RLIMIT_NOFILE", "soft": OPEN_FILES[0], "hard": OPEN_FILES[1]}]


def _capabilities(user: str, wanted: Sequence[str]) -> dict[str, list[str]]:
    names = list(wanted)
    if user.partition(":")[0] in {"", "0", "root"}:
        return {"bounding": names, "effective": names, "permitted": names}
    # crun would keep what is listed across the change of user; docker gives another user than root none of it.
    return {"bounding": names, "effective": [], "permitted": []}


def _mounts() -> list[dict[str, object]]:
    return [
        _mount("/proc", "proc", "nosuid,noexec,nodev"),
        _mount("/dev", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
        _mount("/dev/pts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
        _mount("/sys", "sysfs", "nosuid,noexec,nodev,ro"),
        _mount("/sys/fs/cgroup", "cgroup", "ro,nosuid,noexec,nodev"),
        _mount("/dev/mqueue", "mqueue", "nosuid,noexec,nodev"),
        _mount("/dev/shm", "tmpfs", "nosuid,noexec,nodev,mode=1777,size=65536k", source="shm"),
    ]


def _joined(
    standard: Sequence[Mapping[str, object]], wanted: Sequence[Mapping[str, object]]
) -> list[Mapping[str, object]]:
    places = {mount["destination"] for mount in wanted}
    return [*(mount for mount in standard if mount["destination"] not in places), *wanted]


def _mount(destination: str, kind: str, options: str, *, source: str = "") -> dict[str, object]:
    return {"destination": destination, "type": kind, "source": source or kind, "options": options.split(",")}


def _device_rules() -> list[dict[str, object]]:
    # Any node may be made, as under docker; only the harmless ones may be opened.
    rules: list[dict[str, object]] = [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "access": "m"},
        {"allow": True, "type": "b", "access": "m"},
    ]
    for major, minor in _DEVICES:
        rule: dict[str, object] = {"allow": True, "type": "c", "major": major, "access": "rwm"}
        if minor is not None:
            rule["minor"] = minor
        rules.append(rule)
    # Those that were given to it, or will be while it runs.
    for major, minor in DEVICE_NUMBERS:
        rules.append({"allow": True, "type": "b", "major": major, "minor": minor, "access": "rwm"})
    return rules


def _check_place(cwd: str, user: str) -> None:
    if not cwd.startswith("/"):
        raise InvalidInputError(f"the working directory {cwd!r} is not absolute", hint="begin it with /")
    if user.count(":") > 1 or user.startswith(":"):
        raise InvalidInputError(f"{user!r} is not a user", hint="name or uid, with :group or :gid or not")
    for what, text in [("the working directory", cwd), ("the user", user)]:
        _check_text(what, text)


def _check_size(texts: Iterable[str]) -> None:
    size = sum(len(text.encode()) + 9 for text in texts)
    if size > MAX_VECTOR_BYTES:
        raise InvalidInputError(
            f"arguments and environment together have {size} bytes, and {MAX_VECTOR_BYTES} can be passed",
            hint="pass it by standard input instead (-i)",
        )


def _check_text(what: str, text: str) -> None:
    if "\0" in text:
        raise InvalidInputError(f"{what} holds a NUL character: {text[:64]!r}", hint="Linux can pass on no such thing")
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"{what} is not valid Unicode: {text[:64]!r}", hint="use UTF-8") from error
    if size > MAX_STRING_BYTES:
        raise InvalidInputError(
            f"{what} is longer than the {MAX_STRING_BYTES} bytes that Linux takes: {text[:32]!r}…",
            hint="pass it by standard input instead (-i)",
        )
