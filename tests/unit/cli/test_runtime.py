from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.conftest import Zonal


@pytest.fixture(autouse=True)
def no_zones(zonal: Zonal) -> Iterator[None]:
    yield
    if names := zonal.names():
        assert zonal("zone", "rm", "-f", *names).returncode == 0


def inspected(zonal: Zonal, name: str) -> dict[str, Any]:
    return json.loads(zonal("inspect", name).stdout)[0]


def test_options_arrive_and_are_told_in_dockers_words(zonal: Zonal, tmp_path: Path) -> None:
    labels, profile, hooks = tmp_path / "labels", tmp_path / "profile.json", tmp_path / "hooks"
    labels.write_text("# comment\n\nfile=1\nboth=file\n")
    profile.write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    hooks.mkdir()
    options = [
        *("--cap-add", "net_admin,SYS_TIME", "--cap-drop=ALL", "--group-add", "audio", "--ulimit", "nofile=10:20"),
        *("--ulimit", "core=unlimited", "--pids-limit", "-1", "--memory-reservation", "16M", "--memory-swap", "1G"),
        *("--oom-score-adj", "-5", "--shm-size", "32M", "--sysctl", "vm.swappiness=10", "--ipc", "shareable"),
        *("--uts", "host", "--cgroupns", "private", "--userns", "auto", "--domainname", "example.org", "--init"),
        *("--security-opt", "no-new-privileges:true", "--security-opt", f"seccomp={profile}"),
        *("--security-opt", "apparmor=unconfined", "--security-opt", "systempaths=unconfined"),
        *("-l", "both=line", "-l", "alone", "--label-file", str(labels), "--annotation", "a=b", "--expose", "80-81"),
        *("--stop-timeout", "-1", "--device-cgroup-rule", "c 10:* r", "--oci-hooks-dir", str(hooks)),
        *("--device", "/dev/fuse:/dev/mine:rm"),
    ]
    done = zonal("run", "--name", "options", *options, "local:1", "true")
    assert done.returncode == 0, done.stderr
    assert b"has no swap" in done.stderr
    found = inspected(zonal, "options")
    host, config = found["HostConfig"], found["Config"]
    wanted = {
        "CapAdd": ["CAP_NET_ADMIN", "CAP_SYS_TIME"],
        "CapDrop": ["ALL"],
        "Privileged": False,
        "SecurityOpt": ["no-new-privileges", f"seccomp={profile.read_text()}", "systempaths=unconfined"],
        "GroupAdd": ["audio"],
        "Ulimits": [{"Name": "nofile", "Soft": 10, "Hard": 20}, {"Name": "core", "Soft": -1, "Hard": -1}],
        "PidsLimit": None,
        "MemoryReservation": 16 << 20,
        "OomScoreAdj": -5,
        "ShmSize": 32 << 20,
        "Sysctls": {"vm.swappiness": "10"},
        "IpcMode": "private",
        "UTSMode": "host",
        "UsernsMode": "private",
        "IDMappings": {"UidMap": ["0:1048576:65536"], "GidMap": ["0:1048576:65536"]},
        "Init": True,
        "Devices": [{"PathOnHost": "/dev/fuse", "PathInContainer": "/dev/mine", "CgroupPermissions": "rm"}],
        "DeviceCgroupRules": ["c 10:* r"],
        "Annotations": {"a": "b"},
    }
    assert {key: host[key] for key in wanted} == wanted
    assert config["Labels"].items() >= {"file": "1", "both": "line", "alone": ""}.items()
    assert config["ExposedPorts"].keys() >= {"80/tcp", "81/tcp"}
    assert (config["StopTimeout"], config["Domainname"]) == (86400, "example.org")
    assert found["Mounts"] == []


def test_zones_are_found_by_their_labels(zonal: Zonal) -> None:
    for name, labels in (("one", ["-l", "role=web", "-l", "x"]), ("two", ["-l", "role=db"])):
        assert zonal("run", "--name", name, *labels, "local:1", "true").returncode == 0

    def names(*filters: str) -> list[str]:
        done = zonal("ps", "-a", "--format", "json", *(word for each in filters for word in ("-f", each)))
        return sorted(json.loads(line)["name"] for line in done.stdout.splitlines())

    assert names("label=role") == ["one", "two"]
    assert names("label=role=db") == ["two"]
    assert names("label=role", "label=x") == ["one"]
    assert names("label=none") == []


