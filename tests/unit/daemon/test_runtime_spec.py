from __future__ import annotations

import json
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.unit.daemon.conftest import Client, spec
from zonal.api import control_pb2 as pb
from zonal.daemon.labels import MAX_ENTRIES, MAX_TEXT, checked_labels, checked_ports
from zonal.daemon.runtime_spec import resolve_runtime, runtime_message
from zonal.errors import InvalidInputError
from zonal.zones.runtime_options import UNLIMITED, IdMap

FULL = pb.RuntimeOptions(
    security=pb.Security(
        cap_add=["net_admin", "CAP_BPF"],
        cap_drop=["all"],
        no_new_privileges=True,
        seccomp=json.dumps({"defaultAction": "SCMP_ACT_ALLOW"}),
        unmasked=True,
        own_paths=True,
        masked_paths=("/proc/kcore",),
        readonly_paths=("/proc/sys",),
        writable_cgroups=True,
        groups=["audio", "4711"],
    ),
    limits=pb.WorkloadLimits(
        ulimits=[pb.Ulimit(name="nofile", soft=10, hard=20), pb.Ulimit(name="core", soft=-1, hard=-1)],
        pids=50,
        memory_bytes=64 << 20,
        memory_reservation_bytes=32 << 20,
        cpu_shares=512,
        cpu_quota_us=50_000,
        cpu_period_us=100_000,
        oom_score_adj=-500,
    ),
    namespaces=pb.Namespaces(
        ipc="none", uts="host", cgroup="host", uids=[pb.IdMap(container=0, zone=100_000, size=65536)]
    ),
    device_rules=["c 10:200 rwm", "a *:* m"],
    hooks=[pb.Hook(stage="poststop", path="/bin/sh", args=["sh", "-c", "true"], env=["A=1"], timeout_seconds=3)],
    sysctls={"net.ipv4.ip_forward": "1", "kernel/shmmax": "65536"},
    annotations={"org.example": "x"},
    init=True,
    domainname="example.org",
    shm_bytes=1 << 20,
)


def test_all_of_it_is_kept_and_told_again() -> None:
    options = resolve_runtime(FULL)
    assert options.security.cap_add == ("CAP_NET_ADMIN", "CAP_BPF")
    assert options.security.cap_drop == ("ALL",)
    assert (options.limits.ulimits[1].soft, options.limits.ulimits[1].hard) == (UNLIMITED, UNLIMITED)
    assert options.namespaces.gids == options.namespaces.uids == (IdMap(0, 100_000, 65536),)
    assert options.sysctls == (("kernel.shmmax", "65536"), ("net.ipv4.ip_forward", "1"))
    assert resolve_runtime(runtime_message(options)) == options


def test_nothing_is_nothing() -> None:
    options = resolve_runtime(pb.RuntimeOptions())
    assert runtime_message(options) == runtime_message(resolve_runtime(runtime_message(options)))
    for mode in ("private", "shareable"):
        assert resolve_runtime(pb.RuntimeOptions(namespaces=pb.Namespaces(ipc=mode))) == options


@pytest.mark.parametrize(
    ("user", "maps"),
    [
        ("", ()),
        ("host", ()),
        ("auto", (IdMap(0, 1 << 20, 65536),)),
        ("auto:size=1000", (IdMap(0, 1 << 20, 1000),)),
    ],
)
def test_user_namespaces_by_name(user: str, maps: tuple[IdMap, ...]) -> None:
    spaces = resolve_runtime(pb.RuntimeOptions(namespaces=pb.Namespaces(user=user))).namespaces
    assert spaces.uids == spaces.gids == maps


def security(**values: Any) -> pb.RuntimeOptions:
    return pb.RuntimeOptions(security=pb.Security(**values))


def limits(**values: Any) -> pb.RuntimeOptions:
    return pb.RuntimeOptions(limits=pb.WorkloadLimits(**values))


def ulimit(name: str, soft: int, hard: int) -> pb.RuntimeOptions:
    return limits(ulimits=[pb.Ulimit(name=name, soft=soft, hard=hard)])


def spaces(**values: Any) -> pb.RuntimeOptions:
    return pb.RuntimeOptions(namespaces=pb.Namespaces(**values))


def maps(*numbers: tuple[int, int, int]) -> pb.RuntimeOptions:
    return spaces(uids=[pb.IdMap(container=c, zone=z, size=s) for c, z, s in numbers])


