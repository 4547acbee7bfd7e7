"""A lab that runs: waiting until it is ready, saving it, ending it."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import time
from collections.abc import Awaitable
from dataclasses import replace
from typing import TypeVar, cast

from qemu.qmp import EventListener, QMPClient

from zonal.errors import DeadlineError, ResourceExhaustedError, UnavailableError
from zonal.lab.access import answer, endpoint
from zonal.lab.monitor import DISK_NODES, delete_snapshot, guest_agent, monitor, save_snapshot, status
from zonal.lab.paths import GIB, LabPaths, free_bytes
from zonal.lab.qemu import ALARM, NO_SPACE, HostCrashedError, console_tail, is_running, why_it_ended
from zonal.lab.state import LabState, Run, Snapshot, save

T = TypeVar("T")

_BOOT_SECONDS = 300
_RESUME_SECONDS = 60
_SYNC_SECONDS = 120
_POWER_OFF_SECONDS = 90
_EXIT_SECONDS = 20
_ENOUGH_SPACE = GIB // 4


async def until_ready(paths: LabPaths, run: Run, *, resumed: bool) -> None:
    """Returns once zonald answers, with the lab's clock set when it had stood still.

    Raises `UnavailableError` as soon as QEMU ends, or when zonald does not answer in time.
    """
    seconds = _RESUME_SECONDS if resumed else _BOOT_SECONDS
    try:
        async with monitor(paths, seconds) as client:
            alarms = EventListener("VSERPORT_CHANGE", lambda event: _is_alarm(event["data"]))
            with client.listen(alarms):
                await _while_alive(client, paths, _ready(paths, run, alarms, seconds, resumed=resumed))
    except HostCrashedError:
        raise
    except (UnavailableError, DeadlineError) as error:
        if not is_running(paths):
            raise why_it_ended(paths) from error
        raise UnavailableError(
            f"{error.message}; the end of its console is\n{console_tail(paths)}",
            hint=f"zonal lab logs --name {paths.name}",
        ) from error


async def take_snapshot(paths: LabPaths, state: LabState, run: Run) -> LabState:
    """Saves the running lab and notes that; the snapshot before it goes only after that.

    For a lab that QEMU cannot save, only the disks are brought up to date.
    """
    async with monitor(paths) as client:
        if await status(client) == NO_SPACE:
            raise _no_space(paths)
        await _while_alive(client, paths, _sync(paths))
        if not state.spec.snapshotable:
            return state
        taken = Snapshot(f"zonal-{time.time_ns()}", run.machine, run.source, time.time())
        await save_snapshot(client, paths, taken.tag)
        state = replace(state, snapshot=taken, run=run)
        save(paths, state)
        for node, tag in await _tags(client):
            if tag != taken.tag:
                await delete_snapshot(client, tag, [node])
    return state


async def _sync(paths: LabPaths) -> None:
    try:
        async with asyncio.timeout(_SYNC_SECONDS), guest_agent(paths) as agent:
            # What still starts beside zonald would start again at each resume.
            await agent.run("sh", "-c", "systemctl start zonal-command.service; sync")
    except TimeoutError as error:
        raise DeadlineError(
            f"the host in the lab {paths.name} does not answer",
            hint=f"zonal lab down --force --name {paths.name} goes back to its last snapshot",
        ) from error


async def power_off(paths: LabPaths) -> None:
    """Has the lab's systemd end everything in order; returns when QEMU has ended, or has had long enough."""
    try:
        async with asyncio.timeout(_POWER_OFF_SECONDS), monitor(paths) as client:
            async with guest_agent(paths) as agent:
                agent.tell("guest-shutdown", {"mode": "powerdown"})
            await client.runstate_changed()
    except (TimeoutError, UnavailableError):
        # The caller ends QEMU in any case.
        return


