"""From plain values, as JSON has them, back to the frozen dataclasses that they were made of."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

_T = TypeVar("_T")


def from_plain(kind: type[_T], data: Any) -> _T:
    """An instance of a dataclass whose fields are numbers, texts, tuples, and such dataclasses in turn.

    A field that is not there has its default; what is not a field is left out, as older and newer versions differ.
    """
    kinds = _kinds(kind)
    values = cast("dict[str, Any]", data)
    return kind(**{name: _value(kinds[name], value) for name, value in values.items() if name in kinds})


@cache
def _kinds(kind: type[object]) -> dict[str, Any]:
    """Of each field. Asking for the annotations evaluates them, every time."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(cast("Any", kind))}


def _value(kind: Any, value: Any) -> Any:
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        if inner[-1] is Ellipsis:
            return tuple(_value(inner[0], each) for each in value)
        return tuple(_value(one, each) for one, each in zip(inner, value, strict=True))
    if isinstance(kind, type) and is_dataclass(kind):
        return from_plain(cast("type[object]", kind), value)
    return value
