"""zonald: runs on the host as root, makes zones, and serves the control API until it is told to stop.

Stopping it, and even killing it, leaves running zones alone; the next zonald takes them back.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import logging
import os
import re
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zonal.errors import InvalidInputError, UnavailableError, ZonalError
from zonal.network.cni import PLUGIN_FOLDERS
from zonal.network.networks import CONFIGURATIONS
from zonal.service import log_to_stderr, notify

if TYPE_CHECKING:
    from zonal.daemon.control import Services
    from zonal.daemon.metrics_address import MetricsAddress
    from zonal.daemon.server import TlsListener

log = logging.getLogger("zonald")

PRIVCMD = Path("/dev/xen/privcmd")
DEFAULT_SOCKET = Path("/run/zonal/zonald.sock")
DEFAULT_STATE = Path("/var/lib/zonal")
CRI_VARIABLE = "ZONALD_CRI_SOCKET"
CRI_SOCKET = "cri.sock"
CRI_FALLBACK_VARIABLE = "ZONALD_CRI_FALLBACK"
CRI_HANDLERS_VARIABLE = "ZONALD_CRI_HANDLERS"
CRI_HANDLERS = ",zonal,edera"
CRI_NETWORK_VARIABLE = "ZONALD_CRI_NETWORK"
CNI_CONF_DIR_VARIABLE = "ZONALD_CNI_CONF_DIR"
CNI_BIN_DIR_VARIABLE = "ZONALD_CNI_BIN_DIR"
DEFAULT_AGENT_TIMEOUT = 120.0
"""Ten times what an emulated machine needs under load."""
AGENT_TIMEOUT_VARIABLE = "ZONALD_AGENT_TIMEOUT"
METRICS_VARIABLE = "ZONALD_METRICS"
DEFAULT_RESERVE = 64 << 20
RESERVE_VARIABLE = "ZONALD_RESERVE_MEMORY"
VIRT_VARIABLE = "ZONALD_VIRT"
SPOOL = "spool"

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8

Beside = Callable[["Services", "Config"], AbstractAsyncContextManager[None]]
"""What is served beside the control API, for as long as the block lasts."""

ServicesOpener = Callable[["Config"], "AbstractAsyncContextManager[Services]"]
"""Opens the services on the state folder of a configuration, for as long as the block lasts."""


@dataclass(frozen=True)
class Config:
    """Where zonald listens and keeps its state, and how patient it is."""

    socket: Path = DEFAULT_SOCKET
    state: Path = DEFAULT_STATE
    tls: TlsListener | None = None
    agent_timeout: float = DEFAULT_AGENT_TIMEOUT
    """Seconds that a zone's kernel and agent may take until the agent answers."""
    metrics: MetricsAddress | None = None
    """Where figures for Prometheus are to be had; nowhere by default."""
    reserve: int = DEFAULT_RESERVE
    """Bytes of the machine's memory that zones do not get."""
    cri: Path | None = None
    """Socket for a kubelet; none: it is not served."""
    cri_fallback: Path | None = None
    """The socket of another runtime, for pods that are not ours."""
    cri_network: str = ""
    """What pods are on: a network's name, "" for the cluster's configuration, "auto" for Zonal's where that is not."""
    cni_configurations: Path = CONFIGURATIONS
    cni_plugins: tuple[Path, ...] = PLUGIN_FOLDERS
    cri_handlers: str = CRI_HANDLERS
    """Handlers of RuntimeClasses that are ours, with commas between; the empty one is that of pods without a class."""
    virt: str = "auto"
    """How zones are virtualised where nobody says: "pv", "pvh", or "auto", which is what the machine has."""


