"""A lab's life: made, booted, saved, resumed, refreshed, put to sleep, destroyed.

Every function here holds the lab's lock while it works. What a lab is made of and which snapshot counts is in its state
file; whether it runs, only QEMU's lock tells. So whatever was interrupted, by kill -9 or a full disk, the next command
sees where things stand, and goes on from the last snapshot or from the disks.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from zonal.errors import NotFoundError, UnavailableError, WrongStateError
from zonal.lab import qemu
from zonal.lab.access import Endpoint, endpoint, run_in_lab, zones_alive
from zonal.lab.disk import BaseDisk, base_disk
from zonal.lab.making import create, flush, make_ahci_disk, make_nvme_disk, make_root_disk, mend, prune, write_initrd
from zonal.lab.paths import GIB, LabPaths, cache, check_space, locked
from zonal.lab.ports import living_ports, restore
from zonal.lab.progress import Progress
from zonal.lab.recipe import SOURCE, recipe
from zonal.lab.running import kill, make_go_on, power_off, take_snapshot, until_ready
from zonal.lab.source import Source
from zonal.lab.spec import Spec, Wanted, resolve
from zonal.lab.state import LabState, Run, load, save

_PORT_ATTEMPTS = 5
_LIST_SECONDS = 60

# What was compiled of files that stay the same is kept: compiling takes long under emulation.
_REFRESH = f"""set -e; cd {SOURCE}/..
rm -rf new old; mkdir new; tar -x -C new
# What is compiled stays; a process that compiles meanwhile has temporary files there, which come and go.
(cd src && find . -name '*.pyc' | tar -c --ignore-failed-read -T -) | tar -x -C new
mv src old; mv new src; rm -rf old
systemctl restart zonald.service || {{ journalctl --unit zonald.service --lines 15 --output cat >&2; exit 1; }}
"""


def up(name: str, wanted: Wanted, source: Source, progress: Progress, *, boot: bool = False) -> Endpoint:
    """Brings the lab up, whatever state it is in, with ``source`` in it; ``boot`` leaves a snapshot unused.

    Raises `ZonalError`: no rights, no space, no QEMU, a value that cannot work, a host that does not start.
    """
    paths = cache().lab(name)
    with _locked(paths, progress):
        state, spec = _inspect(paths, wanted, progress)
        if state is None or not qemu.is_running(paths):
            state = _start(paths, spec, state, source, progress, boot=boot)
        elif boot:
            raise WrongStateError(f"the lab {name} is running", hint=f"zonal lab down --name {name}")
        state = _finish(paths, state, source, progress)
        return endpoint(paths, _run_of(state).zonald_port)


def down(name: str, progress: Progress, *, force: bool = False) -> bool:
    """Puts the lab to sleep as it is; false when it was down already. ``force`` pulls its plug instead.

    A lab that cannot be saved, because of its devices or since zonald never answered, is powered off in order.
    """
    paths = cache().lab(name)
    with _locked(paths, progress):
        state = load(paths)
        if not qemu.is_running(paths):
            if state is None:
                raise NotFoundError(f"there is no lab {name}", hint=f"zonal lab up --name {name} makes it")
            return False
        if force or state is None or state.run is None:
            kill(paths)
        elif state.spec.snapshotable and state.run.ready:
            with progress.step(f"Saving the lab {name}"):
                state = asyncio.run(take_snapshot(paths, state, state.run))
                kill(paths)
                flush(paths)
            save(paths, replace(state, run=None))
        else:
            with progress.step(f"Powering off the lab {name}"):
                asyncio.run(power_off(paths))
                kill(paths)
                flush(paths)
            save(paths, replace(state, run=None))
        return True


def destroy(name: str, progress: Progress, *, disks: bool = False) -> bool:
    """Removes the lab and all that is in it; false when there was none. ``disks``: base disks that no lab uses, too."""
    paths = cache().lab(name)
    with _locked(paths, progress):
        existed = paths.folder.exists()
        if existed:
            with progress.step(f"Destroying the lab {name}"):
                kill(paths)
                paths.state.unlink(missing_ok=True)
                shutil.rmtree(paths.folder)
    if disks:
        prune(cache())
    return existed


def checkpoint(name: str, progress: Progress) -> None:
    """Saves the running lab, so that what is in it now survives even a kill -9 of QEMU.

    For a lab that QEMU cannot save, what is in the lab's memory is written to its disks instead. A lab that is down is
    saved already.
    """
    paths = cache().lab(name)
    with _locked(paths, progress):
        state = load(paths)
        if state is None or state.run is None or not state.run.ready or not qemu.is_running(paths):
            return
        with progress.step(f"Saving the lab {name}"):
            asyncio.run(take_snapshot(paths, state, state.run))


def _inspect(paths: LabPaths, wanted: Wanted, progress: Progress) -> tuple[LabState | None, Spec]:
    """What there is of the lab, after clearing away what cannot be used, and what it shall be made of."""
    state = load(paths)
    if state is None:
        if paths.folder.exists():
            progress.note(f"The lab {paths.name} is only half there; it is made anew.")
            kill(paths)
            shutil.rmtree(paths.folder)
        return None, resolve(wanted, None)
    spec = resolve(wanted, state.spec)
    if not qemu.is_running(paths):
        return state, spec
    if spec != state.spec:
        raise WrongStateError(
            f"the lab {paths.name} is running, and cannot be changed now",
            hint=f"zonal lab down --name {paths.name}, then up with the new options",
        )
    if state.run is None or not state.run.ready:
        progress.note(f"The lab {paths.name} was left while it started; it is started anew.")
        kill(paths)
        return state, spec
    asyncio.run(make_go_on(paths, state.run))
    if recipe(spec.packages).digest != state.recipe:
        with progress.step("Powering off the lab, whose recipe has changed"):
            asyncio.run(power_off(paths))
            kill(paths)
    return state, spec


def _start(
    paths: LabPaths, spec: Spec, state: LabState | None, source: Source, progress: Progress, *, boot: bool
) -> LabState:
    """Starts QEMU on the lab's disks, made or made anew where needed; ready when it returns."""
    qemu.version()
    wanted = recipe(spec.packages)
    with base_disk(cache(), wanted, progress) as base:
        if state is None:
            state = create(paths, spec, wanted.digest, base)
        elif (state.recipe, state.base) != (wanted.digest, base.identity):
            progress.note(
                f"The base disk of the lab {paths.name} is a new one: its images stay, all else is made anew."
            )
            make_root_disk(paths, base)
            state = replace(state, spec=spec, recipe=wanted.digest, base=base.identity, snapshot=None)
            save(paths, state)
            prune(cache())
        elif state.run is not None:
            mend(paths)
    if "nvme" in spec.devices:
        make_nvme_disk(paths)
    if "ahci" in spec.devices:
        make_ahci_disk(paths)
    machine = qemu.machine(spec, base)
    state = replace(state, spec=spec)
    snapshot = state.snapshot
    if snapshot and not boot and spec.snapshotable and snapshot.machine == machine.digest:
        try:
            with progress.step(f"Resuming the lab {paths.name}"):
                return _launch(paths, state, base, machine, snapshot.source, snapshot.tag)
        except UnavailableError as error:
            progress.note(f"The lab's snapshot cannot be resumed; it is booted instead. {error.message}")
    check_space(paths.folder, GIB, f"the lab {paths.name}")
    write_initrd(paths, base, source)
    state = replace(state, snapshot=None)
    title = f"Booting the lab {paths.name} ({machine.accelerator.upper()})"
    try:
        with progress.step(title):
            return _launch(paths, state, base, machine, source.digest, None)
    except qemu.HostCrashedError as error:
        # Under emulation a kernel has been seen to crash in its first seconds that boots well the next time.
        kept = paths.console.with_suffix(".crashed")
        paths.console.replace(kept)
        progress.note(f"{error.message.splitlines()[0][:-1]}; it is booted once more. Its last words are in {kept}.")
    with progress.step(title):
        return _launch(paths, state, base, machine, source.digest, None)


