"""A whole life of attachments with the real plugins, in namespaces of its own; says what it saw, as JSON.

Run by test_attachments.py under unshare(1), so that neither root nor anything of this machine is needed.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.unit.network.unshared import fails
from zonal.network import cni, dns, namespaces
from zonal.network.attachments import Attachment, Attachments
from zonal.network.networks import NetworkStore
from zonal.network.ports import Port

ONE, TWO, THREE = ("1" * 64, "2" * 64, "3" * 64)
FOLDER = Path("/run/zonal")
ELSEWHERE = "192.0.2.53"


def shell(line: str) -> str:
    return subprocess.run(line, shell=True, capture_output=True, text=True, check=False).stdout


def left() -> dict[str, Any]:
    """What may be left of attachments."""
    leases = FOLDER / "leases"
    files = [path.name for path in leases.rglob("*") if path.is_file()] if leases.exists() else []
    return {
        "namespaces": namespaces.ours(),
        "leases": [name for name in files if name[0].isdigit() or name.startswith("fd")],
        "records": [path.name for path in (FOLDER / "attachments").iterdir()],
        "links": shell("ip -o link | grep -c veth").strip(),
        "ports": shell("nft list table inet zonal | grep -c dnat.*to").strip(),
    }


def opened() -> Attachments:
    store = NetworkStore(Path("/run/state"), FOLDER / "leases", configurations=Path("/run/cni"), routes=list)
    return Attachments(store, FOLDER)


def serve_outside() -> None:
    """The host's name server: everything it is asked for has one address."""

    def reply_to(message: bytes) -> bytes:
        question = dns.parse_question(message)
        assert question is not None
        return dns.answer(question, [dns.address_record(ELSEWHERE)])

    def udp() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
            link.bind(("127.0.0.1", 53))
            while True:
                message, client = link.recvfrom(4096)
                link.sendto(reply_to(message), client)

    def tcp() -> None:
        with socket.create_server(("127.0.0.1", 53)) as listener:
            while True:
                link, _ = listener.accept()
                with link:
                    reply = reply_to(link.recv(4096)[2:])
                    link.sendall(len(reply).to_bytes(2, "big") + reply)

    for work in (udp, tcp):
        threading.Thread(target=work, daemon=True).start()


