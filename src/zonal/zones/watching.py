"""A block that runs only as long as nothing is wrong with what it stands on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Never, cast


@asynccontextmanager
async def while_watching(watcher: Coroutine[None, None, Never]) -> AsyncGenerator[None]:
    """Runs the block beside a watcher, which returns only by raising: then the block is cancelled, and that raised."""
    try:
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watcher)
            yield
            watching.cancel()
    except BaseExceptionGroup as failures:
        raise _first(failures) from None


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """What went wrong first; a block may have had groups of its own."""
    first = failures.exceptions[0]
    return _first(cast("BaseExceptionGroup[BaseException]", first)) if isinstance(first, BaseExceptionGroup) else first
