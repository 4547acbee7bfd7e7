"""Which zonald a command talks to: the one named, this machine's own, or the lab's."""

from __future__ import annotations

import os
import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zonal.errors import AccessDeniedError, InvalidInputError, UnavailableError, ZonalError

if TYPE_CHECKING:
    import grpc

    from zonal.cli.client import Control
    from zonal.lab.access import Endpoint
    from zonal.lab.progress import Progress

DEFAULT_SOCKET = Path("/run/zonal/zonald.sock")

host_option = click.option(
    "--host",
    envvar="ZONAL_HOST",
    metavar="SOCKET",
    help="zonald's unix socket; by default this machine's, or the lab.",
)
lab_option = click.option("--lab", metavar="NAME", help="Use this lab, also on a machine that runs Xen.")

_CHANNEL_OPTIONS = (
    # An error may carry the end of a console; gRPC's own bound on metadata is too small for that.
    ("grpc.max_metadata_size", 65536),
    ("grpc.absolute_max_metadata_size", 131072),
    # zonald is on this machine; a proxy has no business in between.
    ("grpc.enable_http_proxy", 0),
)


@contextmanager
def zonald(host: str | None, lab: str | None) -> Generator[Control]:
    """The control API within the block; brings the lab up where that is what is meant. Raises ``ZonalError``."""
    path = socket_path(host, lab)
    channel = open_socket(path) if path else open_lab(lab_up(lab))
    from zonal.cli.client import Control

    with channel:
        yield Control(channel, path)


def socket_path(host: str | None, lab: str | None) -> Path | None:
    """The unix socket to use, or ``None`` for the lab. Raises ``InvalidInputError``."""
    if lab is not None:
        if host and not os.environ.get("ZONAL_HOST"):
            raise InvalidInputError("--host and --lab exclude each other", hint="give one of them")
        return None
    if host:
        path = Path(host.removeprefix("unix://").removeprefix("unix:"))
        if not path.is_absolute():
            raise InvalidInputError(f"{host!r} is not the path of a unix socket", hint=f"such as {DEFAULT_SOCKET}")
        return path
    return DEFAULT_SOCKET if on_xen_host() else None


def on_xen_host() -> bool:
    """Whether this machine's Linux is the one that Xen trusts (Linux: drivers/xen/xenfs/super.c, sys-hypervisor.c)."""
    try:
        if "control_d" in Path("/proc/xen/capabilities").read_text():
            return True
    except OSError:
        pass  # Not under Xen at all, or xenfs is not mounted.
    try:
        on_xen = Path("/sys/hypervisor/type").read_text().strip() == "xen"
    except OSError:
        return False
    return on_xen and DEFAULT_SOCKET.exists()


def open_socket(path: Path) -> grpc.Channel:
    """A channel to the zonald on a unix socket. Raises ``ZonalError`` when none answers there."""
    _check_socket(path)
    ahead = _ahead.pop(path, None)
    if ahead:
        if ahead.connected:
            return ahead.channel
        ahead.channel.close()
    import grpc

    return grpc.insecure_channel(f"unix:{path}", options=_CHANNEL_OPTIONS)


def open_ahead(path: Path = DEFAULT_SOCKET) -> None:
    """Makes the connection that ``open_socket`` will be asked for, in a process that waits for its command."""
    with suppress(ZonalError):
        _ahead[path] = _Ahead(open_socket(path))


class _Ahead:
    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.connected = False
        channel.subscribe(self._changed, try_to_connect=True)

    def _changed(self, state: grpc.ChannelConnectivity) -> None:
        self.connected = state.name == "READY"


_ahead: dict[Path, _Ahead] = {}


def open_lab(endpoint: Endpoint) -> grpc.Channel:
    """A channel to the zonald of a lab."""
    import grpc

    return grpc.secure_channel(endpoint.target, endpoint.credentials, options=_CHANNEL_OPTIONS)


def lab_up(name: str | None) -> Endpoint:
    """Brings the lab up, with progress on stderr. Raises ``ZonalError``."""
    from zonal.lab import ensure_up

    with shown_progress() as progress:
        return ensure_up(name, progress)


@contextmanager
def shown_progress() -> Generator[Progress]:
    """Progress on stderr within the block."""
    from zonal.cli.progress import Terminal

    with Terminal() as progress:
        yield progress


def _check_socket(path: Path) -> None:
    try:
        owner = path.stat().st_uid
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise UnavailableError(
            f"zonald is not running: nothing answers on {path}", hint="start it: systemctl start zonald"
        ) from error
    except PermissionError as error:
        raise AccessDeniedError(
            f"zonald's socket {path} is root's alone, and this is user {os.geteuid()}", hint="run the command with sudo"
        ) from error
    except OSError as error:
        raise ZonalError(f"{path} cannot be connected to: {error.strerror or error}") from error
    if owner not in (0, os.geteuid()):
        raise AccessDeniedError(
            f"the socket {path} is user {owner}'s, neither root's nor yours", hint="what answers there is not trusted"
        )
