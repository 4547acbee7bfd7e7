"""Networks: zones that reach the world, one another by name, and nobody whom they should not."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from ipaddress import IPv6Address, ip_interface
from typing import Any

import pytest

from tests.lab.driver import IMAGE, Host, NamedLab
from zonal.lab.recipe import SOURCE

pytestmark = pytest.mark.lab

OUTSIDE = "10.0.2.2"
"""This machine's loopback, as the lab's host reaches it: QEMU's user network."""
# What debian:13 has is perl. This one says hello to whoever connects, and answers datagrams.
SERVER = r"""
use Socket qw(:all);
$| = 1;
for my $family (AF_INET, AF_INET6) {
    next if fork;
    socket(my $l, $family, SOCK_STREAM, 0) or die $!;
    setsockopt($l, IPPROTO_IPV6, IPV6_V6ONLY, 1) if $family == AF_INET6;
    bind($l, $family == AF_INET ? pack_sockaddr_in(80, INADDR_ANY) : pack_sockaddr_in6(80, IN6ADDR_ANY)) or die $!;
    listen($l, 9);
    while (accept(my $c, $l)) { syswrite($c, "hello from " . `cat /etc/hostname`); close $c }
}
socket(my $u, AF_INET, SOCK_DGRAM, 0); bind($u, pack_sockaddr_in(53, INADDR_ANY)) or die $!;
print "ready\n";
while (my $from = recv($u, my $data, 100, 0)) { send($u, "udp $data", 0, $from) }
"""
# Connects to each HOST PORT of its input and prints what it gets.
CLIENT = r"""
use Socket qw(:all);
$| = 1;
while (<STDIN>) {
    my ($host, $port) = split;
    my $got = "no";
    my ($error, @found) = getaddrinfo($host, $port, {socktype => SOCK_STREAM});
    $got = "no such name" if $error;
    for my $to (@found) {
        socket(my $s, $to->{family}, SOCK_STREAM, 0) or next;
        setsockopt($s, SOL_SOCKET, SO_SNDTIMEO, pack("q q", 4, 0));
        if (connect($s, $to->{addr})) { sysread($s, $got, 100); last }
    }
    chomp $got; print "$host $port: $got\n";
}
"""
# Sends each frame of its input, in hexadecimal, as it is; at an empty line it says that it has.
SENDER = r"""
$| = 1;
my $index = `cat /sys/class/net/eth0/ifindex`;
socket(my $s, 17, 3, 0) or die $!;
while (<STDIN>) {
    chomp; if ($_ eq "") { sleep 1; print "sent\n"; next }
    my $frame = pack("H*", $_);
    for (1..3) { send($s, $frame, 0, pack("S n i S C C a8", 17, 3, $index, 0, 0, 6, "")) or die $! }
}
"""
REFUSED = """
import glob
from zonal.network.links import find_link
from zonal.network.netlink import Netlink
from zonal.network.path import refused
with Netlink() as netlink:
    (vif,) = [find_link(netlink, path.split("/")[-1]) for path in glob.glob("/proc/sys/net/ipv4/conf/vif*")]
    print(refused(netlink, vif.index))
"""
# In the host: the names behind the mark in what arrives at a bridge, told when it is ended.
LISTENER = """
import re, signal, socket, sys
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
link.bind((sys.argv[1], 0))
seen = set()
def tell(*_):
    print(*sorted(seen), flush=True); sys.exit()
signal.signal(signal.SIGTERM, tell)
print("listening", flush=True)
while True:
    for name in re.findall(rb"ZONALMARK([A-Z0-9]+)", link.recv(4096)):
        seen.add(name.decode())
"""
LEFT = (
    "ls /run/netns 2>/dev/null; ls /run/zonal/network/attachments /run/zonal/network/leases/* 2>/dev/null "
    "| grep -e '[.]json' -e '^[0-9a-f]*[.:]' ; ip -o link | grep -o -e 'veth[^:@]*' -e 'vif[^:@]*'; "
    "nft list table inet zonal | grep -o -e 'dnat ip.*'; true"
)


@pytest.fixture(scope="module", name="host")
def the_host(lab: NamedLab) -> Generator[Host]:
    host = Host(lab, network="zonal")
    host.remove_all()
    host.zonal("network", "rm", "blue")
    yield host
    host.remove_all()
    host.zonal("network", "rm", "blue")


