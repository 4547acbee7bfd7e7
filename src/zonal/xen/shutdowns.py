"""The ends of domains, told to all who wait for one by a watch that they share.

The store says that some domain has ended, and not which. If each of a thousand watched and looked for itself, one end
would be a thousand events and a thousand hypercalls; so one looks for all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from zonal.xen import domctl
from zonal.xen.abi.domctl import SHUTDOWN_POWEROFF, XEN_DOMINF_DYING
from zonal.xen.hypercall import Hypervisor
from zonal.xen.store import Store


class Shutdowns:
    """Made by ``open_shutdowns``."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor
        self._waiting: dict[int, set[asyncio.Future[int]]] = {}
        self._failure: Exception | None = None

    async def wait(self, domain_id: int) -> int:
        """Until a domain has shut itself down or is gone: ``SHUTDOWN_*`` of ``public/sched.h``, 0 for one that is gone.

        Raises ``StoreClosedError`` when the store cannot tell any more.
        """
        if self._failure is not None:
            raise self._failure
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(domain_id, set()).add(future)
        try:
            # After it is known that we wait: of an end from here on the watch tells.
            info = domctl.domain_info(self._hypervisor, domain_id)
            reason = ended(info.flags if info else None)
            return await future if reason is None else reason
        finally:
            waiting = self._waiting[domain_id]
            waiting.discard(future)
            if not waiting:
                del self._waiting[domain_id]

    async def look(self) -> None:
        """Some domain may have ended: tells those who wait for it."""
        # Those that are waited for now were there before the list is made.
        waited = list(self._waiting)
        found = await asyncio.to_thread(domctl.domain_flags, self._hypervisor)
        for domain_id in waited:
            reason = ended(found.get(domain_id))
            if reason is not None:
                for future in self._waiting.get(domain_id, ()):
                    if not future.done():
                        future.set_result(reason)

    def fail(self, failure: Exception) -> None:
        """Nobody can be told any more."""
        self._failure = failure
        for future in [future for waiting in self._waiting.values() for future in waiting]:
            if not future.done():
                future.set_exception(failure)


def ended(flags: int | None) -> int | None:
    """Why a domain with these flags has ended, or one that is not there; ``None`` for one that has not."""
    if flags is None or flags & XEN_DOMINF_DYING:
        return SHUTDOWN_POWEROFF
    return domctl.shutdown_reason(flags)


@asynccontextmanager
async def open_shutdowns(hypervisor: Hypervisor, store: Store) -> AsyncGenerator[Shutdowns]:
    """Tells of ends for as long as the block lasts. Raises ``StoreError``."""
    shutdowns = Shutdowns(hypervisor)
    async with store.watch("@releaseDomain") as watch:

        async def look() -> None:
            try:
                async for _ in watch:
                    await shutdowns.look()
            except Exception as error:
                shutdowns.fail(error)

        looking = asyncio.ensure_future(look())
        try:
            yield shutdowns
        finally:
            looking.cancel()
            await asyncio.wait([looking])
