"""Names of images, by the rules of docker and of the OCI distribution specification.

``debian:13`` is short for ``docker.io/library/debian:13``; the store keeps the long form, people see the short one.
The grammar is that of distribution's ``reference`` package, which docker, containerd and Kubernetes share.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from zonal.errors import InvalidInputError

DEFAULT_DOMAIN: Final = "docker.io"
DEFAULT_NAMESPACE: Final = "library"
DEFAULT_TAG: Final = "latest"

NAME_LIMIT: Final = 255
"""Characters in domain and path together."""

_DOMAIN_PART = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(rf"(?:{_DOMAIN_PART}(?:\.{_DOMAIN_PART})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_PATH_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_PATH_PART}(?:/{_PATH_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")
_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed name: registry host, repository, and a tag, a digest or both."""

    domain: str
    """Host, with its port if there is one: ``docker.io``, ``localhost:5000``, ``[::1]:5000``."""
    path: str
    """Repository within the host: ``library/debian``."""
    tag: str | None
    digest: str | None
    """``sha256:`` and 64 hexadecimal digits: the digest of a manifest."""

    @property
    def repository(self) -> str:
        """The name without tag and digest, in full."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar(self) -> str:
        """The form people type: docker's own host and namespace left out, unless it were another name then."""
        if self.domain == DEFAULT_DOMAIN:
            for path in (self.path.removeprefix(f"{DEFAULT_NAMESPACE}/"), self.path):
                named = path + (f":{self.tag}" if self.tag else "")
                if _split(named) == (self.domain, self.path, self.tag) and not _ID.fullmatch(named):
                    return path + self._suffix
        return str(self)

    def without_tag(self) -> Reference:
        """The same name by its digest alone."""
        return replace(self, tag=None)

    def without_digest(self) -> Reference:
        """The same name by its tag alone."""
        return replace(self, tag=self.tag or DEFAULT_TAG, digest=None)

    def __str__(self) -> str:
        return self.repository + self._suffix

    @property
    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def parse(text: str) -> Reference:
    """Parse a name as docker does, and complete it: default host, namespace, and the tag ``latest``.

    Raises:
        InvalidInputError: it does not follow the grammar.
    """
    if not text:
        raise InvalidInputError("an image's name is empty", hint="give one such as debian:13")
    rest, at, digest = text.partition("@")
    if at and not _SHA256.fullmatch(digest):
        raise _malformed(text, "what follows the @ must be sha256: and 64 hexadecimal digits")
    if _ID.fullmatch(rest):
        raise _malformed(text, "64 hexadecimal digits are an image's id, not a name")
    domain, path, tag = _split(rest)
    if tag is not None and not _TAG.fullmatch(tag):
        raise _malformed(text, "a tag has letters, digits, '_', '.' and '-', at most 128 of them")
    if not _DOMAIN.fullmatch(domain):
        raise _malformed(text, f"{domain!r} is not a registry's host")
    if not _PATH.fullmatch(path):
        if _PATH.fullmatch(path.lower()):
            raise _malformed(text, "a repository's name must be in lower case")
        raise _malformed(text, f"{path!r} is not a repository's name")
    if len(domain) + 1 + len(path) > NAME_LIMIT:
        raise _malformed(f"{text[:40]}…", f"the name is longer than {NAME_LIMIT} characters")
    if tag is None and not at:
        tag = DEFAULT_TAG
    return Reference(domain, path, tag, digest or None)


def familiar(text: str) -> str:
    """The form to show for a name in full; a text that is no name comes back as it is."""
    try:
        return parse(text).familiar
    except InvalidInputError:
        return text


def _split(text: str) -> tuple[str, str, str | None]:
    """Domain, path and tag. What is before the first slash is a host only if it looks like one."""
    head, slash, tail = text.partition("/")
    if slash and ("." in head or ":" in head or head == "localhost" or head.lower() != head):
        domain, remainder = head, tail
    else:
        domain, remainder = DEFAULT_DOMAIN, text
    if domain == "index.docker.io":
        domain = DEFAULT_DOMAIN
    path, colon, tag = remainder.partition(":")
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = f"{DEFAULT_NAMESPACE}/{path}"
    return domain, path, tag if colon else None


def _malformed(text: str, why: str) -> InvalidInputError:
    return InvalidInputError(f"image name {text!r}: {why}", hint="a name looks like debian:13 or host:5000/team/app:1")
