"""JSON documents of images (indexes, manifests, configurations), read with care: any field may be of any type."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final, cast

from zonal.errors import InvalidInputError

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


class Node:
    """An object of a document, and where it is in it, for errors that name the field."""

    def __init__(self, value: dict[str, Any], label: str) -> None:
        self._value = value
        self.label = label

    def __contains__(self, key: str) -> bool:
        return self._value.get(key) is not None

    def refuse(self, key: str, why: str) -> InvalidInputError:
        """The error for a field."""
        return InvalidInputError(f"{self.label}: {key} {why}")

    def text(self, key: str) -> str:
        """A string without NULs; empty when it is absent or null."""
        value = self._value.get(key)
        if value is None:
            return ""
        return self._text(key, value)

    def texts(self, key: str) -> tuple[str, ...]:
        """An array of strings; empty when it is absent or null."""
        value = self._value.get(key)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise self.refuse(key, "is not an array of strings")
        return tuple(self._text(key, item) for item in cast("list[Any]", value))

    def table(self, key: str) -> dict[str, str]:
        """An object of strings; empty when it is absent or null."""
        return {name: self._text(key, item) for name, item in self._object(key).items()}

    def keys(self, key: str) -> tuple[str, ...]:
        """The names in an object that is a set, as OCI writes one: ``{"80/tcp": {}}``."""
        return tuple(self._object(key))

    def size(self, key: str) -> int:
        """A number of bytes."""
        value = self._value.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
            raise self.refuse(key, "is not a number of bytes")
        return value

    def number(self, key: str) -> int:
        """A whole number that is not negative; 0 when it is absent or null."""
        value = self._value.get(key)
        if value is None:
            return 0
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
            raise self.refuse(key, "is not a whole number from 0 to 2^63")
        return value

    def digest(self, key: str) -> str:
        """``sha256:`` and 64 hexadecimal digits."""
        return self._digest(key, self._value.get(key))

    def digests(self, key: str) -> tuple[str, ...]:
        """An array of digests."""
        return tuple(self._digest(key, item) for item in self.texts(key))

    def node(self, key: str) -> Node:
        """An object within this one; an empty one when it is absent or null."""
        return Node(self._object(key), f"{self.label}: {key}")

    def nodes(self, key: str) -> list[Node]:
        """An array of objects; empty when it is absent or null."""
        value = self._value.get(key)
        if value is None:
            return []
        return _nodes(value, f"{self.label}: {key}")

    def _object(self, key: str) -> dict[str, Any]:
        value = self._value.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.refuse(key, "is not an object")
        return cast("dict[str, Any]", value)

    def _text(self, key: str, value: object) -> str:
        if not isinstance(value, str):
            raise self.refuse(key, "is not a string")
        if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
            raise self.refuse(key, "has a NUL or half a surrogate pair in it")
        return value

    def _digest(self, key: str, value: object) -> str:
        if not isinstance(value, str) or not _DIGEST.fullmatch(value):
            raise self.refuse(key, f"is {str(value)[:80]!r}, not a sha256 digest")
        return value


def read_object(document: bytes, label: str) -> Node:
    """The object that ``document`` is.

    Raises:
        InvalidInputError: it is not JSON, or not an object.
    """
    value = _load(document, label)
    if not isinstance(value, dict):
        raise InvalidInputError(f"{label} is not a JSON object")
    return Node(cast("dict[str, Any]", value), label)


def read_objects(document: bytes, label: str) -> Sequence[Node]:
    """The objects in the array that ``document`` is.

    Raises:
        InvalidInputError: it is not JSON, or not an array of objects.
    """
    return _nodes(_load(document, label), label)


def _load(document: bytes, label: str) -> object:
    try:
        return json.loads(document.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{label} is not JSON: {error}") from error


def _nodes(value: object, label: str) -> list[Node]:
    if not isinstance(value, list):
        raise InvalidInputError(f"{label} is not an array")
    nodes: list[Node] = []
    for index, item in enumerate(cast("list[Any]", value)):
        if not isinstance(item, dict):
            raise InvalidInputError(f"{label}[{index}] is not an object")
        nodes.append(Node(cast("dict[str, Any]", item), f"{label}[{index}]"))
    return nodes
