"""``zonal network``: networks that zones are on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from zonal.cli.connect import host_option, lab_option, zonald
from zonal.cli.format import show_table
from zonal.cli.zone import each

if TYPE_CHECKING:
    from zonal.api import control_pb2 as pb


@click.group()
def network() -> None:
    """Make, list and remove networks."""


@network.command("create")
@click.option("--subnet", "subnets", multiple=True, metavar="CIDR", help="Free ones by default; one of each family.")
@click.option("--internal", is_flag=True, help="Without a way out.")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="For your own use.")
@click.argument("name")
@host_option
@lab_option
def create(
    subnets: tuple[str, ...], internal: bool, labels: tuple[str, ...], name: str, host: str | None, lab: str | None
) -> None:
    """Make a network and print its name."""
    from zonal.api import control_pb2 as pb

    request = pb.CreateNetworkRequest(name=name, subnets=subnets, internal=internal)
    for label in labels:
        key, _, value = label.partition("=")
        request.labels[key] = value
    with zonald(host, lab) as control:
        click.echo(control.call("CreateNetwork", request, pb.Network).name)


@network.command("ls")
@click.option("-q", "--quiet", is_flag=True, help="Names only.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@host_option
@lab_option
def list_networks(quiet: bool, as_json: bool, host: str | None, lab: str | None) -> None:
    """List networks; zonal is made with its first zone."""
    import json

    from zonal.api import control_pb2 as pb

    with zonald(host, lab) as control:
        networks = control.call("ListNetworks", pb.ListNetworksRequest(), pb.ListNetworksReply).networks
    if as_json or quiet:
        for item in networks:
            click.echo(item.name if quiet else json.dumps(_document(item), ensure_ascii=False))
        return
    rows = [[item.name, ", ".join(item.subnets), _kind(item), item.bridge, ", ".join(item.zones)] for item in networks]
    click.echo(show_table(["NAME", "ADDRESSES", "KIND", "BRIDGE", "ZONES"], rows))


@network.command("inspect")
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@host_option
@lab_option
def inspect(names: tuple[str, ...], host: str | None, lab: str | None) -> None:
    """Show all that is known of networks, as JSON."""
    from zonal.api import control_pb2 as pb
    from zonal.cli.documents import pretty

    with zonald(host, lab) as control:
        found = [control.call("InspectNetwork", pb.NetworkRef(name=name), pb.Network) for name in names]
    click.echo(pretty([_document(item) for item in found]))


@network.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@host_option
@lab_option
def remove(names: tuple[str, ...], host: str | None, lab: str | None) -> None:
    """Remove networks that no zone is on."""
    from zonal.api import control_pb2 as pb

    def remove_one(name: str) -> str:
        control.call("RemoveNetwork", pb.NetworkRef(name=name), pb.RemoveNetworkReply)
        return name

    with zonald(host, lab) as control:
        each(names, remove_one)


def _kind(item: pb.Network) -> str:
    if item.source:
        return "cni"
    return "internal" if item.internal else "nat"


def _document(item: pb.Network) -> dict[str, Any]:
    from zonal.cli.documents import time_text

    return {
        "name": item.name,
        "subnets": list(item.subnets),
        "gateways": list(item.gateways),
        "internal": item.internal,
        "labels": dict(item.labels),
        "created": time_text(item.created_ns),
        "bridge": item.bridge,
        "source": item.source,
        "zones": list(item.zones),
    }