def _launch(
    paths: LabPaths, state: LabState, base: BaseDisk, machine: qemu.Machine, source: str, tag: str | None
) -> LabState:
    for attempt in range(_PORT_ATTEMPTS):
        ports = qemu.choose_ports()
        begun = Run(ports.zonald, ports.ssh, source, False, machine.digest, machine.accelerator)
        save(paths, replace(state, run=begun))
        process = qemu.start(paths, base, machine, ports, tag)
        try:
            asyncio.run(until_ready(paths, begun, resumed=tag is not None))
            asyncio.run(restore(paths, partial(_living, paths, begun) if tag is None else None))
        except qemu.PortTakenError:
            process.wait()
            if attempt + 1 == _PORT_ATTEMPTS:
                raise
            continue
        except BaseException:
            process.kill()
            process.wait()
            raise
        ready = replace(state, run=replace(begun, ready=True))
        save(paths, ready)
        return ready
    raise AssertionError("the loop returns or raises")


async def _living(paths: LabPaths, run: Run) -> set[tuple[str, int]]:
    return living_ports(await zones_alive(endpoint(paths, run.zonald_port), _LIST_SECONDS))


def _finish(paths: LabPaths, state: LabState, source: Source, progress: Progress) -> LabState:
    """Brings the running lab to ``source``, and sees that there is a snapshot of it."""
    now = _run_of(state)
    if now.source != source.digest:
        with progress.step("Refreshing Zonal in the lab"):
            run_in_lab(paths, now.ssh_port, _REFRESH, source.tar())
            asyncio.run(until_ready(paths, now, resumed=False))
            state = replace(state, run=replace(now, source=source.digest))
            save(paths, state)
    now = _run_of(state)
    saved = state.snapshot
    if state.spec.snapshotable and not (saved and saved.machine == now.machine and saved.source == now.source):
        with progress.step("Saving the lab, to resume from later"):
            state = asyncio.run(take_snapshot(paths, state, now))
    return state


def _run_of(state: LabState) -> Run:
    if state.run is None:
        raise AssertionError("a lab was taken for running that has no run")
    return state.run


@contextmanager
def _locked(paths: LabPaths, progress: Progress) -> Generator[None]:
    with locked(paths.lock, progress, f"Waiting for another command that works on the lab {paths.name}"):
        yield