@pytest.fixture(scope="module", name="port")
def a_published_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module", name="server")
def a_server(host: Host, port: int) -> dict[str, Any]:
    """A zone that publishes a port over TCP and UDP."""
    done = host.zonal(
        *("run", "-d", "-m", "128M", "--name", "server", "-h", "server-host", "--mac-address", "00:16:3e:00:00:07"),
        *("-p", f"{port}:80", "-p", f"{port}:53/udp", IMAGE, "perl", "-e", SERVER),
    )
    assert done.returncode == 0, done.stderr
    host.until_logged("server", "ready")
    return inspect(host, "server")


def inspect(host: Host, zone: str) -> dict[str, Any]:
    return next(each for each in host.zones() if each["name"] == zone)


def ask(port: int, kind: int = socket.SOCK_STREAM) -> str:
    """What the published port of this machine answers."""
    with socket.socket(socket.AF_INET, kind) as link:
        link.settimeout(30)
        link.connect(("127.0.0.1", port))
        if kind == socket.SOCK_DGRAM:
            link.send(b"ping")
        return link.recv(100).decode().strip()


def run_client(host: Host, questions: list[str], *options: str) -> dict[str, str]:
    """What a zone gets when it connects to each HOST PORT."""
    done = host.run("-i", *options, IMAGE, "perl", "-e", CLIENT, stdin="\n".join(questions).encode())
    return dict(line.split(": ", 1) for line in done.stdout.decode().splitlines())