def test_a_file_gets_the_id_and_is_gone_when_nothing_ran(zonal: Zonal, tmp_path: Path) -> None:
    file = tmp_path / "id"
    done = zonal("run", "-d", "--cidfile", str(file), "local:1", "true")
    assert file.read_text() == done.stdout.decode().strip()
    again = zonal("run", "--cidfile", str(file), "local:1", "true")
    assert again.returncode == 125
    assert b"is there already" in again.stderr
    file.unlink()
    assert zonal("run", "--cidfile", str(file), "local:1", "no-such").returncode == 127
    assert not file.exists()


def test_hooks_are_chosen_by_what_they_are_for(zonal: Zonal, tmp_path: Path) -> None:
    def write(name: str, when: dict[str, Any], **more: Any) -> None:
        hook = {"path": "/bin/sh", "args": ["sh", "-c", name]}
        document = {"version": "1.0.0", "hook": hook, "when": when, "stages": ["createRuntime", "poststop"], **more}
        (tmp_path / f"{name}.json").write_text(json.dumps(document))

    write("1-always", {"always": True})
    write("2-never", {"always": False})
    write("3-annotated", {"annotations": {"^org\\.": "^y"}})
    write("4-command", {"always": True, "commands": ["/true$"]})
    from zonal.api import control_pb2 as pb
    from zonal.cli.hooks import parse_hooks

    def chosen(command: str, **annotations: str) -> list[str]:
        spec = pb.RunSpec(command=[command], runtime=pb.RuntimeOptions(annotations=annotations))
        return [hook.args[2] for hook in parse_hooks([tmp_path], spec) if hook.stage == "poststop"]

    assert chosen("x") == ["1-always"]
    assert chosen("/bin/true", **{"org.x": "yes"}) == ["1-always", "3-annotated", "4-command"]
    for text in ("{", '{"version": "2.0.0"}', '{"version":"1.0.0","hook":{"path":"/x"},"when":{"moon":1},"stages":[]}'):
        (tmp_path / "5-wrong.json").write_text(text)
        done = zonal("run", "--oci-hooks-dir", str(tmp_path), "local:1", "true")
        assert done.returncode == 125
        assert b"5-wrong.json" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--cap-add", "MOON"], "'MOON'"),
        (["--security-opt", "apparmor=mine"], "no AppArmor"),
        (["--security-opt", "label=type:x"], "no SELinux"),
        (["--security-opt", "moon"], "'moon'"),
        (["--security-opt", "no-new-privileges=maybe"], "'maybe'"),
        (["--security-opt", "seccomp=/no/such"], "/no/such"),
        (["--security-opt", "seccomp=/etc/hostname"], "not JSON"),
        (["--ulimit", "nofile"], "'nofile'"),
        (["--ulimit", "moon=1"], "'moon'"),
        (["--ulimit", "nofile=2:1"], "nofile"),
        (["--pids-limit", "-2"], "-2"),
        (["--memory-swap", "much"], "'much'"),
        (["--oom-score-adj", "2000"], "--oom-score-adj"),
        (["--shm-size", "0"], "/dev/shm"),
        (["--sysctl", "net.x"], "'net.x'"),
        (["--ipc", "container:x"], "another zone's"),
        (["--pid", "moon"], "'moon'"),
        (["--userns", "keep-id"], "'keep-id'"),
        (["--uidmap", "1:2"], "'1:2'"),
        (["--uidmap", "0:9999999999:1"], "9999999999"),
        (["--device-cgroup-rule", "x"], "'x'"),
        (["--device", "/dev/no-such"], "does not exist"),
        (["--expose", "x"], "'x'"),
        (["--label", "=x"], "'=x'"),
        (["--label-file", "/no/such"], "/no/such"),
        (["--stop-timeout", "-2"], "-2"),
        (["--stop-timeout", "100000"], "100000"),
        (["--oci-hooks-dir", "/no/such"], "/no/such"),
        (["--cidfile", "/no/such/file"], "/no/such/file"),
        (["--privileged", "--userns", "auto"], "--privileged"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(zonal: Zonal, arguments: list[str], said: str) -> None:
    done = zonal("run", *arguments, "local:1", "true")
    assert done.returncode == 125
    assert said in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()
    assert zonal.names() == []


def test_what_is_not_utf8_is_refused(zonal: Zonal) -> None:
    done = zonal("run", "--label", os.fsdecode(b"x=\xff"), "local:1", "true")
    assert done.returncode == 125
    assert b"UTF-8" in done.stderr
