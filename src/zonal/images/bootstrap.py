"""Debian images made of Debian's packages by mmdebstrap, for machines that reach no registry.

This runs where the command is typed, as root or, with unprivileged user namespaces, as anyone. What comes out is an
archive of a root filesystem and the settings to import it with, kept in the cache folder by the recipe that made it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import signal
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from zonal.errors import InvalidInputError, NotFoundError, UnavailableError
from zonal.images import debian, reference
from zonal.images.config import format_time
from zonal.images.debian import Mirrors, Release

_RECIPE: Final = 1
"""Goes up when the recipe below changes in a way that its options do not show."""

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SETTINGS: Final = {"Cmd": ["bash"], "Env": [f"PATH={_PATH}"]}

_MERGED: Final = ("bin", "sbin", "lib", "lib64")
_PIN: Final = "etc/apt/preferences.d/usrmerge"

_OPTIONS: Final = (
    "--variant=minbase",
    "--architectures=amd64",
    "--components=main",
    "--format=tar",
    # The kernel makes the devices in a zone.
    "--skip=output/dev",
    "--aptopt=Acquire::Languages none",
    "--dpkgopt=force-unsafe-io",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/info/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-include=/usr/share/locale/locale.alias",
    # /bin and the like are links into /usr from the start. Debian 12 would otherwise install what moves them there,
    # and with it all of Perl.
    *(f'--setup-hook=mkdir -p "$1/usr/{name}" && ln -s usr/{name} "$1/{name}"' for name in _MERGED),
    f'--setup-hook=printf "Package: usrmerge\\nPin: release *\\nPin-Priority: -1\\n" > "$1/{_PIN}"',
    f'--customize-hook=rm "$1/{_PIN}"',
    # Nothing of the machine that made it: a zone gets its name and its resolver when it starts.
    '--customize-hook=cd "$1/etc" && rm -f resolv.conf hostname hosts',
    '--customize-hook=cd "$1/etc" && : > resolv.conf && echo localhost > hostname',
    '--customize-hook=printf "127.0.0.1 localhost\\n::1 localhost ip6-localhost\\n" > "$1/etc/hosts"',
    '--customize-hook=cd "$1/etc/apt/sources.list.d" && test ! -e 0000*.sources || mv 0000*.sources debian.sources',
)

Progress = Callable[[str], None]
"""Told one line for people at each step."""


@dataclass(frozen=True, slots=True)
class BootstrappedRoot:
    """A root filesystem ready to be imported."""

    name: str
    """What to call the image: ``debian:13``."""
    path: Path
    """An uncompressed tar."""
    settings: bytes
    """For `config.make_config`."""
    source: str
    """Where it came from, in words."""


def known(name: str) -> Release | None:
    """The release that an image's name stands for, if it can be made here: ``debian:13``, ``debian:trixie``, …"""
    try:
        wanted = reference.parse(name)
        if wanted.repository != "docker.io/library/debian" or wanted.digest or not wanted.tag:
            return None
        return debian.find_release(wanted.tag)
    except (InvalidInputError, NotFoundError):
        return None


def cache_folder(environment: Mapping[str, str] | None = None) -> Path:
    """Where Zonal keeps what it can make again: ``$ZONAL_CACHE``, else ``zonal`` in the user's cache folder."""
    environment = os.environ if environment is None else environment
    if given := environment.get("ZONAL_CACHE"):
        return Path(given)
    if given := environment.get("XDG_CACHE_HOME"):
        return Path(given) / "zonal"
    return Path(environment.get("HOME") or "~").expanduser() / ".cache" / "zonal"


