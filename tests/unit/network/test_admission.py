"""What a zone may send, as the kernel itself decides it: the program is a socket's filter here."""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

import pytest

from zonal.errors import InvalidInputError
from zonal.network.admission import MAX_ADDRESSES, admission_program, link_local

MAC, OTHER_MAC = bytes.fromhex("00163e112233"), bytes.fromhex("00163e445566")
MINE = ("10.1.2.3", "10.1.2.9", "fd00::5", "fd00::6")
SO_ATTACH_FILTER = 26  # asm-generic/socket.h
Passes = Callable[[bytes], bool]


def packed(text: str) -> bytes:
    return ip_address(text).packed


@pytest.fixture(name="passes")
def through_the_kernel() -> Passes:
    own = [ip_address(each) for each in MINE]
    program = admission_program(MAC.hex(":"), [*own, link_local(MAC.hex(":"))])
    sending, receiving = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    code = ctypes.create_string_buffer(program)
    header = struct.pack("=H6xQ", len(program) // 8, ctypes.addressof(code))
    receiving.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, header)
    receiving.setblocking(False)

    def passes(frame: bytes) -> bool:
        sending.send(frame)
        try:
            return receiving.recv(2000) == frame
        except BlockingIOError:
            return False

    return passes


def frame(kind: int, payload: bytes, mac: bytes = MAC) -> bytes:
    return b"\xff" * 6 + mac + struct.pack("!H", kind) + payload


def ipv4(source: str) -> bytes:
    return frame(0x800, b"\x45" + bytes(11) + packed(source) + packed("10.1.2.1") + b"data")


def arp(mac: bytes, sender: str, head: bytes = bytes.fromhex("0001080006040001")) -> bytes:
    return frame(0x806, head + mac + packed(sender) + bytes(6) + packed("10.1.2.1"))


def ipv6(source: str, following: int, data: bytes = b"datadatadata") -> bytes:
    return frame(0x86DD, struct.pack("!IHBB", 6 << 28, len(data), following, 255) + packed(source) + bytes(16) + data)


def neighbour(kind: int, target: str, option: bytes = b"") -> bytes:
    return ipv6("fd00::5", 58, bytes((kind, 0, 0, 0, 0, 0, 0, 0)) + packed(target) + option)


@pytest.mark.parametrize("address", MINE[:2])
def test_its_own_ipv4_passes(passes: Passes, address: str) -> None:
    assert passes(ipv4(address))
    assert passes(arp(MAC, address))


@pytest.mark.parametrize("address", [*MINE[2:], str(link_local(MAC.hex(":")))])
def test_its_own_ipv6_passes(passes: Passes, address: str) -> None:
    for following in (6, 17, 50):
        assert passes(ipv6(address, following))
    assert passes(ipv6(address, 44, bytes((17, 0)) + bytes(10))), "a fragment"
    assert passes(ipv6(address, 58, bytes((128, 0)) + bytes(20))), "ping"


def test_neighbour_discovery_for_itself_passes(passes: Passes) -> None:
    assert passes(neighbour(135, "fd00::99", b"\x01\x01" + MAC))
    assert passes(neighbour(135, "fd00::99"))
    assert passes(neighbour(136, "fd00::5", b"\x02\x01" + MAC))
    assert passes(neighbour(136, "fd00::6"))


def test_what_is_anothers_does_not_pass(passes: Passes) -> None:
    for address in ("10.1.2.4", "0.0.0.0", "255.255.255.255"):
        assert not passes(ipv4(address))
        assert not passes(arp(MAC, address))
    for address in ("fd00::7", "::", "fe80::1", "ff02::1"):
        assert not passes(ipv6(address, 17))
    assert not passes(arp(OTHER_MAC, MINE[0]))
    for own in (ipv4(MINE[0]), arp(MAC, MINE[0]), ipv6("fd00::5", 17)):
        assert passes(own)
        assert not passes(own[:6] + OTHER_MAC + own[12:])
        assert not passes(own[:12] + b"\x81\x00\x00\x05" + own[12:]), "a VLAN tag"
        assert not passes(own[:12] + b"\x88\xa8\x00\x05" + own[12:]), "a provider's tag"


def test_a_router_or_another_neighbour_is_not_played(passes: Passes) -> None:
    for kind in (133, 134, 137):
        assert not passes(ipv6("fd00::5", 58, bytes((kind, 0)) + bytes(30)))
    assert not passes(neighbour(136, "fd00::7"))
    assert not passes(neighbour(136, "fd00::5", b"\x02\x01" + OTHER_MAC))
    assert not passes(neighbour(135, "fd00::7", b"\x01\x01" + OTHER_MAC))
    assert not passes(neighbour(136, "fd00::5", b"\x02\x02" + MAC + bytes(8))), "an option of another size"
    assert not passes(neighbour(136, "fd00::5", b"\x0e\x01" + bytes(6) + b"\x02\x01" + OTHER_MAC)), "behind another one"


@pytest.mark.parametrize("extension", [0, 43, 60])
def test_nothing_hides_behind_an_extension_header(passes: Passes, extension: int) -> None:
    assert not passes(ipv6("fd00::5", extension, bytes((58, 0)) + bytes(6) + bytes((134, 0)) + bytes(20)))
    assert not passes(ipv6("fd00::5", 44, bytes((extension, 0)) + bytes(30)))


def test_other_formats_of_arp_and_other_protocols_do_not_pass(passes: Passes) -> None:
    assert not passes(arp(MAC, MINE[0], bytes.fromhex("0006080006040001")))
    assert not passes(arp(MAC, MINE[0], bytes.fromhex("000108dd06100001")))
    for kind in (0x88CC, 0x0026, 0x8847, 0x8863, 0x9000):
        assert not passes(frame(kind, ipv4(MINE[0])[14:]))


def test_a_frame_that_is_cut_off_does_not_pass(passes: Passes) -> None:
    for own, least in (
        (ipv4(MINE[0]), 30),
        (arp(MAC, MINE[0]), 32),
        (neighbour(136, "fd00::5", b"\x02\x01" + MAC), 86),
    ):
        assert passes(own[:least])
        for length in range(1, least):
            assert not passes(own[:length])


def test_as_many_addresses_as_are_allowed_fit_into_a_program() -> None:
    many = [ip_address(f"10.0.0.{number}") for number in range(MAX_ADDRESSES)]
    more = [IPv6Address(number + 1) for number in range(MAX_ADDRESSES)]
    assert len(admission_program(MAC.hex(":"), [*many, *more])) % 8 == 0
    with pytest.raises(InvalidInputError):
        admission_program(MAC.hex(":"), [*more, IPv6Address("fd00::1")])


def test_the_link_local_address_is_that_of_rfc_4291() -> None:
    assert link_local("34:56:78:9a:bc:de") == IPv6Address("fe80::3656:78ff:fe9a:bcde")
