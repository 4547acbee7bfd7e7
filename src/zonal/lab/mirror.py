"""Where Debian's packages come from: the mirror that this machine itself uses, or Debian's own.

The apt sources formats are those of sources.list(5): one line a source, or deb822 stanzas.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from zonal.errors import InvalidInputError

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
DEFAULT_MIRROR = "http://deb.debian.org/debian"
DEFAULT_SECURITY = "http://deb.debian.org/debian-security"

_SUITE = re.compile(r"(?:debian|bullseye|bookworm|trixie|forky|sid|stable|testing|unstable)(?:[-/].*)?")


def sources(suite: str, apt: Path = Path("/etc/apt")) -> str:
    """deb822 sources of ``suite``, its updates and its security fixes.

    ``$ZONAL_DEBIAN_MIRROR`` is taken first, then what the files under ``apt`` name, then deb.debian.org.
    """
    mirror, security = mirrors(apt)
    return _stanza(mirror, f"{suite} {suite}-updates") + "\n" + _stanza(security, f"{suite}-security")


def mirrors(apt: Path = Path("/etc/apt")) -> tuple[str, str]:
    """The URIs of the archive and of its security archive."""
    chosen = os.environ.get("ZONAL_DEBIAN_MIRROR")
    if chosen:
        if urlsplit(chosen).scheme not in ("http", "https") or any(c.isspace() for c in chosen):
            raise InvalidInputError(
                f"ZONAL_DEBIAN_MIRROR is {chosen!r}, which is no http or https address",
                hint=f"set it to something like {DEFAULT_MIRROR}",
            )
        mirror = chosen.rstrip("/")
        # A full mirror keeps the security archive beside the main one.
        return mirror, (mirror.removesuffix("/debian") + "/debian-security")
    mirror, security = "", ""
    for uri, suite in _configured(apt):
        bare = uri.rstrip("/")
        if urlsplit(bare).scheme not in ("http", "https") or not _SUITE.fullmatch(suite):
            continue
        if bare.endswith("/debian-security"):
            security = security or bare
        elif bare.endswith("/debian"):
            mirror = mirror or bare
    return mirror or DEFAULT_MIRROR, security or DEFAULT_SECURITY


def _stanza(uri: str, suites: str) -> str:
    return f"Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: main\nSigned-By: {KEYRING}\n"


def _configured(apt: Path) -> Iterator[tuple[str, str]]:
    """Every pair of URI and suite that apt is configured with."""
    parts = sorted((apt / "sources.list.d").glob("*")) if (apt / "sources.list.d").is_dir() else []
    for path in [apt / "sources.list", *parts]:
        if not path.is_file():
            continue
        text = path.read_text(errors="replace")
        if path.suffix == ".list":
            yield from _one_line(text)
        elif path.suffix == ".sources":
            yield from _deb822(text)


def _one_line(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+(\S+)", line)
        if match:
            yield match[1], match[2]


def _deb822(text: str) -> Iterator[tuple[str, str]]:
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", lines):
        unfolded = re.sub(r"\n[ \t]+", " ", stanza)
        pairs = (line.split(":", 1) for line in unfolded.splitlines() if ":" in line)
        fields = {name.strip().lower(): value.split() for name, value in pairs}
        if "deb" in fields.get("types", []) and fields.get("enabled", ["yes"]) != ["no"]:
            for uri in fields.get("uris", []):
                for suite in fields.get("suites", []):
                    yield uri, suite