def ask(attachment: Attachment, name: str, kind: int, server: str, *, tcp: bool = False) -> list[Any]:
    """What a zone gets for a question: the code, and how many answers with which first address."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    message = struct.pack("!6H", 9, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", kind, 1)

    def over_tcp() -> bytes:
        with socket.create_connection((server, 53), timeout=5) as link:
            link.sendall(len(message).to_bytes(2, "big") + message)
            return link.recv(4096)[2:]

    def work() -> list[Any]:
        if tcp:
            return told(over_tcp())
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as link:
            link.settimeout(0.5)
            for _ in range(20):  # the server may just begin
                try:
                    link.sendto(message, (server, 53))
                    reply = link.recv(4096)
                    break
                except OSError:
                    time.sleep(0.1)
            else:
                return ["no answer"]
        return told(reply)

    def told(reply: bytes) -> list[Any]:
        count = int.from_bytes(reply[6:8], "big")
        size = {dns.A: 4, dns.AAAA: 16}.get(kind, 0)
        address = reply[-size:] if count and size else b""
        return [reply[3] & 15, count, address.hex()]

    return namespaces.within(namespaces.path_of(attachment.namespace), work)


async def main() -> None:
    seen: dict[str, Any] = {}
    shell("ip link set lo up")
    serve_outside()
    attachments = opened()
    await attachments.recover([])
    held = Port(80, 8080)
    one = await attachments.attach(ONE, "one", "zonal", "00:16:3e:00:00:01", [held])
    two = await attachments.attach(TWO, "two", "zonal", "00:16:3e:00:00:02", [])
    seen["addresses"] = [str(address) for address in one.addresses]
    seen["mac"], seen["mtu"], seen["routes"] = one.mac, one.mtu, one.routes
    gateways = attachments.networks.find("zonal").gateways
    seen["gateways"] = gateways
    client = cni.Client()
    network = attachments.networks.configuration(attachments.networks.find("zonal"))
    target = cni.Target(TWO, str(namespaces.path_of(two.namespace)))
    assert two.result is not None
    await client.check(network, target, two.result)
    shell(f"ip netns exec {two.namespace} ip address flush dev eth0")
    seen["check after a change"] = await fails(client.check(network, target, two.result))
    seen["versions"] = await client.versions("bridge")

    seen["dns"] = {
        "a": ask(one, "two", dns.A, gateways[0]),
        "aaaa over v6": ask(one, "TWO", dns.AAAA, gateways[1]),
        "by id": ask(one, TWO[:12], dns.A, gateways[0]),
        "nobody": ask(one, "nobody", dns.A, gateways[0]),
        "outside": ask(one, "example.org", dns.A, gateways[0]),
        "outside over tcp": ask(one, "example.org", dns.A, gateways[0], tcp=True),
        "over tcp": ask(one, "two", dns.A, gateways[0], tcp=True),
        "reverse": ask(one, dns.reverse_name(str(two.addresses[0].ip)), dns.PTR, gateways[0]),
    }
    seen["address of two"] = [address.ip.packed.hex() for address in two.addresses]

    # One that is refused leaves nothing.
    before = left()
    seen["port taken"] = await fails(attachments.attach(THREE, "three", "zonal", "00:16:3e:00:00:03", [held]))
    attachments.networks.create("tiny", subnets=["10.9.0.0/29"], internal=True)
    small = [
        await attachments.attach(f"{n}" * 64, f"small{n}", "tiny", f"00:16:3e:00:01:0{n}", []) for n in range(4, 9)
    ]
    seen["full"] = await fails(attachments.attach(THREE, "three", "tiny", "00:16:3e:00:00:03", []))
    seen["in use"] = await fails(attachments.remove_network("tiny"))
    seen["other network"] = ask(small[0], "two", dns.A, attachments.networks.find("tiny").gateways[0])
    seen["outside of an internal network"] = ask(
        small[0], "example.org", dns.A, attachments.networks.find("tiny").gateways[0]
    )
    seen["other network's server"] = ask(small[0], "two", dns.A, gateways[0])
    for each in small:
        await attachments.detach(each.zone)
    await attachments.remove_network("tiny")
    Path("/run/cni").mkdir()
    missing = {"cniVersion": "1.0.0", "name": "missing", "plugins": [{"type": "no-such-plugin"}]}
    Path("/run/cni/1.conflist").write_text(json.dumps(missing))
    seen["no plugin"] = await fails(attachments.attach(THREE, "three", "missing", "00:16:3e:00:00:03", []))
    after = left()
    seen["nothing left of those"] = before == after or [before, after]

    # A daemon that was killed: one zone runs, one was being attached, one has ended.
    attachments.close()
    third = Attachment(THREE, "three", "zonal", "00:16:3e:00:00:03", (), one.configuration)
    namespaces.create(third.namespace)
    record = {**json.loads((FOLDER / "attachments" / f"{TWO}.json").read_text()), "zone": THREE, "result": None}
    (FOLDER / "attachments" / f"{THREE}.json").write_text(json.dumps(record))
    namespaces.create("zonal-stray")
    (FOLDER / "attachments" / "broken.json").write_text("{")
    again = opened()
    await again.recover([ONE, THREE])
    seen["recovered"] = [each.name for each in again.all()]
    same = again.get(ONE)
    seen["same"] = same is not None and json.dumps(asdict(same)) == json.dumps(asdict(one))
    seen["kept"] = left()
    seen["held again"] = await fails(again.attach(TWO, "two", "zonal", "00:16:3e:00:00:02", [held]))
    seen["dns again"] = ask(one, "one", dns.A, gateways[0])
    await again.detach(ONE)
    await again.detach(ONE)
    seen["at the end"] = left()
    json.dump(seen, sys.stdout)


if __name__ == "__main__":
    libc = ctypes.CDLL(None, use_errno=True)
    for place in (b"/run", b"/sys"):
        kind = b"sysfs" if place == b"/sys" else b"tmpfs"
        if libc.mount(b"none", place, kind, 0, None):
            raise OSError(ctypes.get_errno(), f"mount {place!r}")
    Path("/run/resolv.conf").write_text("nameserver 127.0.0.1\n")
    if libc.mount(b"/run/resolv.conf", os.path.realpath("/etc/resolv.conf").encode(), None, 4096, None):
        raise OSError(ctypes.get_errno(), "mount resolv.conf")
    os.environ["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    asyncio.run(main())
