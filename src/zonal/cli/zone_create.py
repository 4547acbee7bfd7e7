"""``zonal zone create``: a zone without a workload of its own, for workloads that share it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zonal.cli.connect import host_option, lab_option
from zonal.cli.kernel import ensure_kernel, is_kernel_path, named_kernel
from zonal.cli.labels import parse_pairs
from zonal.cli.networks import network_options, parse_network
from zonal.cli.pci import pci_options, take_devices
from zonal.cli.policies import parse_restart
from zonal.cli.published import published
from zonal.cli.resources import MAX_CPUS, parse_memory, parse_resources, resource_options, virt_option

if TYPE_CHECKING:
    pass


@click.command("create")
@click.option("-m", "--memory", metavar="SIZE", help="Such as 256M.")
@click.option("--cpus", type=click.IntRange(1, MAX_CPUS), help="1 by default.")
@resource_options
@click.option("--name", "option_name", default="", help="Made up by default.")
@click.option("-h", "--hostname", default="", help="Inside; the zone's short id by default.")
@click.option("--kernel", default="", metavar="NAME|PATH", help="To boot; with a slash, a file here.")
@virt_option
@network_options
@pci_options
@click.option("--sysctl", "sysctls", multiple=True, metavar="NAME=VALUE", help="A parameter of the zone's kernel.")
@click.option("-l", "--label", "labels", multiple=True, metavar="NAME[=VALUE]", help="A mark of the zone.")
@click.option("--restart", default="", metavar="POLICY", help="no, on-failure[:N], always or unless-stopped.")
@click.argument("name", default="")
@host_option
@lab_option
def create_zone(
    memory: str | None,
    cpus: int | None,
    option_name: str,
    hostname: str,
    kernel: str,
    virt: str | None,
    sysctls: tuple[str, ...],
    labels: tuple[str, ...],
    restart: str,
    name: str,
    host: str | None,
    lab: str | None,
    **more: Any,
) -> None:
    """Create a zone for workloads that share it (zonal run --zone), and start it."""
    from zonal.api import control_pb2 as pb
    from zonal.cli.attach import run_attached
    from zonal.cli.supply import Supply

    pci = take_devices(more)
    spec = pb.RunSpec(
        pci=pci,
        without_workload=True,
        detach=True,
        name=name or option_name,
        hostname=hostname,
        kernel=kernel,
        virt=virt,
        memory_bytes=parse_memory("--memory", memory) or 0,
        cpus=cpus,
        resources=parse_resources(more),
        network=parse_network(**more),
        labels=parse_pairs("--label", labels),
        restart=parse_restart(restart) if restart else None,
    )
    spec.runtime.sysctls.update(parse_pairs("--sysctl", sysctls, value_needed=True))
    with Supply(host, lab, "") as supply:
        control = supply.control()
        if is_kernel_path(kernel):
            spec.kernel = ensure_kernel(control, Path(kernel))
        elif kernel:
            spec.kernel = named_kernel(control, kernel, "missing", tls_verify=None)
        supply.stack.enter_context(published(control, spec, host, lab))
        outcome = run_attached(control, spec)
    click.echo(outcome.zone_id)
