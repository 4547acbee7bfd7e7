"""``zonal lab``: the Xen host in QEMU that Zonal makes for itself where Xen does not run."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import click

from zonal.cli.format import parse_size, show_fields, show_size, show_table
from zonal.errors import NotFoundError, UnavailableError

if TYPE_CHECKING:
    from zonal.lab.paths import LabPaths
    from zonal.lab.status import Status

_DEVICES = ("intel-iommu", "e1000e", "ahci", "nvme", "bochs-display")
_HEADER = ("NAME", "STATE", "MEMORY", "CPUS", "DEVICES", "ON DISK")
_NONE = "none"
_SSH_FAILED = 255

name_option = click.option("--name", envvar="ZONAL_LAB", default="default", show_default=True, help="Which lab.")


@click.group()
def lab() -> None:
    """A Xen host in QEMU: made by the first command that needs it, then resumed in about a second."""


@lab.command("up")
@name_option
@click.option("-m", "--memory", metavar="SIZE", help="Such as 8G. A new lab gets 4 GiB.")
@click.option("--cpus", type=int, metavar="N", help="A new lab gets this machine's, up to 4.")
@click.option("--device", "devices", multiple=True, type=click.Choice((*_DEVICES, _NONE)), help="Repeatable.")
@click.option("--devices", "all_devices", is_flag=True, help="An IOMMU, and one of each kind that can be saved.")
@click.option("--package", "packages", multiple=True, metavar="NAME", help="A Debian package more; repeatable.")
@click.option("--boot", is_flag=True, help="Boot, though there is a snapshot to resume from.")
def up(
    name: str,
    memory: str | None,
    cpus: int | None,
    devices: tuple[str, ...],
    all_devices: bool,
    packages: tuple[str, ...],
    boot: bool,
) -> None:
    """Bring the lab up: make it, boot it or resume it, with this Zonal in it.

    What is not given stays as it was. "--device" and "--package" replace all that were given before; with "none",
    there are none.
    """
    from zonal.cli.progress import Terminal
    from zonal.lab import Wanted, check_name, ensure_up
    from zonal.lab.spec import ALL_SNAPSHOTABLE

    if all_devices:
        devices = (*(each for each in devices if each != _NONE), *ALL_SNAPSHOTABLE)
    wanted = Wanted(
        memory_bytes=parse_size(memory) if memory else None,
        cpus=cpus,
        devices=tuple(each for each in devices if each != _NONE) if devices else None,
        packages=tuple(each for each in packages if each != _NONE) if packages else None,
    )
    with Terminal() as progress:
        ensure_up(check_name(name), progress, wanted, boot=boot)


@lab.command("down")
@name_option
@click.option("-f", "--force", is_flag=True, help="Pull its plug: what is not saved is lost.")
def down(name: str, force: bool) -> None:
    """Put the lab to sleep as it is, zones and all."""
    from zonal.cli.progress import Terminal
    from zonal.lab import check_name
    from zonal.lab.lifecycle import down

    with Terminal() as progress:
        if not down(check_name(name), progress, force=force):
            progress.note(f"The lab {name} is down already.")


@lab.command("status")
@name_option
@click.option("-a", "--all", "all_labs", is_flag=True, help="All labs, a line each.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def status(name: str, all_labs: bool, as_json: bool) -> None:
    """Show how the lab stands."""
    from zonal.lab import check_name
    from zonal.lab.status import lab_names, status

    found = [status(each) for each in (lab_names() if all_labs else [check_name(name)])]
    if as_json:
        import json
        from dataclasses import asdict

        click.echo(json.dumps([asdict(each) for each in found] if all_labs else asdict(found[0]), indent=2))
    elif all_labs:
        click.echo(
            show_table(["NAME", "STATE", "MEMORY", "CPUS", "DEVICES", "ON DISK"], [_row(each) for each in found])
        )
    else:
        _describe(found[0])


@lab.command("shell", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@name_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[--] [COMMAND…]")
def shell(name: str, command: tuple[str, ...]) -> None:
    """Run a command in the lab as root, or a shell; brings the lab up first.

    One argument is a line for the lab's shell ('ls | wc'); several are a program and its arguments, each as it is.
    """
    import shlex

    from zonal.cli.progress import Terminal
    from zonal.lab import check_name, ensure_up
    from zonal.lab.access import ssh_command
    from zonal.lab.paths import cache

    with Terminal() as progress:
        ensure_up(check_name(name), progress)
    paths = cache().lab(name)
    line = [command[0] if len(command) == 1 else shlex.join(command)] if command else []
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    done = subprocess.run(ssh_command(paths, _ssh_port(paths), line, terminal=interactive), check=False)
    if done.returncode == _SSH_FAILED:
        raise UnavailableError(f"ssh to the lab {name} failed", hint=f"zonal lab logs --name {name}")
    raise click.exceptions.Exit(done.returncode if done.returncode >= 0 else 128 - done.returncode)


@lab.command("logs")
@name_option
@click.option("-n", "--lines", type=click.IntRange(1), default=100, show_default=True, help="Of each, the last.")
@click.option(
    "--of",
    "sources",
    multiple=True,
    type=click.Choice(["console", "qemu", "zonald"]),
    help="Only this; repeatable.",
)
def logs(name: str, lines: int, sources: tuple[str, ...]) -> None:
    """Show the serial console (Xen, the host's kernel, zonald), what QEMU said, and zonald's journal."""
    from zonal.lab import check_name
    from zonal.lab.access import run_in_lab
    from zonal.lab.paths import cache
    from zonal.lab.qemu import is_running

    paths = cache().lab(check_name(name))
    if not paths.folder.exists():
        raise NotFoundError(f"there is no lab {name}", hint=f"zonal lab up --name {name} makes it")
    for source in sources or ("console", "qemu", "zonald"):
        if len(sources) != 1:
            click.echo(f"==> {source} <==")
        if source == "zonald":
            if not is_running(paths):
                click.echo("(the lab is down; the end of the console shows what zonald said)")
                continue
            journal = f"journalctl --unit zonald.service --no-pager --lines {lines}"
            text = run_in_lab(paths, _ssh_port(paths), journal)
        else:
            path = paths.console if source == "console" else paths.qemu_log
            text = path.read_bytes() if path.exists() else b""
        shown = [_harmless(line) for line in text.decode(errors="replace").splitlines()]
        for line in shown[-lines:]:
            click.echo(line)


@lab.command("destroy")
@name_option
@click.option("--disks", is_flag=True, help="Base disks that no lab uses, too.")
def destroy(name: str, disks: bool) -> None:
    """Remove the lab and all that is in it."""
    from zonal.cli.progress import Terminal
    from zonal.lab import check_name
    from zonal.lab.lifecycle import destroy

    with Terminal() as progress:
        if not destroy(check_name(name), progress, disks=disks):
            progress.note(f"There is no lab {name}.")


def _ssh_port(paths: LabPaths) -> int:
    from zonal.lab.state import load

    state = load(paths)
    if state is None or state.run is None:
        raise UnavailableError(f"the lab {paths.name} is not up", hint=f"zonal lab up --name {paths.name}")
    return state.run.ssh_port


def _row(found: Status) -> list[str]:
    memory, cpus, devices = "", "", ""
    if found.spec:
        memory, cpus = show_size(found.spec.memory_bytes), str(found.spec.cpus)
        devices = ", ".join(found.spec.devices)
    return [found.name, found.condition, memory, cpus, devices, show_size(found.disk_bytes)]


def _describe(found: Status) -> None:
    lines = {"lab": found.name, "state": found.condition, "folder": found.folder}
    if found.spec:
        lines["memory"] = (
            f"{show_size(found.spec.memory_bytes)}, {show_size(found.spec.host_memory_bytes)} of it the host's"
        )
        lines["CPUs"] = str(found.spec.cpus)
        lines["devices"] = ", ".join(found.spec.devices) or "none besides the usual"
        lines["packages"] = ", ".join(found.spec.packages) or "none besides the usual"
        lines["on disk"] = show_size(found.disk_bytes)
    if found.qemu_pid:
        lines["QEMU"] = f"process {found.qemu_pid}, {(found.accelerator or '?').upper()}"
        lines["ports"] = f"zonald {found.zonald_port}, ssh {found.ssh_port} (127.0.0.1)"
    if found.zonald_version:
        lines["zonald"] = found.zonald_version
    if found.source_current is False:
        lines["source"] = "older than here; the next command refreshes it"
    if found.recipe_current is False:
        lines["recipe"] = "has changed; the next command makes the lab's system anew"
    click.echo(show_fields(lines))


def _harmless(line: str) -> str:
    return "".join(c if c.isprintable() or c == "\t" else "" for c in line)


if __name__ == "__main__":
    lab()
