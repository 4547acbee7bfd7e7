"""Networks of a cluster's, by real plugins and bad ones, in namespaces of its own; says what it saw, as JSON.

Run by test_cluster.py under unshare(1). In place of a zone there is a further namespace, in which the agent's own code
sets the interface up.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.unit.network.unshared import fails
from zonal.agent import network as agent_network
from zonal.network import namespaces
from zonal.network.attachments import INTERFACE, Attachment, Attachments
from zonal.network.cni import PLUGIN_FOLDERS, Client
from zonal.network.networks import NetworkStore

FOLDER, CONFIGURATIONS, PLUGINS = Path("/run/zonal"), Path("/run/net.d"), Path("/run/plugins")
LOG = Path("/run/plugins.log")
PORT = 7777
RANGES = [[{"subnet": "10.50.0.0/24"}], [{"subnet": "fd50::/64"}]]
IPAM = {
    "type": "host-local",
    "dataDir": "/run/leases",
    "ranges": RANGES,
    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
}
PTP: list[dict[str, Any]] = [{"type": "ptp", "mtu": 1400, "ipam": IPAM, "dns": {"nameservers": ["192.0.2.9"]}}]
BRIDGE: list[dict[str, Any]] = [
    {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipam": IPAM},
    {"type": "tuning", "capabilities": {"mac": True}},
]
SCRIPTS = {
    "good": 'echo \'{"cniVersion": "1.1.0", "ips": [{"address": "10.50.9.9/24"}]}\'',
    "rubbish": "[ $CNI_COMMAND = ADD ] && echo surprise",
    "impossible": '[ $CNI_COMMAND = ADD ] && echo \'{"ips": [{"address": "nowhere"}]}\'',
    "failing": '[ $CNI_COMMAND = ADD ] && { echo \'{"code": 100, "msg": "no luck today"}\'; exit 1; }',
    "hanging": "[ $CNI_COMMAND = ADD ] && { sleep 1000 & echo $! > /run/hung; sleep 1000; }",
}


def shell(line: str) -> str:
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (line, done.stderr)
    return done.stdout.strip()


def configure(name: str, plugins: list[dict[str, Any]], version: str = "1.0.0") -> None:
    for path in CONFIGURATIONS.iterdir():
        path.unlink()
    document = {"cniVersion": version, "name": name, "plugins": plugins}
    (CONFIGURATIONS / f"10-{name}.conflist").write_text(json.dumps(document))


def opened(timeout: float = 30.0) -> Attachments:
    store = NetworkStore(Path("/run/state"), FOLDER / "leases", configurations=CONFIGURATIONS, routes=list)
    return Attachments(store, FOLDER, Client((PLUGINS, *PLUGIN_FOLDERS), timeout=timeout))


async def attach(attachments: Attachments, number: int) -> Attachment:
    network = attachments.networks.first().name
    more: dict[str, Any] = {"arguments": {"K8S_POD_NAME": f"pod{number}"}, "capabilities": {"bandwidth": {"x": 1}}}
    return await attachments.attach(f"{number}" * 64, f"pod{number}", network, f"00:16:3e:00:00:0{number}", [], **more)


def make_guest(attachment: Attachment) -> str:
    """What the zone would be: the plugins' own interface, set up anew by the agent in a further namespace."""
    guest = f"guest-{attachment.name}"
    namespaces.create(guest)
    shell(f"ip -n {attachment.namespace} link set {INTERFACE} netns {guest}")
    setup = attachment.setup
    assert setup is not None
    namespaces.within(
        namespaces.path_of(guest),
        lambda: agent_network.configure(
            *(INTERFACE, attachment.mac, attachment.mtu, setup.addresses, setup.routes, setup.neighbours), exact=True
        ),
    )
    return guest


def reach(guest: str, address: str) -> str:
    """What who listens there says."""

    def connect() -> str:
        try:
            with socket.create_connection((address, PORT), timeout=10) as link:
                return link.recv(100).decode()
        except OSError as error:
            return str(error)

    return namespaces.within(namespaces.path_of(guest), connect)


def listen(name: str) -> socket.socket:
    """Tells everybody who connects its name."""
    listener = socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True)

    def serve() -> None:
        while True:
            try:
                link, _ = listener.accept()
            except OSError:
                return
            with link:
                link.sendall(name.encode())

    threading.Thread(target=serve, daemon=True).start()
    return listener


