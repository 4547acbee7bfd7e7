"""What ``commit -c`` changes in an image's settings: instructions as a Dockerfile has them."""

from __future__ import annotations

import datetime
import json
import shlex
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from zonal.errors import InvalidInputError
from zonal.images.config import parse_config
from zonal.images.healthcheck_instruction import parse_instruction

_SHELL: Final = ["/bin/sh", "-c"]


def apply_changes(settings: dict[str, Any], changes: Sequence[str]) -> None:
    """Applies each to ``settings``, which is what is under ``config`` in an image's configuration.

    Raises ``InvalidInputError`` for an instruction that is unknown or malformed.
    """
    for change in changes:
        name, _, rest = change.strip().partition(" ")
        apply = _INSTRUCTIONS.get(name.upper())
        if apply is None:
            known = ", ".join(_INSTRUCTIONS)
            raise InvalidInputError(f"{change!r} is no change of an image", hint=f"there are {known}")
        if not rest.strip():
            raise InvalidInputError(f"{change!r} says nothing", hint='such as CMD ["nginx"] or ENV KEY=VALUE')
        try:
            apply(settings, rest.strip())
        except ValueError as error:
            raise InvalidInputError(f"{change!r} is malformed: {error}") from error


def committed(configuration: bytes, diff_id: str, changes: Sequence[str], entry: dict[str, str], label: str) -> bytes:
    """The configuration of an image with one more layer, and ``entry`` in its history.

    ``entry`` holds ``author``, ``comment`` and ``created_by``, as far as there are any. Raises ``InvalidInputError``.
    """
    document: dict[str, Any] = json.loads(configuration)
    settings: dict[str, Any] = document.get("config") or {}
    apply_changes(settings, changes)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    told = {key: value for key, value in entry.items() if value}
    document["config"] = settings
    document["created"] = now
    document["rootfs"]["diff_ids"].append(diff_id)
    document["history"] = [*(document.get("history") or ()), {"created": now, **told}]
    if "author" in told:
        document["author"] = told["author"]
    made = json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
    parse_config(made, label)
    return made


def _command(key: str) -> Callable[[dict[str, Any], str], None]:
    def apply(settings: dict[str, Any], text: str) -> None:
        settings[key] = _list(text) if text.startswith("[") else [*_SHELL, text]

    return apply


def _list(text: str) -> list[str]:
    value = json.loads(text)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in cast("list[object]", value)):
        raise ValueError("an array of strings is wanted")
    return cast("list[str]", value)


def _pairs(text: str) -> list[tuple[str, str]]:
    words = shlex.split(text)
    if "=" not in words[0]:  # the old form: one name, and the rest of the line
        name, _, value = text.partition(" ")
        return [(name, value.strip())]
    pairs = [word.partition("=") for word in words]
    if not all(equals and name for name, equals, _ in pairs):
        raise ValueError("pairs of KEY=VALUE are wanted")
    return [(name, value) for name, _, value in pairs]


def _env(settings: dict[str, Any], text: str) -> None:
    known = dict(entry.partition("=")[::2] for entry in settings.get("Env") or ())
    settings["Env"] = [f"{name}={value}" for name, value in {**known, **dict(_pairs(text))}.items()]


def _label(settings: dict[str, Any], text: str) -> None:
    settings["Labels"] = {**(settings.get("Labels") or {}), **dict(_pairs(text))}


def _set_of(key: str) -> Callable[[dict[str, Any], str], None]:
    def apply(settings: dict[str, Any], text: str) -> None:
        names = _list(text) if text.startswith("[") else shlex.split(text)
        if key == "ExposedPorts":
            names = [name if "/" in name else f"{name}/tcp" for name in names]
        settings[key] = {**(settings.get(key) or {}), **{name: {} for name in names}}

    return apply


def _text(key: str) -> Callable[[dict[str, Any], str], None]:
    def apply(settings: dict[str, Any], text: str) -> None:
        settings[key] = text

    return apply


def _on_build(settings: dict[str, Any], text: str) -> None:
    settings["OnBuild"] = [*(settings.get("OnBuild") or ()), text]


def _health(settings: dict[str, Any], text: str) -> None:
    settings["Healthcheck"] = parse_instruction(text)


_INSTRUCTIONS: Final[dict[str, Callable[[dict[str, Any], str], None]]] = {
    "CMD": _command("Cmd"),
    "ENTRYPOINT": _command("Entrypoint"),
    "ENV": _env,
    "EXPOSE": _set_of("ExposedPorts"),
    "HEALTHCHECK": _health,
    "LABEL": _label,
    "ONBUILD": _on_build,
    "STOPSIGNAL": _text("StopSignal"),
    "USER": _text("User"),
    "VOLUME": _set_of("Volumes"),
    "WORKDIR": _text("WorkingDir"),
}
