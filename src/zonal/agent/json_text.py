"""Writes JSON, for crun's configuration files. (The standard library's json takes too long to import in the agent.)"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zonal.agent.protocol.cbor import Value

_ESCAPES: dict[int, str] = {code: f"\\u{code:04x}" for code in range(32)} | {0x22: '\\"', 0x5C: "\\\\"}


def to_json(value: Value) -> str:
    """``value`` as JSON (RFC 8259); raises ``ValueError`` for byte strings, which JSON does not have."""
    if value is None:
        return "null"
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value.translate(_ESCAPES)}"'
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return f"[{','.join(to_json(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{to_json(key)}:{to_json(item)}' for key, item in value.items())}}}"
    raise ValueError("byte strings have no place in JSON")
