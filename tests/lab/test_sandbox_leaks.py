"""Pods made and removed one after another leave nothing, in zonald, in the store, in the network and on the disk.

``ZONAL_SANDBOXES`` says how many.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
import pytest

from tests.kube.client import CriClient
from tests.lab.driver import Host, Snapshot, assert_nothing_left
from tests.lab.test_cri import (
    client,
    container_config,
    ended,
    pod_config,
    remove_pod,
    run_pod,
    start_container,
    the_host,
    the_socket,
)
from zonal.cri.api import runtime_pb2 as pb
from zonal.cri.node.files import CNI_FILE, CNI_FOLDER, pod_network
from zonal.cri.node.options import NodeOptions

pytestmark = [pytest.mark.lab, pytest.mark.long]
SANDBOXES = int(os.environ.get("ZONAL_SANDBOXES", "5"))
KINDS = 5
__all__ = ["the_host", "the_socket"]

_LISTS = {
    "namespaces": "ls /run/netns 2>/dev/null",
    "interfaces": "ip -o link | awk '{print $2}'",
    # Of iptables too, which Debian has by nftables.
    "rules": "nft -s list ruleset",
    "leases": "find /run/zonal/network /var/lib/cni -type f 2>/dev/null | grep -v -e /last_reserved_ip -e /lock$",
    "files": "find /var/lib/zonal /run/zonal | grep -v -e /blobs/ -e sqlite -e '[.]db' -e /system/",
    "processes": "ps -eo args= | grep -e zonal -e cni -e blkback -e vif | grep -v -E '^(ps|grep|sh|bash) ' | sort",
}
"""What can be told by lines."""


@dataclass(frozen=True)
class Left:
    """What there is in the host that a pod may leave behind, besides what any zone may."""

    zones: Snapshot
    lines: dict[str, list[str]]
    mapped_areas: int
    """Of zonald's address space: each page of a zone that it has mapped is one."""


@pytest.fixture(autouse=True, scope="module")
def pods_network(host: Host) -> Iterator[None]:
    """A configuration for CNI, where the host has none."""
    made = f"mkdir -p {CNI_FOLDER} && echo '{pod_network(NodeOptions())}' > {CNI_FILE}"
    had_one = bool(host.shell(f"ls {CNI_FOLDER}/*.conf* 2>/dev/null || ({made})"))
    yield
    if not had_one:
        host.shell(f"rm {CNI_FILE}")


def look(host: Host) -> Left:
    """Taken when nothing is under way."""
    lines = {what: host.shell(f"{command}; true").splitlines() for what, command in _LISTS.items()}
    areas = int(host.shell(f"wc -l < /proc/{host.zonald()}/maps"))
    return Left(host.snapshot(), lines, areas)


async def one(cri: CriClient, number: int) -> None:
    """A pod of one of five kinds, from nothing to nothing."""
    kind = number % KINDS
    name = f"leak-{number}"
    config = pod_config(name)
    if kind == 1:
        config.port_mappings.append(pb.PortMapping(protocol=pb.TCP, container_port=80, host_port=18080))
    pod = await run_pod(cri, config)
    if kind == 1:  # removed while it runs, with a directory of the host
        container = container_config("runs", "sleep", "1000")
        container.mounts.append(pb.Mount(container_path="/host", host_path="/usr/share/zoneinfo", readonly=True))
        await start_container(cri, pod, container, config)
    elif kind == 2:  # ended by itself, with output
        container = container_config("ends", "sh", "-c", "seq 1000; exit 3")
        assert (await ended(cri, await start_container(cri, pod, container, config))).exit_code == 3
    elif kind == 3:  # never started
        with pytest.raises(grpc.aio.AioRpcError):
            await start_container(cri, pod, container_config("none", "/no/such/program"), config)
    elif kind == 4:  # two, one of which was removed by itself, and exec
        first = await start_container(cri, pod, container_config("first", "sleep", "1000"), config)
        second = await start_container(cri, pod, container_config("second", "sleep", "1000"), config)
        done = pb.ExecSyncRequest(container_id=second, cmd=["true"])
        assert (await cri.call("ExecSync", done, pb.ExecSyncResponse)).exit_code == 0
        await cri.call("RemoveContainer", pb.RemoveContainerRequest(container_id=first), pb.RemoveContainerResponse)
    await remove_pod(cri, pod)


async def test_pods_leave_nothing(host: Host, socket: Path) -> None:
    async with client(socket) as cri:
        for each in (await cri.call("ListPodSandbox", pb.ListPodSandboxRequest(), pb.ListPodSandboxResponse)).items:
            await remove_pod(cri, each.id)  # of another's
        for number in range(KINDS):  # which fills caches, and has modules loaded
            await one(cri, number)
    before = look(host)
    async with client(socket) as cri:
        for number in range(KINDS, KINDS + SANDBOXES):
            await one(cri, number)
        for call, request, reply in (
            ("ListPodSandbox", pb.ListPodSandboxRequest(), pb.ListPodSandboxResponse),
            ("ListContainers", pb.ListContainersRequest(), pb.ListContainersResponse),
        ):
            assert not (await cri.call(call, request, reply)).ListFields()
    after = look(host)
    assert host.zones() == []
    for what, lines in before.lines.items():
        assert after.lines[what] == lines, what
    assert after.mapped_areas <= before.mapped_areas + 16
    assert_nothing_left(before.zones, after.zones, growth_kib=4096 + 16 * SANDBOXES)
