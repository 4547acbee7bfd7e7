"""Templates as docker's ``--format`` takes them, if they are paths: ``{{.State.Status}}``, ``{{json .Args}}``."""

from __future__ import annotations

import json
import re
from typing import Any, cast

from zonal.errors import InvalidInputError

_PART = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_PATH = re.compile(r"\s*(json\s+)?(\.|(?:\.[A-Za-z_][A-Za-z0-9_]*)+)\s*")
_ESCAPES = {r"\t": "\t", r"\n": "\n"}


def render(template: str, document: object) -> str:
    """The template with what its paths name; what is not there is ``<no value>``. Raises ``InvalidInputError``."""
    for escape, character in _ESCAPES.items():
        template = template.replace(escape, character)

    def value(match: re.Match[str]) -> str:
        path = _PATH.fullmatch(match[1])
        if not path:
            raise InvalidInputError(
                f"the template {match[0]!r} cannot be used",
                hint="a path, such as {{.State.Status}} or {{json .Mounts}}",
            )
        found = document
        for key in path[2].split(".")[1:]:
            if key:
                found = cast("dict[str, Any]", found).get(key, _NOTHING) if isinstance(found, dict) else _NOTHING
        return _show(found, as_json=bool(path[1]))

    return _PART.sub(value, template)


class _Nothing:
    pass


_NOTHING = _Nothing()


def _show(value: object, *, as_json: bool) -> str:
    if as_json:
        return json.dumps(None if value is _NOTHING else value, ensure_ascii=False)
    if value is _NOTHING or value is None:
        return "<no value>"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + " ".join(_show(each, as_json=False) for each in cast("list[object]", value)) + "]"
    if isinstance(value, dict):
        entries = sorted(cast("dict[str, object]", value).items())
        return "map[" + " ".join(f"{key}:{_show(each, as_json=False)}" for key, each in entries) + "]"
    return str(value)
