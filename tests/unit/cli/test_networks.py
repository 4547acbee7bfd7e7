from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner

from zonal.cli.networks import network_options, parse_network, parse_ports, show_port
from zonal.errors import InvalidInputError
from zonal.lab.ports import Forward, parse_forwards


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("80", ["80/tcp"]),
        ("8080:80", ["0.0.0.0:8080->80/tcp"]),
        ("8080:80/udp", ["0.0.0.0:8080->80/udp"]),
        ("8080:80/TCP", ["0.0.0.0:8080->80/tcp"]),
        ("127.0.0.1:8080:80", ["127.0.0.1:8080->80/tcp"]),
        ("127.0.0.1::80", ["80/tcp"]),
        ("[::1]:8080:80", ["[::1]:8080->80/tcp"]),
        ("8000-8001:90-91", ["0.0.0.0:8000->90/tcp", "0.0.0.0:8001->91/tcp"]),
        ("90-91", ["90/tcp", "91/tcp"]),
    ],
)
def test_ports_are_read_as_docker_reads_them(text: str, shown: list[str]) -> None:
    assert [show_port(port) for port in parse_ports(text)] == shown


@pytest.mark.parametrize(
    "text",
    ["", ":", "0:80", "80:0", "70000:80", "a:80", "80/sctp", "::1:80:80", "[::1:80", "1-3:1-2", "3-1", "-5", "1:2:3:4"],
)
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError):
        parse_ports(text)


def test_the_environment_may_name_the_default_network() -> None:
    @click.command()
    @network_options
    def show(network: str, **_: Any) -> None:
        click.echo(network)

    runner = CliRunner()
    assert runner.invoke(show, [], env={"ZONAL_NETWORK": "none"}).output == "none\n"
    assert runner.invoke(show, ["--network", "mine"], env={"ZONAL_NETWORK": "none"}).output == "mine\n"


def test_further_hosts_may_have_ipv6_addresses() -> None:
    wanted = parse_network(hosts=("db:10.0.0.1", "db6:fd00::1", "x=[fd00::2]", "gate:host-gateway"))
    got = [(entry.name, entry.address) for entry in wanted.hosts]
    assert got == [("db", "10.0.0.1"), ("db6", "fd00::1"), ("x", "fd00::2"), ("gate", "host-gateway")]
    for bad in ("db", ":10.0.0.1", ""):
        with pytest.raises(InvalidInputError):
            parse_network(hosts=(bad,))


def test_qemus_list_of_forwards_is_read() -> None:
    said = """Hub -1 (net):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[HOST_FORWARD]  14       127.0.0.1 35143       10.0.2.15    22     0     0
  UDP[HOST_FORWARD]  20       127.0.0.1  5353       10.0.2.15    53     0     0
  TCP[HOST_FORWARD]  19               *  8080       10.0.2.15  8080     0     0
  TCP[ESTABLISHED]   21       127.0.0.1 35143       10.0.2.15    22     0     0
  ICMP[10 sec]       22       10.0.2.15   162        10.0.2.2     0     0     0
"""
    assert parse_forwards(said) == {
        Forward("tcp", "127.0.0.1", 35143, 22),
        Forward("udp", "127.0.0.1", 5353, 53),
        Forward("tcp", "0.0.0.0", 8080, 8080),
    }
