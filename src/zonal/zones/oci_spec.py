"""From an image's configuration and a user's wishes to the OCI runtime configuration of a workload.

What neither says is as docker has it. Sources: OCI image-spec 1.1 ``config.md``, OCI runtime-spec 1.2 ``config.md``
and ``config-linux.md``.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zonal.api.signals import parse_signal
from zonal.errors import InvalidInputError
from zonal.images.config import ImageConfig
from zonal.zones.capabilities import chosen_capabilities, process_capabilities
from zonal.zones.oci_linux import linux_section, standard_mounts
from zonal.zones.runtime_options import Hook, Limits, RuntimeOptions, Security
from zonal.zones.seccomp import seccomp_program
from zonal.zones.spec import ExecSpec, TerminalSize, ZoneSpec

OCI_VERSION = "1.2.0"
ROOTFS = "rootfs"
"""The root's path, relative to the bundle."""
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MAX_VECTOR_BYTES = 1 << 20
"""Bound on arguments and environment together: half of what Linux gives a new program (execve(2))."""
MAX_STRING_BYTES = (128 << 10) - 1
"""Bound on one argument: Linux's MAX_ARG_STRLEN, less the NUL."""

OPEN_FILES = (1024, 524288)
"""RLIMIT_NOFILE, soft and hard, as systemd gives every service and so docker its containers."""
INIT = "/dev/init"
"""Where a container has the small init that it was asked for: not among its image's files."""
ZONE_INIT = "/usr/bin/tini-static"
"""Where the zone has it."""
_BPF_ANNOTATION = "run.oci.seccomp_bpf_data"
"""crun(1): the filter itself, in base64, which it then need not compile."""


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
    names = capabilities(zone.runtime.security, privileged=spec.privileged)
    return _process(
        zone.runtime,
        args=spec.command,
        env=env,
        cwd=cwd,
        capabilities=process_capabilities(names, spec.user or zone.user),
        size=spec.terminal_size if spec.terminal else None,
    )


def capabilities(security: Security, *, privileged: bool = False) -> tuple[str, ...]:
    """All that a process of the container may have; ``privileged``: whether this one alone has every capability."""
    return chosen_capabilities(security.cap_add, security.cap_drop, privileged=security.privileged or privileged)


def runtime_config(
    spec: ZoneSpec,
    mounts: Sequence[Mapping[str, object]] = (),
    devices: Sequence[Mapping[str, object]] = (),
    name: str = "workload",
) -> dict[str, Any]:
    """The content of ``config.json`` for crun, which the agent writes.

    ``mounts`` come after those that every container has, and replace one of them with the same destination.
    ``name`` is the agent's for the workload, and its control group's.
    ``process.user`` is root's: ``spec.user`` is resolved in the zone, against the container's own files.
    """
    options = spec.runtime
    names = capabilities(options.security)
    wanted = [*mounts, _init_mount()] if options.init else mounts
    config: dict[str, Any] = {
        "ociVersion": OCI_VERSION,
        "root": {"path": ROOTFS, "readonly": spec.read_only},
        "process": _process(
            options,
            args=(INIT, "--", *spec.command) if options.init else spec.command,
            env=spec.env,
            cwd=spec.cwd,
            capabilities=process_capabilities(names, spec.user),
            size=spec.terminal_size if spec.terminal else None,
        ),
        "mounts": _joined(standard_mounts(options), wanted),
        "linux": linux_section(options, devices, name),
    }
    if options.namespaces.uts != "host":
        config["hostname"] = spec.hostname
        if options.domainname:
            config["domainname"] = options.domainname
    annotations = dict(options.annotations)
    program = seccomp_program(options.security.seccomp, names, privileged=options.security.privileged)
    if program is not None:
        annotations[_BPF_ANNOTATION] = base64.b64encode(program).decode()
    if annotations:
        config["annotations"] = annotations
    if options.hooks:
        config["hooks"] = _hooks(options.hooks)
    return config


def _process(
    options: RuntimeOptions,
    *,
    args: Sequence[str],
    env: Sequence[str],
    cwd: str,
    capabilities: Mapping[str, Sequence[str]],
    size: TerminalSize | None,
) -> dict[str, Any]:
    """The OCI process object; ``size`` is its terminal's, ``None`` when it has none."""
    process: dict[str, Any] = {
        "terminal": size is not None,
        "user": {"uid": 0, "gid": 0},
        "args": list(args),
        "env": list(env),
        "cwd": cwd,
        "capabilities": {name: list(listed) for name, listed in capabilities.items()},
        "rlimits": _limits(options.limits),
        "noNewPrivileges": options.security.no_new_privileges,
    }
    if size is not None:
        process["consoleSize"] = {"height": size.rows, "width": size.columns}
    if options.limits.oom_score_adj:
        process["oomScoreAdj"] = options.limits.oom_score_adj
    return process


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


def _limits(limits: Limits) -> list[dict[str, object]]:
    chosen = {"nofile": OPEN_FILES} | {each.name: (each.soft, each.hard) for each in limits.ulimits}
    return [{"type": f"RLIMIT_{name.upper()}", "soft": soft, "hard": hard} for name, (soft, hard) in chosen.items()]


def _init_mount() -> dict[str, object]:
    options = ["bind", "rprivate", "ro", "nosuid", "nodev"]
    return {"destination": INIT, "type": "bind", "source": ZONE_INIT, "options": options}


def _hooks(hooks: Sequence[Hook]) -> dict[str, list[dict[str, object]]]:
    found: dict[str, list[dict[str, object]]] = {}
    for hook in hooks:
        entry: dict[str, object] = {"path": hook.path}
        entry |= {"args": list(hook.args)} if hook.args else {}
        entry |= {"env": list(hook.env)} if hook.env else {}
        entry |= {"timeout": hook.timeout} if hook.timeout else {}
        found.setdefault(hook.stage, []).append(entry)
    return found


def _joined(
    standard: Sequence[Mapping[str, object]], wanted: Sequence[Mapping[str, object]]
) -> list[Mapping[str, object]]:
    places = {mount["destination"] for mount in wanted}
    return [*(mount for mount in standard if mount["destination"] not in places), *wanted]


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
