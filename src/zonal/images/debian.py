"""Debian releases, and where on this machine's network to get their packages.

A small interface for whoever runs mmdebstrap::

    release = debian.find_release("13")            # or "trixie"
    mirrors = debian.find_mirrors()                # as apt on this machine has them, or as $ZONAL_DEBIAN_MIRROR says
    text = debian.apt_sources(release, mirrors)    # a deb822 file for mmdebstrap, and for the system that it makes

Where neither says anything, ``find_mirrors`` gives None, and mmdebstrap run without a sources file takes its default.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from zonal.errors import InvalidInputError, NotFoundError, UnavailableError

MIRROR_VARIABLE: Final = "ZONAL_DEBIAN_MIRROR"
SECURITY_VARIABLE: Final = "ZONAL_DEBIAN_SECURITY_MIRROR"

KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
"""On this machine, and in the system that is made: of the package debian-archive-keyring."""

_SCHEMES: Final = ("http", "https", "file")
_SUITES: Final = ("bullseye", "bookworm", "trixie", "forky", "sid", "oldstable", "stable", "testing", "unstable")
"""What apt on a Debian machine may follow; whichever it is, the mirror has our releases too."""


@dataclass(frozen=True, slots=True)
class Release:
    """A release of Debian."""

    version: str
    codename: str


RELEASES: Final = (Release("13", "trixie"), Release("12", "bookworm"))


@dataclass(frozen=True, slots=True)
class Mirrors:
    """Addresses of the two archives that a release is spread over."""

    archive: str
    security: str


def find_release(name: str) -> Release:
    """The release with this number or code name.

    Raises:
        NotFoundError: none that Zonal can make.
    """
    for release in RELEASES:
        if name in (release.version, release.codename):
            return release
    known = ", ".join(f"{release.version} ({release.codename})" for release in RELEASES)
    raise NotFoundError(f"there is no Debian release {name!r} here", hint=f"it can be one of {known}")


def find_mirrors(environment: Mapping[str, str] | None = None, folder: Path = Path("/etc/apt")) -> Mirrors | None:
    """The mirrors to use: those of the environment, else those of this machine's apt, else None.

    Raises:
        InvalidInputError: the environment names something that is not an address.
    """
    environment = os.environ if environment is None else environment
    given = environment.get(MIRROR_VARIABLE, "")
    given_security = environment.get(SECURITY_VARIABLE, "")
    for variable, address in ((MIRROR_VARIABLE, given), (SECURITY_VARIABLE, given_security)):
        if address and not _is_address(address):
            raise InvalidInputError(
                f"{variable} is {address!r}, which is not an address",
                hint="give one such as http://mirror.example/debian",
            )
    archive = security = ""
    for address, suite in _configured(folder):
        if suite in _SUITES:
            archive = archive or address
        elif suite.removesuffix("-security") in _SUITES and suite.endswith("-security"):
            security = security or address
    if given:
        # A mirror keeps the two side by side, which is more likely to be reached than what apt would have used.
        return Mirrors(given.rstrip("/"), (given_security or _beside(given)).rstrip("/"))
    if not archive:
        return None
    return Mirrors(archive, given_security.rstrip("/") or security or _beside(archive))


def apt_sources(release: Release, mirrors: Mirrors) -> str:
    """A deb822 file (sources.list(5)) of a release with its updates and security updates."""
    codename = release.codename
    stanzas = ((mirrors.archive, f"{codename} {codename}-updates"), (mirrors.security, f"{codename}-security"))
    return "\n".join(
        f"Types: deb\nURIs: {address}\nSuites: {suites}\nComponents: main\nSigned-By: {KEYRING}\n"
        for address, suites in stanzas
    )


def check_keyring() -> None:
    """Make sure that packages can be verified.

    Raises:
        UnavailableError: Debian's keys are not on this machine.
    """
    if not KEYRING.is_file():
        raise UnavailableError(
            f"Debian's keys are missing: {KEYRING}", hint="install the package debian-archive-keyring"
        )


def _configured(folder: Path) -> Iterator[tuple[str, str]]:
    """Address and suite of each source of binary packages that may be Debian's own."""
    sources = [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]
    for path in sources:
        try:
            text = path.read_text("utf-8", "replace")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError):
            continue
        found = _deb822(text) if path.suffix == ".sources" else _one_line(text)
        for address, suite, components in found:
            # Others use Debian's suite names too; what is Debian's says so in its address.
            if "main" in components and _is_address(address) and "debian" in address.lower():
                yield address.rstrip("/"), suite


def _deb822(text: str) -> Iterator[tuple[str, str, list[str]]]:
    text = re.sub(r"^#.*\n?", "", text, flags=re.MULTILINE)
    for stanza in re.split(r"\n\s*\n", text):
        fields = {
            key.lower(): value.split()
            for key, value in re.findall(r"^([A-Za-z-]+):((?:.*)(?:\n[ \t].*)*)", stanza, flags=re.MULTILINE)
        }
        if "deb" not in fields.get("types", []) or fields.get("enabled", ["yes"]) == ["no"]:
            continue
        for address in fields.get("uris", []):
            for suite in fields.get("suites", []):
                yield address, suite, fields.get("components", [])


def _one_line(text: str) -> Iterator[tuple[str, str, list[str]]]:
    for line in text.splitlines():
        match = re.fullmatch(r"\s*deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+(\S+)((?:\s+[^#\s]+)*)\s*(?:#.*)?", line)
        if match:
            yield match[1], match[2], match[3].split()


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in _SCHEMES and bool(parts.netloc or parts.scheme == "file") and not re.search(r"\s", text)


def _beside(archive: str) -> str:
    return f"{archive.rstrip('/')}-security"
