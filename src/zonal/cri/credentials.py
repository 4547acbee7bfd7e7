"""What a kubelet gives a runtime to log in to a registry with (the CRI's AuthConfig)."""

from __future__ import annotations

import base64
import binascii
from typing import Final
from urllib.parse import urlsplit

from zonal.cri.api import runtime_pb2 as pb
from zonal.errors import InvalidInputError, UnsupportedError
from zonal.images.reference import DEFAULT_DOMAIN
from zonal.images.skopeo import Login

_DOCKER_HUB: Final = frozenset({DEFAULT_DOMAIN, "index.docker.io", "registry-1.docker.io"})
MAX_LENGTH: Final = 1 << 20
"""Characters of credentials: far more than any token has."""


def login_for(auth: pb.AuthConfig, domain: str) -> Login:
    """The credentials for the registry ``domain``; none when they are for another one.

    Raises ``InvalidInputError`` for what cannot be any, ``UnsupportedError`` for a kind that we do not take.
    """
    if auth.ByteSize() > MAX_LENGTH:
        raise InvalidInputError("the credentials are too long")
    if auth.server_address and not _is_of(auth.server_address, domain):
        return Login()
    if auth.username:
        return Login(auth.username, auth.password)
    if auth.identity_token:
        return Login(identity_token=auth.identity_token)
    if auth.auth:
        return _decoded(auth.auth)
    if auth.registry_token:
        raise UnsupportedError("a bearer token for a registry is not taken", hint="give a name and a password")
    return Login()


def _decoded(auth: str) -> Login:
    """``NAME:PASSWORD`` in base64, as docker's configuration has it."""
    try:
        name, colon, password = base64.b64decode(auth, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        name, colon, password = "", "", ""
    if not colon or not name:
        raise InvalidInputError("the credentials are not a name and a password in base64")
    return Login(name, password.rstrip("\0"))


def _is_of(address: str, domain: str) -> bool:
    """Whether a registry's address, a host or a URL, is that of the host which an image's name has."""
    try:
        host = urlsplit(address if "://" in address else f"//{address}").netloc.rpartition("@")[2]
    except ValueError as error:
        raise InvalidInputError(f"{address[:80]!r} is not a registry's address") from error
    return host.lower() == domain.lower() or {host.lower(), domain.lower()} <= _DOCKER_HUB
