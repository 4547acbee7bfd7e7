"""The zone's end, in order: workloads are asked, then killed; file systems are written back; the power goes off."""

from __future__ import annotations

import os

from zonal.agent import mounts, syscalls
from zonal.agent.processes import SIGKILL, SIGTERM, kill_all, send_signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zonal.agent.loop import Loop
    from zonal.agent.workloads import Workload

_AFTER_KILL_SECONDS = 5.0


class Shutdown:
    """Ends the loop when no workload runs any more, or when the last one has had its time."""

    def __init__(self, loop: Loop, workloads: Callable[[], list[Workload]], grace_seconds: float) -> None:
        self._loop = loop
        self._workloads = workloads
        for workload in workloads():
            if workload.pid:
                send_signal(workload.pid, SIGTERM)
        self._timer = loop.after(grace_seconds, self._kill)
        self.check()

    def check(self) -> None:
        """To be called whenever a workload has ended."""
        if not any(workload.state in ("starting", "running") for workload in self._workloads()):
            self._loop.cancel(self._timer)
            self._loop.soon(self._loop.stop)

    def _kill(self) -> None:
        for workload in self._workloads():
            if workload.pid:
                send_signal(workload.pid, SIGKILL)
        self._timer = self._loop.after(_AFTER_KILL_SECONDS, self._loop.stop)


def power_off() -> None:
    """Kills what is left, writes back, unmounts, and does not return."""
    kill_all()
    os.sync()
    mounts.unmount_all()
    os.sync()
    syscalls.reboot(syscalls.RB_POWER_OFF)
