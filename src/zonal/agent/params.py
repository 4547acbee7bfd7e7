"""Checked access to the parameters of a call; whatever is wrong becomes a refusal that names the parameter."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zonal.agent.protocol.cbor import Value

MAX_ID = 64
"""Characters of a workload's or root's name."""


class CallError(Exception):
    """The call is refused: ``args`` are a code of docs/protocol.md and a message."""


class Params:
    """The parameters of one call."""

    def __init__(self, values: dict[str, Value]) -> None:
        self._values = values

    def name(self, key: str) -> str:
        """An identifier that is safe as a file name."""
        value = self.text(key)
        if not 0 < len(value) <= MAX_ID or not value.isascii() or not value.replace("-", "").replace("_", "").isalnum():
            raise CallError("invalid", f"{key} {value!r}: letters, digits, - and _, at most {MAX_ID}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A text; required without a ``default``."""
        value = self._values.get(key, default)
        if not isinstance(value, str) or "\0" in value:
            raise CallError("invalid", f"{key} must be text")
        return value

    def data(self, key: str) -> bytes:
        """Bytes; required."""
        value = self._values.get(key)
        if not isinstance(value, bytes):
            raise CallError("invalid", f"{key} must be bytes")
        return value

    def flag(self, key: str) -> bool:
        """A boolean; false when it is not there."""
        value = self._values.get(key, False)
        if not isinstance(value, bool):
            raise CallError("invalid", f"{key} must be true or false")
        return value

    def number(self, key: str, default: int | None = None, *, least: int = 0, most: int = (1 << 63) - 1) -> int:
        """An integer from ``least`` to ``most``; required without a ``default``."""
        value = self._values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise CallError("invalid", f"{key} must be a number from {least} to {most}")
        return value

    def has(self, key: str) -> bool:
        """Whether the parameter is there and not null."""
        return self._values.get(key) is not None

    def map(self, key: str) -> dict[str, Value]:
        """A map; empty when it is not there."""
        value = self._values.get(key, {})
        if not isinstance(value, dict):
            raise CallError("invalid", f"{key} must be a map")
        return value

    def list(self, key: str) -> list[Value]:
        """An array; empty when it is not there."""
        value = self._values.get(key, [])
        if not isinstance(value, list):
            raise CallError("invalid", f"{key} must be an array")
        return value
