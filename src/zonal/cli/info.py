"""``zonal info`` and ``zonal version``."""

from __future__ import annotations

import click

from zonal.cli.connect import host_option, lab_option, zonald
from zonal.cli.format import show_fields, show_size


@click.command("info")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@host_option
@lab_option
def info(as_json: bool, host: str | None, lab: str | None) -> None:
    """Show what zonald and its machine are."""
    from zonal.api import control_pb2 as pb

    with zonald(host, lab) as control:
        reply = control.call("Info", pb.InfoRequest(), pb.InfoReply)
    if as_json:
        from zonal.cli.documents import pretty

        click.echo(pretty({field.name: getattr(reply, field.name) for field in reply.DESCRIPTOR.fields}))
        return
    lines = {
        "Zonal": reply.version,
        "Xen": f"{reply.xen_version} ({reply.xen_capabilities})",
        "host kernel": reply.host_kernel,
        "CPUs": str(reply.cpus),
        "memory": f"{show_size(reply.memory_bytes)}, {show_size(reply.free_bytes)} of it free for zones",
        "zonald": f"{show_size(reply.resident_bytes)} resident",
    }
    click.echo(show_fields(lines))


@click.command("version")
def version() -> None:
    """Show the version."""
    import zonal

    click.echo(zonal.__version__)
