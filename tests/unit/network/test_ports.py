from __future__ import annotations

import socket

import pytest

from zonal.errors import AlreadyExistsError, InvalidInputError
from zonal.network.ports import HeldPorts, Port, check_ports


def test_a_held_port_is_nobody_elses_until_it_is_given_up() -> None:
    held = HeldPorts()
    (port,) = held.hold("zone web", [Port(80)])
    assert port.host_port
    with pytest.raises(OSError):
        socket.create_server(("127.0.0.1", port.host_port))
    with pytest.raises(AlreadyExistsError, match="zone web"):
        held.hold("zone other", [Port(81, port.host_port)])
    held.hold("zone udp", [Port(81, port.host_port, protocol="udp")])
    held.release("zone web")
    held.release("zone web")
    socket.create_server(("127.0.0.1", port.host_port)).close()
    held.close()


def test_a_port_that_another_program_has_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        number = other.getsockname()[1]
        held = HeldPorts()
        with pytest.raises(AlreadyExistsError, match="another program"):
            held.hold("zone web", [Port(79), Port(80, number, "127.0.0.1")])
        with pytest.raises(InvalidInputError, match=r"192\.0\.2\.1"):
            held.hold("zone web", [Port(80, number, "192.0.2.1")])
        held.hold("zone web", [Port(80, 0, "127.0.0.1")])
        held.close()


@pytest.mark.parametrize(
    "ports",
    [
        [Port(0)],
        [Port(65536)],
        [Port(80, 65536)],
        [Port(80, protocol="sctp")],
        [Port(80, host_ip="nowhere")],
        [Port(80, 8080), Port(81, 8080)],
        [Port(number) for number in range(1, 400)],
    ],
)
def test_what_cannot_be_published_is_refused(ports: list[Port]) -> None:
    with pytest.raises(InvalidInputError):
        check_ports(ports)


def test_the_same_port_of_two_protocols_is_fine() -> None:
    check_ports([Port(53, 53), Port(53, 53, protocol="udp")])
