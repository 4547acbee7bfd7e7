"""How a workload is run and confined inside of its zone, as its own kernel tells."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.driver import IMAGE, Host, NamedLab

pytestmark = pytest.mark.lab
LOOP = "trap 'exit 0' TERM; while :; do sleep 0.2; done"
OPTIONS = (
    *("--cap-drop", "ALL", "--cap-add", "NET_ADMIN", "--cap-add", "cap_chown", "--security-opt", "no-new-privileges"),
    *("--group-add", "audio", "--group-add", "4711", "--ulimit", "nofile=100:200", "--ulimit", "core=0"),
    *("--sysctl", "vm.max_map_count=300000", "--sysctl", "kernel.msgmax=16384", "--sysctl", "net.core.somaxconn=77"),
    *("--pids-limit", "50", "--memory-reservation", "16M", "--shm-size", "32M", "--oom-score-adj", "321"),
    *("--domainname", "example.org", "--init", "--label", "role=test", "--annotation", "org.example=1"),
    *("--device", "/dev/net/tun", "--device", "/dev/fuse:/dev/other:r", "--device-cgroup-rule", "c 1:11 r"),
    *("--stop-timeout", "3", "--expose", "80", "--security-opt", "systempaths=unconfined"),
)


@pytest.fixture(name="host", scope="module")
def the_host(lab: NamedLab) -> Iterator[Host]:
    host = Host(lab)
    yield host
    host.remove_all()


@pytest.fixture(name="confined", scope="module")
def the_confined(host: Host, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A zone with most options; its name."""
    file = tmp_path_factory.mktemp("id") / "id"
    arguments = ("-d", "-m", "128M", "--name", "confined", "--cidfile", str(file))
    done = host.zonal("run", *arguments, *OPTIONS, IMAGE, "sh", "-c", LOOP)
    assert done.returncode == 0, done.stderr
    assert file.read_text() == done.stdout.decode().strip()
    again = host.zonal("run", "--cidfile", str(file), IMAGE, "true")
    assert again.returncode == 125
    assert b"is there already" in again.stderr
    return "confined"


def inside(host: Host, name: str, script: str, *options: str) -> list[str]:
    done = host.zonal("exec", *options, name, "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().splitlines()


def status(host: Host, name: str, *options: str, pid: str = "self") -> dict[str, str]:
    lines = inside(host, name, f"cat /proc/{pid}/status", *options)
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def inspected(host: Host, name: str) -> dict[str, Any]:
    return json.loads(host.zonal("inspect", name).stdout)[0]


def run(host: Host, *arguments: str) -> list[str]:
    done = host.run(*arguments)
    return done.stdout.decode().splitlines()


def test_what_nobody_has_chosen_is_as_docker_has_it(host: Host) -> None:
    script = (
        "grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status | tr -d '\\t'; "
        "unshare -m true 2>&1; mount -t tmpfs x /mnt 2>&1; { echo x > /proc/sys/kernel/domainname; } 2>&1; "
        "findmnt -no SIZE /dev/shm | tr -d ' '; cat /proc/kcore | wc -c; ulimit -n"
    )
    lines = run(host, IMAGE, "sh", "-c", script)
    told = dict(line.split(":") for line in lines[:4])
    assert told == {"CapEff": "00000000a80425fb", "CapBnd": "00000000a80425fb", "NoNewPrivs": "0", "Seccomp": "2"}
    rest = "\n".join(lines[4:])
    assert "unshare failed: Operation not permitted" in rest
    assert "permission denied" in rest
    assert "Read-only file system" in rest
    assert lines[-3:] == ["64M", "0", "1024"]


def test_options_are_enforced_by_the_zones_kernel(host: Host, confined: str) -> None:
    first = status(host, confined, pid="1")
    own = status(host, confined)
    for told in (first, own):
        assert told["CapBnd"] == told["CapEff"] == f"{1 << 12 | 1:016x}"  # CAP_NET_ADMIN, CAP_CHOWN
        assert (told["NoNewPrivs"], told["Seccomp"]) == ("1", "2")
        assert told["Groups"].split() == ["0", "29", "4711"]
    assert first["Name"] == "init" or "tini" in first["Name"]
    script = (
        "ulimit -n; ulimit -Hn; ulimit -c; cat /proc/sys/vm/max_map_count /proc/sys/kernel/msgmax "
        "/proc/sys/net/core/somaxconn /proc/sys/kernel/domainname; findmnt -no SIZE /dev/shm | tr -d ' '; "
        "cat /proc/1/oom_score_adj /sys/fs/cgroup/pids.max /sys/fs/cgroup/memory.low"
    )
    assert inside(host, confined, script) == [
        *("100", "200", "0", "300000", "16384", "77", "example.org", "32M", "321", "50", str(16 << 20)),
    ]


def test_devices_of_the_zones_kernel_can_be_opened(host: Host, confined: str) -> None:
    script = (
        "exec 3<>/dev/net/tun && echo tun; exec 4</dev/other && echo fuse; (exec 5>/dev/other) 2>/dev/null || echo no; "
        "mknod /kmsg c 1 11; dd if=/kmsg bs=8192 count=1 2>/dev/null | grep -c .; (exec 6>/kmsg) 2>/dev/null || echo no"
    )
    assert inside(host, confined, script, "--privileged") == ["tun", "fuse", "no", "1", "no"]
    done = host.zonal("run", "--rm", "-m", "128M", "--device", "/dev/no-such", IMAGE, "true")
    assert done.returncode == 125
    assert b"/dev/no-such" in done.stderr


def test_inspect_has_dockers_keys(host: Host, confined: str) -> None:
    found = inspected(host, confined)
    host_config, config = found["HostConfig"], found["Config"]
    assert host_config["CapAdd"] == ["CAP_NET_ADMIN", "CAP_CHOWN"]
    assert host_config["CapDrop"] == ["ALL"]
    assert host_config["SecurityOpt"] == ["no-new-privileges", "systempaths=unconfined"]
    assert host_config["GroupAdd"] == ["audio", "4711"]
    assert {"Name": "nofile", "Soft": 100, "Hard": 200} in host_config["Ulimits"]
    assert (host_config["PidsLimit"], host_config["ShmSize"], host_config["OomScoreAdj"]) == (50, 32 << 20, 321)
    assert host_config["Sysctls"]["vm.max_map_count"] == "300000"
    assert [each["PathInContainer"] for each in host_config["Devices"]] == ["/dev/net/tun", "/dev/other"]
    assert (host_config["Init"], host_config["Privileged"]) == (True, False)
    assert config["Labels"]["role"] == "test"
    assert (config["StopTimeout"], config["ExposedPorts"], config["Domainname"]) == (3, {"80/tcp": {}}, "example.org")
    assert host.zonal("ps", "-q", "-f", "label=role=test").stdout
    assert not host.zonal("ps", "-q", "-f", "label=role=other").stdout


def test_everything_is_there_for_the_privileged(host: Host) -> None:
    script = (
        "grep -E 'CapEff|Seccomp:' /proc/self/status | cut -f2; mount -t tmpfs x /mnt && echo mounted; "
        "mkdir /sys/fs/cgroup/mine && echo group; ls /dev/xvda /dev/kmsg; head -c 4 /dev/xvda | wc -c; "
        "echo 1 > /proc/sys/vm/overcommit_memory && echo written; findmnt -no OPTIONS /sys | cut -d, -f1"
    )
    lines = run(host, "--privileged", IMAGE, "sh", "-c", script)
    assert lines == [
        *("000001ffffffffff", "0", "mounted", "group", "/dev/kmsg", "/dev/xvda", "4", "written", "rw"),
    ]


def test_a_users_own_filter(host: Host, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    refused = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [refused]}))
    script = "mkdir /x 2>&1; unshare -U true; id -u"
    lines = run(host, "--security-opt", f"seccomp={profile}", IMAGE, "sh", "-c", script)
    assert lines == ["mkdir: cannot create directory '/x': No space left on device", "0"]
    lines = run(host, "--security-opt", "seccomp=unconfined", IMAGE, "grep", "Seccomp:", "/proc/self/status")
    assert lines == ["Seccomp:\t0"]
    profile.write_text("{")
    done = host.zonal("run", "--security-opt", f"seccomp={profile}", IMAGE, "true")
    assert done.returncode == 125
    assert b"seccomp profile is not JSON" in done.stderr