def main(arguments: Sequence[str] | None = None, beside: Beside | None = None) -> None:
    """The ``zonald`` command; exits with 0 after SIGTERM or SIGINT, and with 1 when it cannot run."""
    options = _parse(arguments)
    log_to_stderr(options.log_level)
    keep_memory_small()
    allow_files()
    # One thread is plenty for page tables, and each idle one costs memory.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    try:
        config = _config(options)
        _check_xen()
        from zonal.daemon.wiring import open_services

        asyncio.run(serve(config, open_services, beside))
    except ZonalError as error:
        print(f"zonald: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        sys.exit(1)


async def serve(config: Config, open_services: ServicesOpener, beside: Beside | None = None) -> None:
    """Serves until SIGTERM or SIGINT. Raises ``ZonalError`` when it cannot."""
    from zonal.daemon.server import only_instance, prepare_folder, serving

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
            stack.callback(loop.remove_signal_handler, number)
        for folder in (config.state, config.socket.parent):
            prepare_folder(folder)
        stack.enter_context(only_instance(config.state / "zonald.lock"))
        stack.enter_context(only_instance(config.socket.with_name(config.socket.name + ".lock")))
        services = await stack.enter_async_context(open_services(config))
        if config.metrics is not None:
            from zonal.daemon.metrics import serving_metrics  # 5 MiB that most have no use for

            await stack.enter_async_context(serving_metrics(services, config.metrics, config.state))
        if beside is not None:
            await stack.enter_async_context(beside(services, config))
        await stack.enter_async_context(serving(services, config.socket, config.tls))
        log.info("ready on %s", config.socket)
        notify("READY=1")
        await stop.wait()
        log.info("stopping; running zones go on")
        notify("STOPPING=1")


def prepare_spool(state: Path) -> Path:
    """The folder for uploads, emptied of what a killed zonald left."""
    spool = state / SPOOL
    spool.mkdir(mode=0o700, exist_ok=True)
    for path in spool.iterdir():
        path.unlink()
    return spool


def keep_memory_small() -> None:
    """Has malloc give back what large pieces of work leave: an imported image, a decompressed kernel.

    By default glibc keeps an arena for each thread, and raises the size from which on it maps memory by itself
    (malloc.h, mallopt(3)); together that has kept 40 MiB.
    """
    libc = ctypes.CDLL(None)
    for parameter, value in ((M_ARENA_MAX, 1), (M_MMAP_THRESHOLD, 128 << 10), (M_TRIM_THRESHOLD, 256 << 10)):
        libc.mallopt(parameter, value)


def allow_files() -> None:
    """Has as many files open as the system lets it: each zone takes seven, and a shell's limit is often 1024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _check_xen() -> None:
    if not PRIVCMD.exists():
        raise UnavailableError(
            f"Xen cannot be reached: there is no {PRIVCMD}",
            hint="run zonald in Xen's host (dom0), with the module xen-privcmd loaded; elsewhere `zonal run` brings up "
            "a Xen host of its own",
        )


def _config(options: argparse.Namespace) -> Config:
    tls = None
    if options.listen_tls:
        if options.tls_dir is None:
            raise InvalidInputError("--listen-tls needs --tls-dir", hint="the folder of the certificates")
        from zonal.daemon.server import TlsListener

        tls = TlsListener(address=options.listen_tls, folder=options.tls_dir)
    return Config(
        socket=options.socket.absolute(),
        state=options.state_dir.absolute(),
        tls=tls,
        agent_timeout=_seconds(options.agent_timeout),
        metrics=_metrics(options.metrics),
        reserve=_reserve(options.reserve_memory),
        virt=_virt(options.virt),
        cri=_cri(options),
        cri_fallback=Path(options.cri_fallback).absolute() if options.cri_fallback else None,
        cri_handlers=options.cri_handlers,
        cri_network=options.cri_network,
        cni_configurations=Path(options.cni_conf_dir).absolute(),
        cni_plugins=tuple(Path(each).absolute() for each in options.cni_bin_dir.split(":") if each),
    )


def _metrics(text: str) -> MetricsAddress | None:
    if not text:
        return None
    from zonal.daemon.metrics_address import parse_metrics_address

    return parse_metrics_address(text)


def _reserve(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,9})([kmgt]?)", text.strip().lower(), re.ASCII)
    if not match:
        raise InvalidInputError(
            f"--reserve-memory {text!r} is not a size", hint=f"such as 64M or 1G; or set {RESERVE_VARIABLE} to it"
        )
    return int(match[1]) << {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}[match[2]]


def _cri(options: argparse.Namespace) -> Path | None:
    """Beside the control API's socket, unless another one is named, or none."""
    if options.cri_socket is None:
        return options.socket.absolute().with_name(CRI_SOCKET)
    return Path(options.cri_socket).absolute() if options.cri_socket else None


def _virt(text: str) -> str:
    if text not in ("auto", "pv", "pvh"):
        raise InvalidInputError(
            f"--virt {text!r} is no kind of zone", hint=f"auto, pv or pvh; or set {VIRT_VARIABLE} to one of them"
        )
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 86400:
        raise InvalidInputError(
            f"--agent-timeout {text!r} is not a number of seconds from 1 to 86400",
            hint=f"give one such as {DEFAULT_AGENT_TIMEOUT:g}, or set {AGENT_TIMEOUT_VARIABLE} to it",
        )
    return seconds


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("zonald", description="Makes and keeps zones on a Xen host.")
    parser.add_argument("--socket", type=Path, default=DEFAULT_SOCKET, help="unix socket (default: %(default)s)")
    parser.add_argument("--state-dir", type=Path, default=DEFAULT_STATE, help="folder (default: %(default)s)")
    parser.add_argument("--listen-tls", metavar="HOST:PORT", help="listen there too, for clients with a certificate")
    parser.add_argument("--tls-dir", type=Path, help="folder of ca.pem, server.pem and server.key")
    parser.add_argument(
        "--agent-timeout",
        metavar="SECONDS",
        default=os.environ.get(AGENT_TIMEOUT_VARIABLE) or str(DEFAULT_AGENT_TIMEOUT),
        help="how long a new zone may take until its agent answers (default: %(default)s)",
    )
    parser.add_argument(
        "--metrics",
        metavar="[ADDRESS:]PORT|SOCKET",
        default=os.environ.get(METRICS_VARIABLE, ""),
        help="serve figures for Prometheus there, over HTTP: a port alone is the loopback's (default: do not)",
    )
    parser.add_argument(
        "--reserve-memory",
        metavar="SIZE",
        default=os.environ.get(RESERVE_VARIABLE) or f"{DEFAULT_RESERVE >> 20}M",
        help="memory that zones do not get (default: %(default)s)",
    )
    parser.add_argument(
        "--cri-socket",
        metavar="PATH",
        default=os.environ.get(CRI_VARIABLE),
        help=f"unix socket for a kubelet; empty for none (default: {CRI_SOCKET} beside --socket)",
    )
    parser.add_argument(
        "--cri-fallback",
        metavar="SOCKET",
        default=os.environ.get(CRI_FALLBACK_VARIABLE, ""),
        help="of another runtime, such as containerd's: for pods that share the host or have a class that is not ours",
    )
    parser.add_argument(
        "--cri-handlers",
        metavar="NAMES",
        default=os.environ.get(CRI_HANDLERS_VARIABLE, CRI_HANDLERS),
        help="of RuntimeClasses that are ours, where there is another runtime; an empty one is of pods without a class "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--cri-network",
        metavar="NAME",
        default=os.environ.get(CRI_NETWORK_VARIABLE, ""),
        help="that pods are on; auto: the cluster's, or Zonal's own while there is none (default: the cluster's, which "
        "is the first in --cni-conf-dir)",
    )
    parser.add_argument(
        "--cni-conf-dir",
        metavar="FOLDER",
        default=os.environ.get(CNI_CONF_DIR_VARIABLE) or str(CONFIGURATIONS),
        help="of network configurations (default: %(default)s)",
    )
    parser.add_argument(
        "--cni-bin-dir",
        metavar="FOLDERS",
        default=os.environ.get(CNI_BIN_DIR_VARIABLE) or ":".join(map(str, PLUGIN_FOLDERS)),
        help="of network plugins, with colons between (default: %(default)s)",
    )
    parser.add_argument(
        "--virt",
        metavar="KIND",
        default=os.environ.get(VIRT_VARIABLE) or "auto",
        help="of zones where nobody says: pv, pvh, or auto for what the machine has (default: %(default)s)",
    )
    parser.add_argument("--log-level", choices=["debug", "info", "warning", "error"], default="info")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