async def make_go_on(paths: LabPaths, run: Run) -> None:
    """Lets a lab go on that stopped because there was no space to write; raises while there still is none."""
    async with monitor(paths) as client:
        if await status(client) != NO_SPACE:
            return
        if free_bytes(paths.folder) < _ENOUGH_SPACE:
            raise _no_space(paths)
        await client.execute("cont")
    # Its clock has stood still, and zonald may have connections to see to that timed out meanwhile.
    await _set_clock(paths, _SYNC_SECONDS)
    await answer(endpoint(paths, run.zonald_port), _SYNC_SECONDS)


def kill(paths: LabPaths) -> None:
    """Ends the lab's QEMU at once, if there is one, and returns when it has ended."""
    if not is_running(paths):
        return
    try:
        # The lock shows that QEMU lives, and QEMU writes its id before it does anything that takes time.
        process = os.pidfd_open(int(paths.qemu_pid.read_text()))
    except (FileNotFoundError, ValueError, ProcessLookupError) as error:
        # QEMU removes the file when it ends, and its lock goes when it has ended; nothing tells of that moment.
        deadline = time.monotonic() + _EXIT_SECONDS
        while time.monotonic() < deadline:
            if not is_running(paths):
                return
            time.sleep(0.02)
        raise UnavailableError(
            f"QEMU of the lab {paths.name} runs, but does not say under which process id",
            hint=f"end the process qemu-system-x86_64 that has {paths.folder} as its folder",
        ) from error
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            signal.pidfd_send_signal(process, number)
            if select.select([process], [], [], _EXIT_SECONDS)[0]:
                return
    except ProcessLookupError:
        return
    finally:
        os.close(process)


async def _ready(paths: LabPaths, run: Run, alarms: EventListener, seconds: float, *, resumed: bool) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            alarm = group.create_task(_fail_at(alarms))
            if resumed:
                # A lab is saved only while zonald answers; so what is left to see is that its host goes on.
                await _set_clock(paths, seconds)
            else:
                await answer(endpoint(paths, run.zonald_port), seconds)
            alarm.cancel()
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors


async def _fail_at(alarms: EventListener) -> None:
    await alarms.get()
    raise UnavailableError("zonald in the lab has failed")


def _is_alarm(data: object) -> bool:
    fields = cast("dict[str, object]", data)
    return fields.get("id") == ALARM and fields.get("open") is True


async def _set_clock(paths: LabPaths, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds), guest_agent(paths) as agent:
            await agent.set_clock()
    except TimeoutError as error:
        raise DeadlineError(f"the host in the lab {paths.name} does not answer within {seconds:g} s") from error


async def _while_alive(client: QMPClient, paths: LabPaths, work: Awaitable[T]) -> T:
    """The result of ``work``; raises as soon as QEMU ends or stops the machine for want of space."""
    errors = EventListener("BLOCK_IO_ERROR")
    with client.listen(errors):
        working = asyncio.ensure_future(work)
        ended = asyncio.ensure_future(client.runstate_changed())
        failed = asyncio.ensure_future(errors.get())
        tasks = (working, ended, failed)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            if ended.done():
                raise why_it_ended(paths)
            raise _no_space(paths)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _tags(client: QMPClient) -> list[tuple[str, str]]:
    """The snapshots in the lab's disks, as pairs of disk and tag."""
    nodes = cast("list[dict[str, object]]", await client.execute("query-named-block-nodes", {"flat": True}))
    found: list[tuple[str, str]] = []
    for node in nodes:
        if node["node-name"] in DISK_NODES:
            image = cast("dict[str, object]", node["image"])
            snapshots = cast("list[dict[str, object]]", image.get("snapshots", []))
            found += [(str(node["node-name"]), str(snapshot["name"])) for snapshot in snapshots]
    return found


def _no_space(paths: LabPaths) -> ResourceExhaustedError:
    return ResourceExhaustedError(
        f"the lab {paths.name} stands still: it cannot write to its disk, with "
        f"{free_bytes(paths.folder) / GIB:.2f} GiB free in {paths.folder}",
        hint=f"free some space and try again, or go back to its last snapshot: zonal lab down --force "
        f"--name {paths.name}",
    )