async def bootstrap(
    name: str,
    *,
    cache: Path | None = None,
    refresh: bool = False,
    progress: Progress = lambda _: None,
) -> BootstrappedRoot:
    """Make a Debian root, or find the one made before; ``refresh`` makes it again, with today's packages.

    Two calls at once, in whatever processes, make it once. ``SOURCE_DATE_EPOCH`` makes the same packages give the
    same bytes.

    Raises:
        InvalidInputError: ``name`` is not one that can be made.
        UnavailableError: a program or Debian's keys are missing, or mmdebstrap failed.
    """
    release = known(name)
    if release is None:
        names = ", ".join(f"debian:{known_release.version}" for known_release in debian.RELEASES)
        raise InvalidInputError(f"{name!r} cannot be made from packages", hint=f"these can: {names}")
    mirrors = debian.find_mirrors()
    folder = (cache or cache_folder()) / "bootstrap"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"debian-{release.version}-{_recipe_digest(release, mirrors)[:16]}.tar"
    image = f"debian:{release.version}"
    asked_at = time.time()
    async with _locked(path.with_suffix(".lock"), progress):
        # What another process has made while this one waited is as fresh as can be.
        if not path.exists() or (refresh and path.stat().st_mtime < asked_at):
            await _make(release, mirrors, path, progress)
        created = int(os.environ.get("SOURCE_DATE_EPOCH") or path.stat().st_mtime)
    settings = {"created": format_time(created * 10**9), "config": _SETTINGS}
    where = mirrors.archive if mirrors else "mmdebstrap's default mirror"
    return BootstrappedRoot(image, path, json.dumps(settings, sort_keys=True).encode(), f"{release.codename}, {where}")


def _recipe_digest(release: Release, mirrors: Mirrors | None) -> str:
    parts = [_RECIPE, release.codename, _OPTIONS, repr(mirrors), os.environ.get("SOURCE_DATE_EPOCH", "")]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


async def _make(release: Release, mirrors: Mirrors | None, path: Path, progress: Progress) -> None:
    """Run mmdebstrap; ``path`` is there whole or not at all."""
    debian.check_keyring()
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="making-") as scratch:
        target = Path(scratch) / "root.tar"
        command = ["mmdebstrap", *_OPTIONS, release.codename, str(target)]
        if mirrors is not None:
            sources = Path(scratch) / "debian.sources"
            sources.write_text(debian.apt_sources(release, mirrors))
            command.append(str(sources))
        said = await _run(command, progress)
        if said:
            raise UnavailableError(
                f"mmdebstrap could not make Debian {release.version}: {said}",
                hint=f"check the network and the mirror ({debian.MIRROR_VARIABLE} names another)",
            )
        target.replace(path)


async def _run(command: list[str], progress: Progress) -> str:
    """Run mmdebstrap, passing on what it says; the reason why it failed, or an empty string."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise UnavailableError("the program mmdebstrap is missing", hint="apt-get install mmdebstrap") from error
    assert process.stderr is not None
    problems: list[str] = []
    try:
        # Progress bars come without a newline: read pieces, not lines.
        pending = b""
        while piece := await process.stderr.read(4096):
            *lines, pending = (pending + piece).replace(b"\r", b"\n").split(b"\n")
            for line in (raw.decode("utf-8", "replace").strip() for raw in lines):
                if line.endswith("...") and line.startswith("I: ") and "hook" not in line:
                    progress(line.removeprefix("I: ").removesuffix("..."))
                elif line.startswith(("E: ", "Err:", "W: Failed")):
                    problems.append(line.partition(": ")[2] if line.startswith("E: ") else line)
            pending = pending[-4096:]
        status = await process.wait()
    except BaseException:
        # It removes its own temporary folder when it is asked to end.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        await process.wait()
        raise
    return ("; ".join(problems[-3:]) or f"status {status}") if status else ""


@contextlib.asynccontextmanager
async def _locked(path: Path, progress: Progress) -> AsyncGenerator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another command that makes the same image")
            # flock(1) takes the lock on the description that we share with it, and unlike flock(2) can be told to stop.
            process = await asyncio.create_subprocess_exec("flock", "--exclusive", str(fd), pass_fds=(fd,))
            try:
                await process.wait()
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
                raise
        yield
    finally:
        os.close(fd)
