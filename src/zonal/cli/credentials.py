"""This user's credentials for registries, where docker and podman keep them (containers-auth.json(5)).

Nothing of it is kept by zonald: what a call needs goes along with the call.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, cast

from zonal.cli.errors import warn
from zonal.cli.whole_file import whole_file
from zonal.errors import UnavailableError
from zonal.images.skopeo import Login

_DOCKER_HUB: Final = "https://index.docker.io/v1/"
_HELPER_SECONDS: Final = 60


def find_login(domain: str, environment: Mapping[str, str] | None = None) -> Login:
    """The credentials for a registry's host; empty ones when there are none.

    Raises:
        UnavailableError: a credential helper is named that fails.
    """
    for path in auth_files(os.environ if environment is None else environment):
        document = _read(path)
        for key in (domain, _DOCKER_HUB) if domain == "docker.io" else (domain, f"https://{domain}"):
            helper = document.get("credHelpers", {}).get(key) or document.get("credsStore", "")
            if helper and (login := _ask_helper(str(helper), key)):
                return login
            if (entry := document.get("auths", {}).get(key)) and (login := _decode(entry)):
                return login
    return Login()


def keep_login(domain: str, login: Login, environment: Mapping[str, str] | None = None) -> Path:
    """Puts credentials into the first file where `find_login` looks; gives its path. Raises ``UnavailableError``."""
    path = next(auth_files(os.environ if environment is None else environment))
    entry = {"auth": base64.b64encode(f"{login.username}:{login.password}".encode()).decode()}
    _change(path, lambda auths: {**auths, domain: entry})
    return path


def forget_login(domain: str, environment: Mapping[str, str] | None = None) -> list[Path]:
    """Takes a registry's credentials out of every file; gives those that had some. Raises ``UnavailableError``."""
    changed: list[Path] = []
    keys = {domain, f"https://{domain}", *([_DOCKER_HUB] if domain == "docker.io" else ())}
    for path in auth_files(os.environ if environment is None else environment):
        if keys & set(_read(path).get("auths", {})):
            _change(path, lambda auths: {key: entry for key, entry in auths.items() if key not in keys})
            changed.append(path)
    return changed


def _change(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Rewrites ``auths`` of a file, which is this user's alone and whole at any time."""
    document = _read(path)
    document["auths"] = change(document.get("auths", {}))
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with whole_file(path, 0o600) as file:
            file.write(json.dumps(document, indent=1).encode())
    except OSError as error:
        raise UnavailableError(
            f"the credentials cannot be kept in {path}: {error.strerror}", hint="set REGISTRY_AUTH_FILE to another file"
        ) from error


def auth_files(environment: Mapping[str, str]) -> Iterator[Path]:
    """Where credentials may be, the first that has them counts."""
    home = Path(environment.get("HOME") or "~").expanduser()
    if given := environment.get("REGISTRY_AUTH_FILE"):
        yield Path(given)
        return
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        yield Path(runtime) / "containers/auth.json"
    elif os.geteuid() == 0:
        yield Path("/run/containers/0/auth.json")
    yield Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "containers/auth.json"
    yield Path(environment.get("DOCKER_CONFIG") or home / ".docker") / "config.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        warn(f"the credentials in {path} cannot be read: {error}")
        return {}
    return cast("dict[str, Any]", document) if isinstance(document, dict) else {}


def _decode(entry: dict[str, str]) -> Login | None:
    try:
        username, _, password = base64.b64decode(entry.get("auth", "")).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    token = entry.get("identitytoken", "")
    return Login(username, password, token) if username or token else None


def _ask_helper(name: str, key: str) -> Login | None:
    """Docker's credential helper protocol: the host on standard input, JSON on standard output."""
    try:
        done = subprocess.run(
            [f"docker-credential-{name}", "get"],
            input=key.encode(),
            capture_output=True,
            check=False,
            timeout=_HELPER_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(
            f"the credential helper docker-credential-{name} cannot be asked: {error}",
            hint=f"install it, or take {name} out of the file that names it",
        ) from error
    if done.returncode:
        return None
    try:
        answer = json.loads(done.stdout)
        username, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, KeyError, TypeError):
        return None
    return Login("", "", secret) if username == "<token>" else Login(username, secret)