@contextmanager
def outside_server() -> Generator[int]:
    """A server of this machine; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    link, _ = listener.accept()
                    with link:
                        link.sendall(b"the outside")

        threading.Thread(target=serve, daemon=True).start()
        yield int(listener.getsockname()[1])


def test_a_published_port_leads_to_the_zone_from_this_machine(host: Host, server: dict[str, Any], port: int) -> None:
    assert ask(port) == "hello from server-host"
    assert ask(port, socket.SOCK_DGRAM) == "udp ping"
    assert server["mac"] == "00:16:3e:00:00:07"
    # From the lab's host itself: by the zone's addresses, and by the published port.
    places = [f"{ip_interface(each).ip}/80" for each in server["addresses"]] + [f"127.0.0.1/{port}"]
    script = "; ".join(f"timeout 20 bash -c 'cat < /dev/tcp/{place}'" for place in places)
    assert host.shell(script).splitlines() == ["hello from server-host"] * len(places)
    taken = host.zonal("run", "--rm", "-p", f"{port}:80", IMAGE, "true")
    assert taken.returncode == 125
    assert str(port) in taken.stderr.decode()
    assert len(host.zones()) == 1
    # What the lab's host itself listens on.
    taken = host.zonal("run", "--rm", "-p", "22:80", "--network", "zonal", IMAGE, "true")
    assert taken.returncode == 125
    assert "22/tcp" in taken.stderr.decode()


def test_zones_find_one_another_by_name_and_reach_the_outside(host: Host, server: dict[str, Any]) -> None:
    v4, v6 = (str(ip_interface(each).ip) for each in server["addresses"])
    with outside_server() as outside:
        got = run_client(
            host,
            [
                *("server 80", f"{server['id'][:12]} 80", f"{v4} 80", f"{v6} 80"),
                *(f"{OUTSIDE} {outside}", "nobody 80", "here 80", "me 80"),
            ],
            *("--add-host", f"here:{v4}", "-h", "me"),
        )
    hello = "hello from server-host"
    assert got["server 80"] == got[f"{server['id'][:12]} 80"] == got[f"{v4} 80"] == got[f"{v6} 80"] == hello
    assert got[f"{OUTSIDE} {outside}"] == "the outside"
    assert got["nobody 80"] == "no such name"
    assert got["here 80"] == hello
    assert got["me 80"] == "no", "its own name has its own address, where nobody listens"


def test_zones_of_two_networks_do_not_reach_each_other(host: Host, server: dict[str, Any]) -> None:
    assert host.zonal("network", "create", "blue").returncode == 0
    v4, v6 = (str(ip_interface(each).ip) for each in server["addresses"])
    with outside_server() as outside:
        got = run_client(
            host,
            ["server 80", f"{v4} 80", f"{v6} 80", f"{OUTSIDE} {outside}"],
            *("--network", "blue"),
        )
    assert got["server 80"] == "no such name"
    assert got[f"{v4} 80"] == got[f"{v6} 80"] == "no"
    assert got[f"{OUTSIDE} {outside}"] == "the outside"
    listed = json.loads(host.zonal("network", "inspect", "blue").stdout)[0]
    assert listed["zones"] == []
    assert host.zonal("network", "rm", "blue").returncode == 0
    assert listed["bridge"] not in host.shell("ip -o link; nft list table inet zonal")


def test_a_zone_sends_nothing_in_anothers_name(host: Host, server: dict[str, Any]) -> None:
    sender = host.start(
        *("run", "--rm", "-i", "-m", "128M", "--name", "hostile", IMAGE, "perl", "-e", SENDER),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    for _ in range(600):
        zones = {zone["name"]: zone for zone in host.zones()}
        if zones.get("hostile", {}).get("addresses"):
            break
        time.sleep(0.3)
    frames = hostile_frames(inspect(host, "hostile"), server)
    listening = subprocess.Popen(
        [*host.command("lab", "shell", "--name", host.lab, "--"), "cat > /tmp/l.py; exec python3 /tmp/l.py zn-zonal"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=host.environment,
    )
    assert listening.stdin is not None
    assert listening.stdout is not None
    listening.stdin.write(LISTENER.encode())
    listening.stdin.close()
    assert listening.stdout.readline() == b"listening\n"
    assert sender.stdin is not None
    assert sender.stdout is not None
    sender.stdin.write("".join(f"{frame.hex()}\n" for frame in frames.values()).encode() + b"\n")
    sender.stdin.flush()
    assert sender.stdout.readline() == b"sent\n"
    counted = refused(host, "hostile")
    sender.communicate(timeout=300)
    host.shell("pkill -TERM -f '[/]tmp/l.py'")
    seen = set(listening.stdout.read().decode().split())
    listening.wait()
    own = {name for name in frames if name.startswith("OWN")}
    assert seen == own
    # Each was sent three times; besides, the zone's kernel may have tried something.
    assert counted >= 3 * (len(frames) - len(own))


def refused(host: Host, zone: str) -> int:
    """Frames of a running zone that were dropped, as traffic control counts them."""
    name = f"zonal-{inspect(host, zone)['id'][:12]}"
    return int(host.shell(f"PYTHONPATH={SOURCE} ip netns exec {name} python3 -c '{REFUSED}'"))


def hostile_frames(own: dict[str, Any], other: dict[str, Any]) -> dict[str, bytes]:
    """Frames that are not the zone's to send, and some that are; each carries its name."""
    mac, other_mac = (bytes.fromhex(each["mac"].replace(":", "")) for each in (own, other))
    (ip4, ip6), (other4, other6) = ([ip_interface(a).ip.packed for a in each["addresses"]] for each in (own, other))
    everyone = b"\xff" * 6

    def marked(name: str) -> bytes:
        return b"ZONALMARK" + name.encode()

    def frame(source: bytes, kind: int, payload: bytes, tag: bytes = b"") -> bytes:
        return (everyone + source + tag + struct.pack("!H", kind) + payload).ljust(60, b"\0")

    def ipv4(source: bytes, name: str) -> bytes:
        udp = struct.pack("!4H", 1234, 4321, 8 + len(marked(name)), 0) + marked(name)
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0) + source + b"\xff\xff\xff\xff"
        total = sum(struct.unpack("!10H", head))
        total = (total & 0xFFFF) + (total >> 16)
        return head[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + head[12:] + udp

    def arp(sender_mac: bytes, sender: bytes, name: str) -> bytes:
        return struct.pack("!HHBBH", 1, 0x800, 6, 4, 2) + sender_mac + sender + everyone + other4 + marked(name)

    def ipv6(source: bytes, kind: int, data: bytes) -> bytes:
        everybody = IPv6Address("ff02::1").packed
        return struct.pack("!IHBB", 6 << 28, len(data), kind, 255) + source + everybody + data

    def udp6(name: str) -> bytes:
        return struct.pack("!4H", 1234, 4321, 8 + len(marked(name)), 1) + marked(name)

    def advertisement(target: bytes, link: bytes, name: str) -> bytes:
        return struct.pack("!BBHI", 136, 0, 0, 0x20000000) + target + b"\x02\x01" + link + marked(name)

    def router(name: str) -> bytes:
        return struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 9000, 0, 0) + marked(name)

    return {
        "OWN4": frame(mac, 0x800, ipv4(ip4, "OWN4")),
        "OWNARP": frame(mac, 0x806, arp(mac, ip4, "OWNARP")),
        "OWN6": frame(mac, 0x86DD, ipv6(ip6, 17, udp6("OWN6"))),
        "MAC": frame(other_mac, 0x800, ipv4(ip4, "MAC")),
        "IP": frame(mac, 0x800, ipv4(other4, "IP")),
        "ARPIP": frame(mac, 0x806, arp(mac, other4, "ARPIP")),
        "ARPMAC": frame(mac, 0x806, arp(other_mac, ip4, "ARPMAC")),
        "IP6": frame(mac, 0x86DD, ipv6(other6, 17, udp6("IP6"))),
        "VLAN": frame(mac, 0x800, ipv4(ip4, "VLAN"), b"\x81\x00\x00\x05"),
        "QINQ": frame(mac, 0x800, ipv4(ip4, "QINQ"), b"\x88\xa8\x00\x05\x81\x00\x00\x06"),
        "TYPE": frame(mac, 0x88CC, marked("TYPE")),
        "NA": frame(mac, 0x86DD, ipv6(ip6, 58, advertisement(other6, mac, "NA"))),
        "NAMAC": frame(mac, 0x86DD, ipv6(ip6, 58, advertisement(ip6, other_mac, "NAMAC"))),
        "RA": frame(mac, 0x86DD, ipv6(ip6, 58, router("RA"))),
        "HOPRA": frame(mac, 0x86DD, ipv6(ip6, 0, bytes((58, 0, 1, 4, 0, 0, 0, 0)) + router("HOPRA"))),
    }


