"""Watches the zone's memory for the host, which may give more: tells how much is left, and holds the workloads back.

Below the end of what the zone has, at a distance, is the workloads' ``memory.high``. Who allocates beyond that is
made to give back cache and then to wait, some ms at a time, rather than killed (Linux, cgroup-v2.rst); and the kernel
tells us at once. As memory arrives that mark goes up. Where no more is to be had there is none, and the kernel kills
as ever.
"""

from __future__ import annotations

import os
import time

from zonal.agent.log import INFO, log
from zonal.agent.loop import URGENT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zonal.agent.loop import Loop

CGROUP = "/sys/fs/cgroup/zonal"
"""All containers are below it."""
BALLOON = "/sys/devices/system/xen_memory/xen_memory0"

_MIB = 1 << 20
_KIB = 1024
_REPORT_SECONDS = 5.0
_SHORT_SECONDS = 0.5
"""Between reports while little is left and more was not to be had."""
_ARRIVAL_SECONDS = 0.02
"""Between looks at memory that is on its way."""
_STUCK_SECONDS = 2.0
"""Without any arriving, after which it is not waited for."""
_REST_SECONDS, _MOST_REST_SECONDS = 0.05, 0.4
"""For which the kernel is not listened to once it has told something: cache that comes and goes is to cost little."""
_PATIENCE_SECONDS = 3.0
"""For an answer, after which the workloads are held back no longer."""


class MemoryWatch:
    """``report(available, stalled_ns, pressed)`` says whether anybody was there to hear it."""

    def __init__(
        self,
        loop: Loop,
        report: Callable[[int, int, bool], bool],
        *,
        cgroup: str = CGROUP,
        balloon: str = BALLOON,
    ) -> None:
        self._loop = loop
        self._report = report
        self._cgroup = cgroup
        self._balloon = balloon
        self._target = 0
        self._more = False
        self._opened = False
        self._events = -1
        """Descriptor of memory.events, or -1."""
        self._high = ""
        """As last written."""
        self._rest = _REST_SECONDS
        self._timer = 0
        self._waiting_since = 0.0
        """When an answer was asked for that has not come; 0 for none."""
        self._reported = 0.0
        self._arrived = (0, 0.0)
        """How much there was when some last arrived, and when."""

    def set(self, target: int, *, more: bool) -> None:
        """The host's word: the zone is to have ``target`` bytes, and whether it may have ``more``."""
        if target > self._target:
            self._arrived = (0, time.monotonic())
            self._rest = _REST_SECONDS
        self._target, self._more = target, more
        self._waiting_since = 0.0
        if not self._opened:
            self._opened = True
            self._open()
        self._look()

    def stop(self) -> None:
        """Nothing is to be watched any more."""
        self._loop.cancel(self._timer)
        self._set_high("max")
        if self._events >= 0:
            self._loop.unwatch(self._events)
            os.close(self._events)
            self._events = -1

    def lost(self) -> None:
        """The host has gone: nobody is held back for an answer that does not come."""
        self._more = False
        self._set_high("max")

    def _open(self) -> None:
        try:
            os.makedirs(self._cgroup, exist_ok=True)
            self._events = os.open(f"{self._cgroup}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
            self._listen()
        except OSError as error:
            if self._events >= 0:
                os.close(self._events)
                self._events = -1
            # A kernel without the memory controller: then only looking helps, more often.
            log(INFO, f"workloads are not held back for memory: {error}")

    def _listen(self) -> None:
        if self._events >= 0:
            os.pread(self._events, 4096, 0)  # what has been is no news
            self._loop.watch(self._events, URGENT, self._on_event)

    def _on_event(self, _events: int) -> None:
        self._loop.unwatch(self._events)
        self._loop.after(self._rest, self._listen)
        self._rest = min(2 * self._rest, _MOST_REST_SECONDS)
        self._look(pressed=True)

    def _look(self, *, pressed: bool = False) -> None:
        self._loop.cancel(self._timer)
        now = time.monotonic()
        held, available = self._held(), read_available()
        if self._waiting_since and now - self._waiting_since > _PATIENCE_SECONDS:
            self.lost()
        coming = held < self._target - _MIB
        growing = coming and self._arrives(held, now)
        guard = guard_of(held)
        # Without the controller there is no event, and so we look often and ask when it is time.
        pressed = pressed or (self._events < 0 and self._more and available < 2 * guard)
        if coming and not growing:
            self._set_high("max")  # whatever is the matter, waiting does not help
        else:
            self._mark(available, guard)
        short = available < 2 * guard
        period = _SHORT_SECONDS if short else _REPORT_SECONDS
        if (pressed and self._more) or now - self._reported >= period:
            self._reported = now
            heard = self._report(available, read_stalled(), pressed and self._more)
            if pressed and self._more:
                if not heard:
                    self.lost()
                elif not self._waiting_since:
                    self._waiting_since = now
        if growing:
            period = _ARRIVAL_SECONDS
        elif self._events < 0 and self._more:
            period = _REST_SECONDS
        elif self._waiting_since:
            period = min(period, _PATIENCE_SECONDS)
        self._timer = self._loop.after(period, self._look)

    def _arrives(self, held: int, now: float) -> bool:
        if held > self._arrived[0]:
            self._arrived = (held, now)
        return now - self._arrived[1] < _STUCK_SECONDS

    def _mark(self, available: int, guard: int) -> None:
        """Sets how far the workloads may go."""
        if not self._more or self._events < 0:
            self._set_high("max")
            return
        try:
            used, cache = self._used()
        except OSError:
            return
        # Their cache is among what is available, and among what they use.
        wanted = max(_MIB, used - cache + available - guard)
        if wanted < used:
            # A mark below what is in use would have us look for what to give back, and wait for it.
            wanted = min(used, int(self._high) if self._high.isdecimal() else used)
        self._set_high(str(wanted))

    def _set_high(self, value: str) -> None:
        if value == self._high or self._events < 0:
            return
        try:
            with open(f"{self._cgroup}/memory.high", "w") as file:
                file.write(value)
            self._high = value
        except OSError as error:
            log(INFO, f"memory.high cannot be {value}: {error}")

    def _held(self) -> int:
        """Bytes that the zone has, as its balloon driver counts."""
        try:
            with open(f"{self._balloon}/info/current_kb") as file:
                return int(file.read()) * _KIB
        except OSError:  # no balloon driver: then nothing ever arrives
            return 0

    def _used(self) -> tuple[int, int]:
        """Bytes that the containers use, and how many of them are cache of files."""
        with open(f"{self._cgroup}/memory.current") as file:
            used = int(file.read())
        cache = 0
        with open(f"{self._cgroup}/memory.stat") as file:
            for line in file:
                if line.startswith(("inactive_file ", "active_file ")):
                    cache += int(line.split()[1])
        return used, min(cache, used)


def guard_of(held: int) -> int:
    """Bytes before the end at which workloads are held back."""
    return min(max(16 * _MIB, held // 16), 256 * _MIB)


def read_available() -> int:
    """Bytes that the zone's kernel could still give out."""
    with open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * _KIB
    return 0


def read_stalled() -> int:
    """For how many ns any task has waited for memory so far; 0 where the kernel does not say."""
    try:
        with open("/proc/pressure/memory") as file:
            text = file.readline()  # some avg10=… avg60=… avg300=… total=µs
        return int(text.rpartition("total=")[2]) * 1000
    except (OSError, ValueError):
        return 0
