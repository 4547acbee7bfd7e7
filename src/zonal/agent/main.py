"""PID 1 of a zone: mounts, meets the host, serves it, and powers off at the end."""

from __future__ import annotations

import sys
import time

STARTED_NS = time.clock_gettime_ns(time.CLOCK_BOOTTIME)

import os  # noqa: E402  (the time before the imports is part of what is measured)

from zonal.agent import mounts, shutdown  # noqa: E402
from zonal.agent.agent import Agent  # noqa: E402
from zonal.agent.channel import Channel  # noqa: E402
from zonal.agent.configuration import raise_loopback  # noqa: E402
from zonal.agent.link import Link  # noqa: E402
from zonal.agent.loop import READ, Loop  # noqa: E402
from zonal.agent.processes import Reaper  # noqa: E402
from zonal.agent.store import Store  # noqa: E402

_EPOCH = "zonal/host"
"""The host writes a new value there when it wants a fresh channel."""


def main() -> None:
    """Does not return. A fault of ours ends PID 1, and with it the kernel, with the traceback on the console."""
    if os.getpid() != 1:
        sys.exit("this program is PID 1 of a zone: anywhere else it would take the machine over, and switch it off")
    try:
        serve()
        shutdown.power_off()
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        sys.stderr.flush()
    os._exit(1)


def serve() -> None:
    """Until the host has asked for the end and the workloads have come to theirs."""
    steps = {"imported": time.clock_gettime_ns(time.CLOCK_BOOTTIME)}
    mounts.mount_zone()
    steps["mounted"] = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    raise_loopback()
    steps["loopback up"] = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    loop = Loop()
    agent = Agent(loop, Reaper(loop), STARTED_NS, steps)
    Meeting(loop, agent, Store())
    loop.run()


class Meeting:
    """Keeps one link to the host: a fresh channel for every epoch that the host names."""

    def __init__(self, loop: Loop, agent: Agent, store: Store) -> None:
        self._loop = loop
        self._agent = agent
        self._store = store
        self._epoch = store.read(_EPOCH) or ""
        self._link = Link(loop, Channel(store, self._epoch), agent)
        store.watch(_EPOCH)
        self._check()
        loop.watch(store.fileno(), READ, self._on_store)

    def _on_store(self, _events: int) -> None:
        self._store.receive_event()
        self._check()

    def _check(self) -> None:
        # A watch may fire during any of these requests, and then nothing more comes from the descriptor.
        while self._store.take_events():
            epoch = self._store.read(_EPOCH) or ""
            if epoch != self._epoch:
                self._epoch = epoch
                self._link.close("the host wants a new one")
                self._link = Link(self._loop, Channel(self._store, epoch), self._agent)


if __name__ == "__main__":
    main()