async def try_network(name: str, plugins: list[dict[str, Any]]) -> dict[str, Any]:
    """A whole life of two pods on it."""
    configure(name, plugins)
    attachments = opened()
    seen: dict[str, Any] = {}
    one, two = [await attach(attachments, number) for number in (1, 2)]
    seen["setup"] = asdict(one)["setup"]
    seen["mtu"] = one.mtu
    seen["dns"] = one.dns
    seen["check"] = await fails(attachments.check(one.zone))
    attachments.close()
    again = opened()
    await again.recover([one.zone, two.zone])
    recovered = again.get(one.zone)
    seen["recovered"] = recovered is not None and json.dumps(asdict(recovered)) == json.dumps(asdict(one))
    guests = [make_guest(each) for each in (one, two)]
    listener = namespaces.within(namespaces.path_of(guests[1]), lambda: listen("pod2"))
    gateways = [str(each["gateway"]) for each in (one.result or {})["ips"]]
    seen["host"] = [reach(guests[0], each) for each in gateways]
    seen["pod"] = [reach(guests[0], str(each.ip)) for each in two.addresses]
    seen["check of what was changed"] = await fails(again.check(two.zone))
    namespaces.delete(two.namespace)
    seen["there"] = [again.is_there(each.zone) for each in (one, two)]
    seen["check of what is gone"] = await fails(again.check(two.zone))
    for each in (one, two):
        await again.detach(each.zone)
    listener.shutdown(socket.SHUT_RDWR)  # a socket keeps its namespace
    listener.close()
    for guest in guests:
        namespaces.delete(guest)
    for _ in range(100):
        if left()["veths"] == "0":
            break
        await asyncio.sleep(0.05)  # the kernel clears a namespace away a little later
    again.close()
    seen["left"] = left()
    return seen


def left() -> dict[str, Any]:
    leases = [path.name for path in Path("/run/leases").rglob("*") if path.is_file()]
    return {
        "namespaces": namespaces.ours(),
        "leases": [name for name in leases if name.startswith(("10.", "fd"))],
        "records": [path.name for path in (FOLDER / "attachments").iterdir()],
        "veths": shell("ip -o link | grep -c veth || true"),
    }


async def try_bad(kind: str) -> dict[str, Any]:
    LOG.write_text("")
    configure(kind, [{"type": "bridge", "bridge": "cni0", "ipam": IPAM}, {"type": kind}])
    attachments = opened(timeout=2)
    error = await fails(attach(attachments, 1))
    attachments.close()
    return {"error": error, "calls": [json.loads(line)["command"] for line in LOG.read_text().splitlines()]} | left()


async def try_newest() -> dict[str, Any]:
    """STATUS, GC, and what plugins are told, of a network of CNI 1.1."""
    LOG.write_text("")
    taking = {"bandwidth": True, "portMappings": True}
    configure("newest", [{"type": "good", "capabilities": taking}], "1.1.0")
    attachments = opened()
    network = attachments.networks.first()
    await attachments.status(network)
    await attachments.collect(network, [("of-others", "eth1")])
    error = await fails(attach(attachments, 1))  # it makes no interface
    attachments.close()
    return {"error": error, "calls": [json.loads(line) for line in LOG.read_text().splitlines()]}


async def main() -> None:
    shell("mount -t tmpfs none /run")
    for folder in (CONFIGURATIONS, PLUGINS, Path("/run/netns"), Path("/run/leases")):
        folder.mkdir(parents=True)
    shell("ip link set lo up")
    for name, script in SCRIPTS.items():
        path = PLUGINS / name
        noting = f'{sys.executable} -c \'import json,os,sys; print(json.dumps({{"command": os.environ["CNI_COMMAND"], '
        noting += f'"args": os.environ.get("CNI_ARGS", ""), "stdin": json.load(sys.stdin)}}))\' >> {LOG}'
        path.write_text(f"#!/bin/sh\n{noting}\n{script}\ntrue\n")
        path.chmod(0o755)
    (PLUGINS / "broken").write_bytes(b"\0no program")
    (PLUGINS / "broken").chmod(0o755)
    listen("host")
    seen = {
        "ptp": await try_network("ptp", PTP),
        "bridge": await try_network("bridge", BRIDGE),
        "newest": await try_newest(),
        **{kind: await try_bad(kind) for kind in ("rubbish", "impossible", "failing", "hanging", "broken")},
    }
    hung = Path("/run/hung").read_text().strip()
    process = Path("/proc", hung, "stat")
    # Nobody here takes up what has ended.
    seen["hanging"]["still there"] = process.exists() and process.read_text().rpartition(")")[2].split()[0] != "Z"
    json.dump(seen, sys.stdout)


asyncio.run(main())
