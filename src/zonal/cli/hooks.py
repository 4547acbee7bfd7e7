"""``--oci-hooks-dir``: programs at the stages of a container's life, in the files that podman has for them.

The format is oci-hooks(5), version 1.0.0. What they start is started in the zone: a path is one of the zone's own small
system (/bin/sh is there) or, at the stage startContainer, of the image.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from zonal.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from zonal.api import control_pb2 as pb

HOOK_OPTIONS = (
    click.option(
        *("--oci-hooks-dir", "--hooks-dir", "hooks_dirs"),
        multiple=True,
        type=click.Path(path_type=Path),
        help="Of podman's JSON files on hooks, which run in the zone.",
    ),
)
_MAX_FILE = 1 << 20
_KNOWN = {"version", "hook", "when", "stages"}
_CONDITIONS = {"always", "annotations", "commands", "hasBindMounts"}


def parse_hooks(folders: Iterable[Path], spec: pb.RunSpec) -> list[pb.Hook]:
    """Those of the folders' files that are meant for this run, in the order of the files' names.

    A later folder's file replaces one of the same name. Raises ``InvalidInputError`` and ``NotFoundError``.
    """
    files: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise NotFoundError(f"there is no folder of hooks {folder}", hint="give the path of one")
        files.update((path.name, path) for path in folder.glob("*.json"))
    return [hook for name in sorted(files) for hook in _read(files[name], spec)]


def _read(path: Path, spec: pb.RunSpec) -> list[pb.Hook]:
    from zonal.api import control_pb2 as pb

    try:
        data = path.read_bytes()
        document: Any = json.loads(data) if len(data) <= _MAX_FILE else None
        root = _object(document)
        hook, when = _object(root["hook"]), _object(root["when"])
        stages, path_of_program = _texts(root["stages"]), hook["path"]
        if root.get("version") != "1.0.0" or not isinstance(path_of_program, str) or set(root) - _KNOWN:
            raise ValueError("version 1.0.0 is known, with hook, when and stages")
        if not _meant(when, spec):
            return []
        args, env, timeout = _texts(hook.get("args", [])), _texts(hook.get("env", [])), int(hook.get("timeout", 0))
        if not 0 <= timeout <= 0xFFFFFFFF:
            raise ValueError(f"a timeout of {timeout} s")
    except (OSError, ValueError, KeyError, TypeError, re.error) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise InvalidInputError(
            f"the hook in {path} cannot be read: {what}", hint="oci-hooks(5) has the format"
        ) from error
    return [pb.Hook(stage=stage, path=path_of_program, args=args, env=env, timeout_seconds=timeout) for stage in stages]


def _meant(when: dict[str, Any], spec: pb.RunSpec) -> bool:
    """Whether all the conditions hold, of which there is one at least."""
    if unknown := set(when) - _CONDITIONS:
        raise ValueError(f"the condition {min(unknown)!r} is unknown")
    checks: list[bool] = []
    if "always" in when:
        checks.append(when["always"] is True)
    if "hasBindMounts" in when:
        checks.append(when["hasBindMounts"] is any(mount.type == "bind" for mount in spec.mounts))
    for name, value in _object(when.get("annotations", {})).items():
        pairs = spec.runtime.annotations.items()
        checks.append(any(re.search(name, key) and re.search(value, text) for key, text in pairs))
    if commands := _texts(when.get("commands", [])):
        first = spec.entrypoint or (spec.command[0] if spec.command else "")
        checks.append(any(re.search(command, first) for command in commands))
    return bool(checks) and all(checks)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("an object is wanted")
    return cast("dict[str, Any]", value)


def _texts(value: Any) -> Sequence[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in cast("list[Any]", value)):
        raise TypeError("an array of texts is wanted")
    return cast("list[str]", value)
