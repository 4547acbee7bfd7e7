"""The sizes that a client's terminal takes on, out of its resize stream."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import cast

MAX_PENDING = 4096
"""Bytes that may wait for the end of their document."""
_decoder = json.JSONDecoder()


async def sizes(data: AsyncIterator[bytes]) -> AsyncIterator[tuple[int, int]]:
    """Columns and rows; of several that came at once, the last.

    The stream is JSON documents, one after another: ``{"Width": 80, "Height": 24}``. It ends with what is none.
    """
    pending = ""
    async for chunk in data:
        pending += chunk.decode("utf-8", "replace")
        latest: tuple[int, int] | None = None
        while pending := pending.lstrip():
            try:
                document, end = _decoder.raw_decode(pending)
            except (ValueError, RecursionError):
                break
            pending = pending[end:]
            latest = _size(document) or latest
        if latest is not None:
            yield latest
        if len(pending) > MAX_PENDING:
            return


async def no_sizes() -> AsyncIterator[tuple[int, int]]:
    """Those of a client that is no terminal."""
    for size in ():
        yield size


def _size(document: object) -> tuple[int, int] | None:
    if not isinstance(document, dict):
        return None
    fields = cast("dict[str, object]", document)
    columns, rows = fields.get("Width"), fields.get("Height")
    if isinstance(columns, int) and isinstance(rows, int) and 0 < columns < 1 << 16 and 0 < rows < 1 << 16:
        return columns, rows
    return None
