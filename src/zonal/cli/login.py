"""``zonal login`` and ``logout``: credentials for a registry, checked with it and kept where podman keeps them."""

from __future__ import annotations

import sys

import click

from zonal.cli.connect import host_option, lab_option, zonald
from zonal.cli.credentials import forget_login, keep_login
from zonal.cli.errors import say
from zonal.cli.registry import tls_option
from zonal.errors import InvalidInputError, NotFoundError
from zonal.images.skopeo import Login

DEFAULT_REGISTRY = "docker.io"


@click.command("login")
@click.option("-u", "--username", default="", help="Asked for by default.")
@click.option("-p", "--password", default="", help="Seen by all who list processes; rather leave it out.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@tls_option
@click.argument("registry", default=DEFAULT_REGISTRY)
@host_option
@lab_option
def login(
    username: str,
    password: str,
    password_stdin: bool,
    tls_verify: bool | None,
    registry: str,
    host: str | None,
    lab: str | None,
) -> None:
    """Keep credentials for a registry, once it has taken them."""
    from zonal.api import control_pb2 as pb

    registry = registry_name(registry)
    if password and password_stdin:
        raise InvalidInputError("-p and --password-stdin exclude each other", hint="give one of them")
    if password_stdin and not username:
        raise InvalidInputError("--password-stdin needs a user name", hint="give it with -u")
    if not password_stdin and not (username and password) and not sys.stdin.isatty():
        raise InvalidInputError("there is no terminal to ask for credentials", hint="-u NAME --password-stdin")
    username = username or click.prompt("Username", err=True)
    if password_stdin:
        password = sys.stdin.read().rstrip("\r\n")
    password = password or click.prompt("Password", hide_input=True, err=True)
    access = pb.RegistryAccess(username=username, password=password, verify_tls=tls_verify)
    with zonald(host, lab) as control:
        control.call("CheckLogin", pb.CheckLoginRequest(registry=registry, access=access), pb.CheckLoginReply)
    say(f"logged in to {registry}; kept in {keep_login(registry, Login(username, password))}")


@click.command("logout")
@click.argument("registry", default=DEFAULT_REGISTRY)
def logout(registry: str) -> None:
    """Forget the credentials for a registry."""
    registry = registry_name(registry)
    files = forget_login(registry)
    if not files:
        raise NotFoundError(f"there are no credentials for {registry}", hint="zonal login keeps some")
    for path in files:
        say(f"taken out of {path}")


def registry_name(text: str) -> str:
    """``HOST[:PORT]`` of what people type. Raises ``InvalidInputError``."""
    from zonal.images.reference import parse

    name = text.removeprefix("https://").removeprefix("http://").rstrip("/")
    if name in ("index.docker.io/v1", "index.docker.io", DEFAULT_REGISTRY):
        return DEFAULT_REGISTRY
    if "/" in name or parse(f"{name}/x").domain != name:
        raise InvalidInputError(f"{text!r} is not the name of a registry", hint="HOST or HOST:PORT")
    return name