def test_root_of_a_user_namespace_is_nobody_in_its_zone(host: Host) -> None:
    script = (
        "cat /proc/self/uid_map | tr -s ' '; stat -c %u:%g /bin/sh / /data /data/kept; touch /made /data/made; "
        "chown daemon /made; stat -c %u /made; cat /data/kept; hostname changed 2>&1; " + LOOP
    )
    text = host.zonal("run", "--rm", "-m", "128M", "-v", "mapped:/data", IMAGE, "sh", "-c", "echo kept > /data/kept")
    assert text.returncode == 0, text.stderr
    arguments = ("-d", "-m", "128M", "--name", "mapped", "--userns", "auto", "-v", "mapped:/data")
    done = host.zonal("run", *arguments, IMAGE, "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    assert inside(
        host, "mapped", 'until [ "$(stat -c %u /made)" = 1 ]; do sleep 0.2; done; stat -c %u:%g /made /data/made; id -u'
    ) == ["1:0", "0:0", "0"]
    lines = host.zonal("logs", "mapped").stdout.decode().splitlines()
    assert lines[:6] == [" 0 1048576 65536", "0:0", "0:0", "0:0", "0:0", "1"]
    assert lines[6] == "kept"
    assert inspected(host, "mapped")["HostConfig"]["UsernsMode"] == "private"
    assert host.zonal("commit", "mapped", "mapped:1").returncode == 0
    assert host.zonal("restart", "mapped").returncode == 0
    assert inside(host, "mapped", "stat -c %u /made") == ["1"]
    assert run(host, "mapped:1", "stat", "-c", "%u:%g", "/made", "/") == ["1:0", "0:0"]


def test_what_is_shared_with_the_zone(host: Host) -> None:
    script = "cat /proc/1/comm; ls /dev/shm 2>&1; cat /proc/self/cgroup; sh -c 'sleep 1000' & echo done"
    options = ("--pid", "host", "--cgroupns", "host", "--ipc", "none")
    lines = run(host, *options, IMAGE, "sh", "-c", script)
    assert lines[0] != "sh"
    assert "No such file" in lines[1]
    assert lines[2:] == ["0::/zonal/workload", "done"]


def test_hooks_run_in_the_zone(host: Host, tmp_path: Path) -> None:
    hook = {"path": "/bin/sh", "args": ["sh", "-c", "cat > /state; echo hooked > /hooked"]}
    document = {"version": "1.0.0", "hook": hook, "when": {"always": True}, "stages": ["startContainer"]}
    (tmp_path / "one.json").write_text(json.dumps(document))
    lines = run(host, "--oci-hooks-dir", str(tmp_path), IMAGE, "sh", "-c", "cat /hooked; grep -c ociVersion /state")
    assert lines == ["hooked", "1"]
    hook["args"] = ["sh", "-c", "exit 3"]
    document["stages"] = ["createRuntime"]
    (tmp_path / "one.json").write_text(json.dumps(document))
    assert host.zonal("run", "--rm", "-m", "128M", "--oci-hooks-dir", str(tmp_path), IMAGE, "true").returncode == 125
