"""``zonal host``: the machine, its hypervisor's console, and what is wrong with it."""

from __future__ import annotations

import sys
import textwrap
from typing import TYPE_CHECKING

import click

from zonal.cli.connect import DEFAULT_SOCKET, host_option, lab_option, socket_path, zonald
from zonal.cli.errors import printable
from zonal.cli.format import show_fields, show_size
from zonal.errors import AccessDeniedError, UnavailableError

if TYPE_CHECKING:
    from zonal.api import control_pb2 as pb

_WORDS = {"ok": "OK", "warning": "warning", "error": "error"}
_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}
_WIDTH = 100


@click.group("host")
def host_group() -> None:
    """The Xen host: what it is, what its hypervisor says, what is wrong with it."""


@host_group.command("info")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@host_option
@lab_option
def info(as_json: bool, host: str | None, lab: str | None) -> None:
    """Show the machine: Xen, memory, CPUs, and which kinds of zone it can run."""
    from zonal.api import control_pb2 as pb

    with zonald(host, lab) as control:
        found = control.call("HostDetails", pb.HostDetailsRequest(), pb.HostDetailsReply)
        about = control.call("Info", pb.InfoRequest(), pb.InfoReply)
    if as_json:
        from zonal.cli.documents import pretty

        document = {field.name: getattr(found, field.name) for field in found.DESCRIPTOR.fields}
        lists = {name: list(document[name]) for name in ("features", "zone_kinds")}
        click.echo(pretty({**document, **lists, "zonal_version": about.version}))
        return
    cpus = f"{found.cpus}, {found.cores_per_socket} cores a socket, {found.threads_per_core} threads a core"
    scrubbing = f", {show_size(found.scrubbing_bytes)} of it still to be cleared" if found.scrubbing_bytes else ""
    lines = {
        "host": f"{found.host_name}, Linux {found.host_kernel}",
        "Zonal": f"{about.version}, zonald has {show_size(about.resident_bytes)} resident",
        "Xen": f"{found.xen_version}, scheduler {found.scheduler}",
        "domains": found.xen_capabilities,
        "zones": _kinds(found),
        "features": " ".join(found.features),
        "CPUs": f"{cpus}, {found.nodes} {'node' if found.nodes == 1 else 'nodes'}",
        "processor": f"{found.cpu_model}, {found.cpu_khz / 1e6:.2f} GHz",
        "memory": f"{show_size(found.memory_bytes)}, {show_size(found.free_bytes)} free for zones{scrubbing}",
        "command line": found.xen_command_line or "(empty)",
    }
    click.echo(show_fields(lines))


@host_group.command("dmesg")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes.")
@click.option("-c", "--clear", is_flag=True, help="And have Xen forget what is shown.")
@host_option
@lab_option
def dmesg(follow: bool, clear: bool, host: str | None, lab: str | None) -> None:
    """Show the hypervisor's own console, as far as its ring still has it."""
    from zonal.api import control_pb2 as pb

    request = pb.HypervisorLogRequest(follow=follow, clear=clear)
    with zonald(host, lab) as control:
        for chunk in control.stream("HypervisorLog", request, pb.OutputChunk):
            # Guests can have lines written there.
            click.echo(printable(chunk.stdout.decode("utf-8", "backslashreplace").replace("\r", "")), nl=False)
            sys.stdout.flush()


@host_group.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@host_option
@lab_option
def doctor(as_json: bool, host: str | None, lab: str | None) -> int:
    """Look for what is wrong with the host, and say what to do; ends with 1 when something is.

    It works without zonald as well, on the host itself.
    """
    from zonal.api import control_pb2 as pb

    try:
        with zonald(host, lab) as control:
            findings = list(control.call("CheckHost", pb.CheckHostRequest(), pb.CheckHostReply).findings)
        findings.insert(0, pb.HostFinding(check="zonald", level="ok", text="it answers"))
    except (UnavailableError, AccessDeniedError) as error:
        if socket_path(host, lab) != DEFAULT_SOCKET:
            raise  # It is not this machine that is asked after.
        advice = error.hint or "journalctl -u zonald says why"
        findings = [pb.HostFinding(check="zonald", level="error", text=error.message, advice=advice), *_look_here()]
    bad = any(each.level == "error" for each in findings)
    if as_json:
        from zonal.cli.documents import pretty

        fields = ("check", "level", "text", "advice")
        click.echo(pretty([{name: getattr(each, name) for name in fields} for each in findings]))
    else:
        _show(findings)
    return 1 if bad else 0


def _look_here() -> list[pb.HostFinding]:
    """The same checks, in this process."""
    import asyncio

    from zonal.api import control_pb2 as pb
    from zonal.daemon.checks import examine

    found = asyncio.run(examine())
    return [
        pb.HostFinding(check=each.check, level=each.level.value, text=each.text, advice=each.advice) for each in found
    ]


def _show(findings: list[pb.HostFinding]) -> None:
    width = max(len(each.check) for each in findings)
    indent = " " * (11 + width)
    line_end = f"\n{indent}"
    for each in findings:
        mark = click.style(_WORDS.get(each.level, each.level).ljust(8), fg=_COLOURS.get(each.level))
        lines = textwrap.wrap(printable(each.text), _WIDTH - len(indent), break_on_hyphens=False)
        click.echo(f"{mark} {each.check.ljust(width)}  {line_end.join(lines)}")
        if each.advice:
            click.echo(f"{indent}→ {printable(each.advice)}")
    counts = [(level, sum(each.level == level for each in findings)) for level in ("error", "warning")]
    told = [f"{count} {level}{'' if count == 1 else 's'}" for level, count in counts if count]
    click.echo(", ".join(told) or "all is well")


def _kinds(found: pb.HostDetailsReply) -> str:
    if "PVH" in found.zone_kinds:
        return f"{', '.join(found.zone_kinds)} possible; PV is what Zonal makes"
    return f"{', '.join(found.zone_kinds) or 'none'} possible; PVH needs VT-x or SVM with nested paging"
