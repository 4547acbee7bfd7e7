"""From a client's run request and the image it names to a checked ``ZoneSpec``."""

from __future__ import annotations

from zonal.api import control_pb2 as pb
from zonal.daemon.devices import wanted_devices
from zonal.daemon.labels import checked_labels, checked_ports
from zonal.daemon.policies import resolve_health, resolve_restart
from zonal.daemon.resources import run_resources
from zonal.daemon.runtime_spec import resolve_runtime
from zonal.daemon.services import ImageFinder
from zonal.errors import InvalidInputError
from zonal.volumes.filesystem import check_size
from zonal.volumes.sizes import DEFAULT_SIZE
from zonal.xen.virt import Virt
from zonal.zones.names import check_hostname, check_name, make_id
from zonal.zones.oci_spec import ProcessOptions, resolve_process
from zonal.zones.resources import DEFAULT_RESOURCES, MIB
from zonal.zones.runtime_options import RuntimeOptions
from zonal.zones.spec import DEFAULT_STOP_TIMEOUT, SHORT_ID, LogLimits, TerminalSize, ZoneSpec

PAGE_SIZE = 4096
MAX_TERMINAL = 65535
"""Rows or columns: what ``struct winsize`` of asm/termios.h holds."""
MIN_LOG_FILE, MAX_LOG_FILE = 4096, 1 << 30
"""Bytes."""
MAX_LOG_FILES = 100
MAX_STOP_TIMEOUT = 24 * 3600
"""Seconds."""
_DEFAULT_TERMINAL = TerminalSize()


def resolve_spec(request: pb.RunSpec, images: ImageFinder, *, name: str) -> ZoneSpec:
    """Checks a request, but for its mounts, and fills in what it leaves open, from the image and the defaults.

    Raises ``InvalidInputError`` or, for the image, ``NotFoundError``.
    """
    zone_id = make_id()
    check_name(name)
    hostname = check_hostname(request.hostname) if request.hostname else zone_id[:SHORT_ID]
    if request.without_workload:
        return _zone_alone(request, zone_id, name, hostname)
    resources = DEFAULT_RESOURCES if request.zone else run_resources(request)
    if not request.image:
        raise InvalidInputError("no image is named", hint="zonal image ls lists those that are there")
    image = images.resolve(request.image)
    options = ProcessOptions(
        command=tuple(request.command),
        entrypoint=request.entrypoint if request.HasField("entrypoint") else None,
        env=tuple(request.env),
        working_directory=request.working_directory,
        user=request.user,
        stop_signal=request.stop_signal,
        terminal=request.terminal,
        hostname=hostname,
    )
    config = images.config(image.id)
    process = resolve_process(config, options)
    return ZoneSpec(
        id=zone_id,
        name=name,
        image=request.image,
        image_id=image.id,
        erofs_path=str(image.erofs),
        command=process.command,
        env=process.env,
        cwd=process.cwd,
        user=process.user,
        hostname=hostname,
        terminal=request.terminal,
        terminal_size=_terminal(request),
        stdin=request.stdin,
        resources=resources,
        kernel=request.kernel,
        virt=_virt(request.virt),
        remove=request.remove,
        detach=request.detach,
        stop_signal=process.stop_signal,
        read_only=request.read_only,
        storage_bytes=_storage(request),
        log=_log_limits(request),
        runtime=resolve_runtime(request.runtime, shared=bool(request.zone)),
        labels=checked_labels(config.labels, request.labels),
        stop_timeout=_stop_timeout(request),
        exposed_ports=checked_ports(config.exposed_ports, request.exposed_ports),
        restart=resolve_restart(request.restart, remove=request.remove),
        health=resolve_health(request.health, config.health),
        pci=wanted_devices(request.pci),
    )


def _zone_alone(request: pb.RunSpec, zone_id: str, name: str, hostname: str) -> ZoneSpec:
    """A zone without a workload of its own."""
    given = ("image", "command", "mounts", "zone", "health")
    if any(getattr(request, each) for each in given if each != "health") or request.HasField("health"):
        raise InvalidInputError(
            "a zone without a workload has no image, command, mounts or health", hint="they are its workloads'"
        )
    return ZoneSpec(
        id=zone_id,
        name=name,
        image="",
        image_id="",
        erofs_path="",
        command=(),
        env=(),
        hostname=hostname,
        resources=run_resources(request),
        kernel=request.kernel,
        virt=_virt(request.virt),
        detach=True,
        runtime=RuntimeOptions(sysctls=resolve_runtime(request.runtime).sysctls),
        labels=checked_labels({}, request.labels),
        stop_timeout=_stop_timeout(request),
        restart=resolve_restart(request.restart, remove=False),
        pci=wanted_devices(request.pci),
    )


def terminal_size(message: pb.TerminalSize) -> TerminalSize:
    """The size, if a terminal can have it. Raises ``InvalidInputError``."""
    if max(message.rows, message.columns) > MAX_TERMINAL:
        raise InvalidInputError(f"no terminal has {message.rows} rows and {message.columns} columns")
    return TerminalSize(rows=message.rows, columns=message.columns)


def _virt(text: str) -> str:
    if text not in ("", *Virt):
        raise InvalidInputError(f"no zone is virtualised by {text!r}", hint=f"{' or '.join(Virt)}")
    return text


def _terminal(request: pb.RunSpec) -> TerminalSize:
    size = terminal_size(request.terminal_size)
    return size if size.rows and size.columns else _DEFAULT_TERMINAL


def _storage(request: pb.RunSpec) -> int:
    if request.read_only:
        if request.storage_bytes:
            raise InvalidInputError(
                "a zone whose root is read-only has no scratch disk", hint="leave out the size, or --read-only"
            )
        return 0
    size = request.storage_bytes or DEFAULT_SIZE
    check_size(size)
    return -(-size // PAGE_SIZE) * PAGE_SIZE


def _stop_timeout(request: pb.RunSpec) -> int:
    timeout = request.stop_timeout_seconds if request.HasField("stop_timeout_seconds") else DEFAULT_STOP_TIMEOUT
    if timeout > MAX_STOP_TIMEOUT:
        raise InvalidInputError(f"{timeout} s are too long to wait for a stop", hint=f"at most {MAX_STOP_TIMEOUT}")
    return timeout


def _log_limits(request: pb.RunSpec) -> LogLimits:
    limits = LogLimits()
    size, files = request.log_max_bytes or limits.max_size, request.log_max_files or limits.max_files
    if not MIN_LOG_FILE <= size <= MAX_LOG_FILE:
        raise InvalidInputError(
            f"a log file cannot have {size} bytes at most", hint=f"{MIN_LOG_FILE} to {MAX_LOG_FILE // MIB}m"
        )
    if files > MAX_LOG_FILES:
        raise InvalidInputError(f"a log cannot have {files} files", hint=f"1 to {MAX_LOG_FILES}")
    return LogLimits(size, files)
