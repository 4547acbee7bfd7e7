"""``zonal image pull`` and ``push``: images from registries and to them, by this user's credentials."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from zonal.cli.connect import host_option, lab_option, zonald
from zonal.cli.credentials import find_login
from zonal.cli.errors import say
from zonal.cli.format import show_size
from zonal.errors import UnavailableError

if TYPE_CHECKING:
    from zonal.api import control_pb2 as pb
    from zonal.cli.client import Control

tls_option = click.option(
    "--tls-verify", type=bool, default=None, help="false: accept any certificate, and plain HTTP too."
)


@click.command("pull")
@click.option("-q", "--quiet", is_flag=True, help="Print the image's name only.")
@tls_option
@click.argument("reference", metavar="NAME")
@host_option
@lab_option
def pull(quiet: bool, tls_verify: bool | None, reference: str, host: str | None, lab: str | None) -> None:
    """Fetch an image from its registry."""
    with zonald(host, lab) as control:
        pulled = pull_image(control, reference, tls_verify=tls_verify, quiet=quiet)
    if not quiet:
        say(f"{'Fetched' if pulled.changed else 'Up to date'}: {show_size(pulled.image.size_bytes)}")
    click.echo(reference if reference in pulled.image.references else pulled.image.references[0])


@click.command("push")
@tls_option
@click.argument("reference", metavar="NAME")
@host_option
@lab_option
def push(tls_verify: bool | None, reference: str, host: str | None, lab: str | None) -> None:
    """Send an image to the registry that its name says."""
    from zonal.api import control_pb2 as pb

    with zonald(host, lab) as control:
        request = pb.PushImageRequest(reference=reference, access=access(reference, tls_verify))
        reply = control.call("PushImage", request, pb.PushImageReply)
    click.echo(f"{reference.partition('@')[0]}@{reply.digest}")


def pull_image(
    control: Control, reference: str, *, tls_verify: bool | None = None, quiet: bool = False
) -> pb.PulledImage:
    """Has zonald pull an image, and shows on stderr how far it is. Raises ``ZonalError``."""
    from zonal.api import control_pb2 as pb

    request = pb.PullImageRequest(reference=reference, access=access(reference, tls_verify))
    show = LayerLines(terminal=sys.stderr.isatty(), quiet=quiet)
    try:
        for reply in control.stream("PullImage", request, pb.PullImageReply):
            match reply.WhichOneof("reply"):
                case "pulled":
                    return reply.pulled
                case "layer":
                    show.layer(reply.layer)
                case _:
                    show.line(reply.progress)
    finally:
        show.end()
    raise UnavailableError(f"{reference} was not pulled, and zonald did not say why", hint="see its log")


def access(reference: str, tls_verify: bool | None) -> pb.RegistryAccess:
    """How this user reaches the registry of a name. Raises ``InvalidInputError``."""
    from zonal.api import control_pb2 as pb
    from zonal.images.reference import parse

    login = find_login(parse(reference).domain)
    return pb.RegistryAccess(
        username=login.username, password=login.password, identity_token=login.identity_token, verify_tls=tls_verify
    )


class LayerLines:
    """A line for each layer: kept up to date in a terminal; in a pipe, one when it begins and one when it is done."""

    def __init__(self, *, terminal: bool, quiet: bool) -> None:
        self._terminal = terminal
        self._quiet = quiet
        self._layers: dict[str, pb.LayerProgress] = {}
        self._shown = 0

    def line(self, text: str) -> None:
        """Something that is no layer's."""
        if not self._quiet:
            self._erase()
            say(text)
            self._draw()

    def layer(self, news: pb.LayerProgress) -> None:
        """News of a layer."""
        before = self._layers.get(news.digest)
        self._layers[news.digest] = news
        if self._quiet:
            return
        if self._terminal:
            self._erase()
            self._draw()
        elif news.state != "waiting" and (before is None or before.state != news.state):
            say(_text(news))

    def end(self) -> None:
        """Leaves what is shown."""
        self._shown = 0

    def _draw(self) -> None:
        if self._terminal:
            for news in self._layers.values():
                say(_text(news))
            self._shown = len(self._layers)

    def _erase(self) -> None:
        if self._shown:
            # ECMA-48: cursor up, and erase to the end of the display.
            sys.stderr.write(f"\x1b[{self._shown}A\x1b[J")
            sys.stderr.flush()
            self._shown = 0


def _text(news: pb.LayerProgress) -> str:
    name = news.digest.removeprefix("sha256:")[:12]
    match news.state:
        case "waiting":
            return f"{name}: waiting"
        case "present":
            return f"{name}: here already"
        case "fetched":
            return f"{name}: fetched, {show_size(news.size_bytes)}"
        case _:
            return f"{name}: {show_size(news.done_bytes)} of {show_size(news.size_bytes)}"