def hook(**values: Any) -> pb.RuntimeOptions:
    made = pb.Hook(**values)
    made.stage, made.path = made.stage or "poststop", made.path or "/bin/true"
    return pb.RuntimeOptions(hooks=[made])


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (security(cap_add=["NO_SUCH"]), "'NO_SUCH'"),
        (security(cap_drop=[""]), "capability ''"),
        (security(cap_add=["CHOWN"] * (MAX_ENTRIES + 1)), "too many"),
        (security(groups=["a:b"]), "'a:b'"),
        (security(groups=[""]), "''"),
        (security(seccomp="{"), "not JSON"),
        (ulimit("nofile", 20, 10), "nofile cannot be 20 at first and 10"),
        (ulimit("nofile", -1, 10), "nofile"),
        (ulimit("nofile", -2, -2), "below -1"),
        (ulimit("NOFILE", 1, 1), "'NOFILE'"),
        (limits(pids=1 << 30), str(1 << 30)),
        (limits(memory_bytes=4096), "4096"),
        (limits(memory_bytes=8 << 20, memory_reservation_bytes=16 << 20), "reserved"),
        (limits(cpu_shares=1), "1 are no CPU shares"),
        (limits(cpu_period_us=10), "period"),
        (limits(oom_score_adj=1001), "1001"),
        (spaces(ipc="container:other"), "another zone's"),
        (spaces(ipc="nobody"), "'nobody'"),
        (spaces(pid="none"), "'none'"),
        (spaces(pid="host", user="auto"), "process ids"),
        (spaces(user="keep-id"), "'keep-id'"),
        (spaces(user="auto:size=0"), "maps no user ids"),
        (spaces(user="auto:size=9999999999"), "maps no user ids"),
        (spaces(user="auto", uids=[pb.IdMap(size=1)]), "has no maps"),
        (maps((0, 0, 0)), "0:0:0"),
        (maps((1, 1, 1)), "id 0 is not mapped"),
        (maps((0, 0, 10), (5, 100, 10)), "twice"),
        (maps((0, 0, 10), (10, 5, 10)), "twice"),
        (maps((0, 0xFFFFFFFF, 1)), "maps no user ids"),
        (maps(*((n, n, 1) for n in range(400))), "too many"),
        (pb.RuntimeOptions(device_rules=["c 1 rwm"]), "'c 1 rwm'"),
        (pb.RuntimeOptions(device_rules=["c 9999999999:1 rwm"]), "no such device number"),
        (pb.RuntimeOptions(sysctls={"../../etc/passwd": "1"}), "'../../etc/passwd'"),
        (pb.RuntimeOptions(sysctls={"vm": "1"}), "'vm'"),
        (pb.RuntimeOptions(sysctls={"vm.x": "1\n2"}), "no kernel parameter"),
        (pb.RuntimeOptions(sysctls={"kernel.hostname": "x"}), "kernel.hostname"),
        (pb.RuntimeOptions(annotations={"a": "\0"}), "annotations"),
        (pb.RuntimeOptions(annotations={"a": "x" * (MAX_TEXT + 1)}), "annotations"),
        (pb.RuntimeOptions(domainname="-x"), "'-x'"),
        (pb.RuntimeOptions(shm_bytes=1 << 50), str(1 << 50)),
        (hook(stage="never"), "'never'"),
        (hook(path="true"), "'true'"),
        (hook(env=["A"]), "without a value"),
        (hook(args=["\0"]), "NUL"),
        (hook(timeout_seconds=100_000), "100000"),
    ],
)
def test_what_cannot_be_is_said_with_its_value(request_: pb.RuntimeOptions, said: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        resolve_runtime(request_)
    assert said in str(raised.value)


def test_what_an_image_has_is_taken_as_far_as_it_can_be() -> None:
    images = {"kept": "image", "both": "image", "long": "x" * (MAX_TEXT + 1)}
    assert checked_labels(images, {"both": "user"}) == (("both", "user"), ("kept", "image"))
    assert checked_labels({str(n): "" for n in range(2000)}, {})[MAX_ENTRIES:] == ()
    with pytest.raises(InvalidInputError):
        checked_labels({}, {"": "x"})
    assert checked_ports(["80", "0/tcp", "99999"], ["53/udp", "80/tcp", "7000-7001"]) == (
        *("80/tcp", "53/udp", "7000-7001/tcp"),
    )
    for text in ("x", "0", "70000", "9-8", "80/icmp"):
        with pytest.raises(InvalidInputError):
            checked_ports([], [text])


async def test_it_is_refused_with_a_status_and_told_on_inspect(client: Client) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await client.run(spec("true", runtime=spaces(pid="container:x")))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    values: dict[str, Any] = {"labels": {"a": "b"}, "stop_timeout_seconds": 0, "exposed_ports": ["80"], "name": "told"}
    await client.run(spec("true", runtime=FULL, **values))
    found = await client.call("InspectZone", pb.ZoneRef(zone="told"), pb.Zone)
    assert found.config.runtime == runtime_message(resolve_runtime(FULL))
    assert found.labels["a"] == "b"
    assert (found.config.stop_timeout_seconds, list(found.config.exposed_ports)) == (0, ["80/tcp"])


@pytest.mark.parametrize(
    "values",
    [
        {"stop_timeout_seconds": 1_000_000},
        {"exposed_ports": ["x"]},
        {"labels": {"": "x"}},
        {"runtime": pb.RuntimeOptions(security=pb.Security(privileged=True), namespaces=pb.Namespaces(user="auto"))},
        {
            "runtime": spaces(user="auto"),
            "mounts": [pb.Mount(type="device", source="/dev/sdz", target="/dev/sdz")],
        },
    ],
)
async def test_the_rest_is_checked_too(client: Client, values: dict[str, Any]) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await client.run(spec("true", **values))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
