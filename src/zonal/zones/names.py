"""Names and ids of zones."""

from __future__ import annotations

import re
import secrets

from zonal.errors import InvalidInputError

MAX_NAME = 63
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,62}", re.ASCII)
_HOSTNAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9.-]{0,61}[a-zA-Z0-9])?", re.ASCII)

_ADJECTIVES = (
    "agile amber ample bold brave breezy bright brisk calm candid cheery civil clear clever cosmic crisp dapper deft "
    "eager early easy fair fleet fluent fond frank fresh gentle glad golden grand hardy hearty honest humble jolly "
    "keen kind lively loyal lucid lunar mellow merry mighty modest neat nimble noble patient plucky polite prime "
    "proud quick quiet rapid ready robust rosy serene sharp shiny silver sincere sleek smooth snug solar solid "
    "spry stable steady stout sunny swift tidy tranquil trusty upbeat vivid warm wise witty zesty"
)
_NOUNS = (
    "acorn alder anchor aspen badger basin beacon birch bison bluff breeze brook canyon cedar clover comet coral cove "
    "crane creek cypress delta dune eagle ember falcon fern finch fjord forest garnet geyser glacier glade grove gull "
    "harbour hazel heron hill island jasper juniper kestrel lagoon lake lark laurel lynx maple marsh marten meadow "
    "mesa moss nebula oak ocean orbit orchid osprey otter owl pebble pine plover pond prairie quartz quill raven "
    "reef ridge river robin sable sage shore sparrow spruce summit swan thistle tide topaz tundra valley walnut willow"
)


def make_id() -> str:
    """64 random hexadecimal digits."""
    return secrets.token_hex(32)


def make_name() -> str:
    """An adjective and a noun; whether it is free is for the caller to see."""
    return f"{secrets.choice(_ADJECTIVES.split())}_{secrets.choice(_NOUNS.split())}"


def check_name(name: str) -> str:
    """The name, if a zone can have it. Raises ``InvalidInputError``."""
    if not _NAME.fullmatch(name):
        raise InvalidInputError(
            f"{name!r} cannot be a zone's name",
            hint=f"2 to {MAX_NAME} letters, digits, '_', '.' and '-', the first a letter or digit",
        )
    if re.fullmatch(r"[0-9a-f]{64}", name):
        raise InvalidInputError(f"{name!r} looks like a zone's id", hint="choose another name")
    return name


def check_hostname(hostname: str) -> str:
    """The host name, if Linux can have it. Raises ``InvalidInputError``."""
    if not _HOSTNAME.fullmatch(hostname):
        raise InvalidInputError(
            f"{hostname!r} cannot be a host name",
            hint="1 to 63 letters, digits, '-' and '.', with a letter or digit at both ends",
        )
    return hostname
