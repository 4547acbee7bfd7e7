"""The calls on the machine: what it is, what its hypervisor has said, what is wrong with it."""

from __future__ import annotations

import asyncio
import platform
from pathlib import Path

from zonal.api import control_pb2 as pb
from zonal.daemon.rpc import Context
from zonal.daemon.services import HostService

LOOK_INTERVAL = 0.5
"""Seconds between looks at the hypervisor's console. It has an event for that, VIRQ_CON_RING, which only one program of
a host can have, and that is xenconsoled where it keeps the hypervisor's log."""


class HostCalls:
    """See the module."""

    def __init__(self, host: HostService) -> None:
        self._host = host

    async def details(self, _request: pb.HostDetailsRequest, _context: Context) -> pb.HostDetailsReply:
        """The machine."""
        machine = self._host.machine()
        return pb.HostDetailsReply(
            xen_version=machine.version,
            xen_capabilities=machine.capabilities,
            xen_command_line=machine.command_line,
            scheduler=machine.scheduler,
            features=machine.features,
            zone_kinds=machine.kinds,
            cpus=machine.cpus,
            threads_per_core=machine.threads_per_core,
            cores_per_socket=machine.cores_per_socket,
            nodes=machine.nodes,
            cpu_khz=machine.cpu_khz,
            cpu_model=_cpu_model(),
            memory_bytes=machine.memory,
            free_bytes=machine.free,
            scrubbing_bytes=machine.scrubbing,
            host_kernel=platform.release(),
            host_name=platform.node(),
        )

    async def log(self, request: pb.HypervisorLogRequest, context: Context) -> None:
        """All that there is, and with ``follow`` what comes."""
        index: int | None = None
        while True:
            part = self._host.log(index=index, clear=request.clear)
            index = part.next_index
            if part.data:
                await context.write(pb.OutputChunk(stdout=part.data))
            elif not request.follow:
                return
            else:
                await asyncio.sleep(LOOK_INTERVAL)

    async def examine(self, _request: pb.CheckHostRequest, _context: Context) -> pb.CheckHostReply:
        """What is wrong with it."""
        found = await self._host.examine()
        return pb.CheckHostReply(
            findings=[
                pb.HostFinding(check=each.check, level=each.level.value, text=each.text, advice=each.advice)
                for each in found
            ]
        )


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return ""