def test_bad_input_is_told_in_one_line_and_leaves_nothing(host: Host, server: dict[str, Any]) -> None:
    before = host.shell(LEFT)
    for options, word in (
        (("--network", "nowhere"), "nowhere"),
        (("--network", "host"), "kernel of its own"),
        (("--network", "none", "-p", "80"), "no ports"),
        (("--mac-address", "01:00:00:00:00:01"), "hardware address"),
        (("-p", "0:80"), "0:80"),
        (("-p", "1:70000"), "70000"),
        (("-p", "192.0.2.1:8080:80"), "192.0.2.1"),
        (("--dns", "not an address"), "not an address"),
        (("--add-host", "name"), "name"),
    ):
        done = host.zonal("run", "--rm", *options, IMAGE, "true")
        said = done.stderr.decode()
        assert done.returncode == 125, (options, said)
        assert word in said, (options, said)
        assert "Traceback" not in said
    for arguments, word in (
        (("rm", "zonal"), "always there"),
        (("rm", "nowhere"), "nowhere"),
        (("inspect", "nowhere"), "nowhere"),
        (("create", "zonal"), "already"),
        (("create", "none"), "something else"),
        (("create", "a b"), "a b"),
        (("create", "red", "--subnet", "10.0.0.0/33"), "10.0.0.0/33"),
        (("create", "red", "--subnet", "127.0.0.0/24"), "another use"),
        (("create", "red", "--subnet", "10.0.2.0/24"), "overlaps"),
    ):
        done = host.zonal("network", *arguments)
        assert done.returncode == 125, (arguments, done.stdout)
        assert word in done.stderr.decode(), (arguments, done.stderr)
    assert host.shell(LEFT) == before
    assert server["name"] in [zone["name"] for zone in host.zones()]


@pytest.mark.long
def test_a_killed_zonald_disturbs_nobody_and_the_next_one_undoes_what_was_half_made(
    host: Host, server: dict[str, Any], port: int
) -> None:
    launching = host.start("run", "--rm", "-m", "128M", "--name", "half", IMAGE, "true", stderr=subprocess.DEVNULL)
    host.shell("for i in $(seq 600); do ls /run/netns | wc -l | grep -q 2 && exit 0; sleep 0.1; done; exit 1")
    host.shell("kill -9 $(systemctl show --property MainPID --value zonald)")
    launching.wait()
    assert ask(port) == "hello from server-host", "the way to a zone is the kernel's, not zonald's"
    host.until_zonald_answers()
    left = host.shell(LEFT).split()
    assert [word for word in left if word.startswith("zonal-")] == [f"zonal-{server['id'][:12]}"]
    assert [zone["name"] for zone in host.zones()] == ["server"]
    assert ask(port) == "hello from server-host"
    # And the next one holds its port again.
    assert host.zonal("run", "--rm", "-p", f"{port}:80", IMAGE, "true").returncode == 125
    assert host.zonal("rm", "-f", "server").returncode == 0
    assert host.shell(LEFT).split() == []
    with pytest.raises(OSError):
        ask(port)


def test_a_zone_without_a_network_has_none(host: Host) -> None:
    done = host.run("--network", "none", IMAGE, "sh", "-c", "ls /sys/class/net; cat /etc/hosts; cat /etc/resolv.conf")
    words = done.stdout.decode().split()
    assert words[0] == "lo"
    assert words[1] == "127.0.0.1"
    assert "nameserver" not in words
