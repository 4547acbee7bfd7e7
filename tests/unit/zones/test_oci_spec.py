from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zonal.errors import InvalidInputError
from zonal.images.config import ImageConfig
from zonal.zones.capabilities import ALL_CAPABILITIES, CAPABILITIES
from zonal.zones.oci_spec import (
    DEFAULT_PATH,
    INIT,
    MAX_STRING_BYTES,
    ZONE_INIT,
    Process,
    ProcessOptions,
    exec_process,
    resolve_process,
    runtime_config,
)
from zonal.zones.runtime_options import (
    DeviceRule,
    Hook,
    IdMap,
    Limits,
    Namespaces,
    RuntimeOptions,
    Security,
    Ulimit,
)
from zonal.zones.seccomp import seccomp_program
from zonal.zones.spec import ExecSpec, TerminalSize, ZoneRecord, ZoneSpec, ZoneState
from zonal.zones.state import decode_record, encode_record

IMAGE = ImageConfig(
    entrypoint=("/entry",),
    command=("default", "arguments"),
    env=("PATH=/image/bin", "LANG=C.UTF-8"),
    working_directory="/srv",
    user="app:staff",
    stop_signal=2,
)
SPEC = ZoneSpec(
    id="a" * 64,
    name="some_zone",
    image="debian:13",
    image_id="sha256:" + "b" * 64,
    erofs_path="/images/x.erofs",
    command=("sh", "-c", 'echo "ä b" $X'),
    env=("PATH=/bin", "X=ü 'quoted'"),
    hostname="host-1",
)


def process(options: ProcessOptions, image: ImageConfig = IMAGE) -> Process:
    return resolve_process(image, options)


def config(spec: ZoneSpec) -> dict[str, Any]:
    return runtime_config(spec)


class TestResolution:
    def test_the_image_says_what_the_user_does_not(self) -> None:
        assert process(ProcessOptions()) == Process(
            command=("/entry", "default", "arguments"),
            env=("PATH=/image/bin", "LANG=C.UTF-8"),
            cwd="/srv",
            user="app:staff",
            stop_signal=2,
        )

    def test_a_command_replaces_the_images_and_keeps_its_entrypoint(self) -> None:
        assert process(ProcessOptions(command=("x",))).command == ("/entry", "x")

    def test_an_entrypoint_makes_the_images_command_meaningless(self) -> None:
        assert process(ProcessOptions(entrypoint="/mine")).command == ("/mine",)
        assert process(ProcessOptions(entrypoint="/mine", command=("x",))).command == ("/mine", "x")

    def test_an_empty_entrypoint_leaves_the_command_alone(self) -> None:
        assert process(ProcessOptions(entrypoint="", command=("x",))).command == ("x",)

    @pytest.mark.parametrize("options", [ProcessOptions(entrypoint=""), ProcessOptions(entrypoint="", command=("",))])
    def test_nothing_to_run_is_refused(self, options: ProcessOptions) -> None:
        with pytest.raises(InvalidInputError):
            process(options)
        with pytest.raises(InvalidInputError):
            process(ProcessOptions(), ImageConfig())

    def test_variables_are_set_replaced_and_removed(self) -> None:
        env = process(ProcessOptions(env=("LANG", "A=1", "PATH=/x", "A=2=3", "EMPTY="))).env
        assert env == ("PATH=/x", "A=2=3", "EMPTY=")

    def test_without_any_variables_there_is_a_path(self) -> None:
        env = process(ProcessOptions(command=("x",), terminal=True, hostname="h"), ImageConfig()).env
        assert env == (f"PATH={DEFAULT_PATH}", "HOSTNAME=h", "TERM=xterm")

    def test_the_users_wishes_come_before_the_images(self) -> None:
        made = process(ProcessOptions(working_directory="/w", user="0:0", stop_signal="KILL"))
        assert (made.cwd, made.user, made.stop_signal) == ("/w", "0:0", 9)

    @pytest.mark.parametrize(
        "options",
        [
            ProcessOptions(working_directory="relative"),
            ProcessOptions(user=":group"),
            ProcessOptions(user="a:b:c"),
            ProcessOptions(env=("=x",)),
            ProcessOptions(env=("",)),
            ProcessOptions(env=("A=\0",)),
            ProcessOptions(command=("x\0y",)),
            ProcessOptions(command=("\ud800",)),
            ProcessOptions(stop_signal="NONE"),
            ProcessOptions(command=("x" * (MAX_STRING_BYTES + 1),)),
            ProcessOptions(command=("x" * MAX_STRING_BYTES,) * 9),
        ],
    )
    def test_what_linux_cannot_take_is_refused(self, options: ProcessOptions) -> None:
        with pytest.raises(InvalidInputError):
            process(options)

    @given(st.lists(st.text(max_size=8), max_size=6), st.lists(st.text(max_size=8), max_size=6))
    def test_anything_is_either_refused_or_fit_for_execve(self, command: list[str], env: list[str]) -> None:
        try:
            made = process(ProcessOptions(command=tuple(command), env=tuple(env)))
        except InvalidInputError:
            return
        names = [entry.split("=")[0] for entry in made.env]
        assert len(set(names)) == len(names)
        assert all(entry.partition("=")[1] for entry in made.env)
        assert not any("\0" in text for text in (*made.command, *made.env))
        spec = replace(SPEC, command=made.command, env=made.env)
        assert config(spec)["process"]["args"] == list(made.command)


class TestRuntimeConfig:
    def test_arguments_and_variables_arrive_as_they_are(self) -> None:
        made = config(SPEC)["process"]
        assert made["args"] == ["sh", "-c", 'echo "ä b" $X']
        assert made["env"] == ["PATH=/bin", "X=ü 'quoted'"]

    def test_root_has_dockers_capabilities_and_others_only_may_gain_them(self) -> None:
        assert len(CAPABILITIES) == 14
        for user in ("", "0", "root", "root:staff", "0:5"):
            made = config(replace(SPEC, user=user))["process"]["capabilities"]
            assert made["bounding"] == made["effective"] == made["permitted"] == list(CAPABILITIES)
        made = config(replace(SPEC, user="app"))["process"]["capabilities"]
        assert made == {"bounding": list(CAPABILITIES), "effective": [], "permitted": []}

    def test_the_network_and_the_users_are_the_zones(self) -> None:
        kinds = [namespace["type"] for namespace in config(SPEC)["linux"]["namespaces"]]
        assert sorted(kinds) == ["cgroup", "ipc", "mount", "pid", "uts"]

    def test_a_terminal_has_a_size(self) -> None:
        assert "consoleSize" not in config(SPEC)["process"]
        made = config(replace(SPEC, terminal=True, terminal_size=TerminalSize(50, 132)))["process"]
        assert made["terminal"] is True
        assert made["consoleSize"] == {"height": 50, "width": 132}

    def test_the_root_can_be_read_only(self) -> None:
        assert config(SPEC)["root"] == {"path": "rootfs", "readonly": False}
        assert config(replace(SPEC, read_only=True))["root"]["readonly"] is True

    def test_the_kernels_own_file_systems_are_there(self) -> None:
        mounts = {mount["destination"]: mount for mount in config(SPEC)["mounts"]}
        assert set(mounts) == {
            "/proc", "/dev", "/dev/pts", "/sys", "/sys/fs/cgroup", "/dev/mqueue", "/dev/shm",
        }  # fmt: skip
        assert "ro" in mounts["/sys"]["options"]
        assert "ro" in mounts["/sys/fs/cgroup"]["options"]

    def test_all_devices_are_shut_but_the_harmless(self) -> None:
        rules = config(SPEC)["linux"]["resources"]["devices"]
        assert rules[0] == {"allow": False, "access": "rwm"}
        opened = {(rule.get("major"), rule.get("minor")) for rule in rules[1:] if "r" in rule["access"]}
        harmless = {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, None)}
        # xvdt to xvdz, which are given to containers as devices; never those that hold roots and volumes.
        assert opened == harmless | {(202, 256 * number) for number in range(19, 26)}


def with_options(**values: Any) -> ZoneSpec:
    return replace(SPEC, runtime=RuntimeOptions(**values))


class TestRuntimeOptions:
    def test_capabilities_are_added_and_dropped_as_docker_reckons(self) -> None:
        def bounding(add: tuple[str, ...], drop: tuple[str, ...], *, privileged: bool = False) -> set[str]:
            security = Security(cap_add=add, cap_drop=drop, privileged=privileged)
            return set(config(with_options(security=security))["process"]["capabilities"]["bounding"])

        usual, every = set(CAPABILITIES), set(ALL_CAPABILITIES)
        assert bounding(("CAP_SYS_TIME",), ("CAP_KILL",)) == usual - {"CAP_KILL"} | {"CAP_SYS_TIME"}
        assert bounding(("ALL",), ("CAP_KILL",)) == every - {"CAP_KILL"}
        assert bounding(("CAP_KILL",), ("ALL",)) == {"CAP_KILL"}
        assert bounding((), ("ALL",)) == set()
        assert bounding(("ALL",), ("ALL",)) == every
        assert bounding((), ("ALL",), privileged=True) == every

    def test_a_further_process_is_confined_as_the_workload(self) -> None:
        security = Security(cap_drop=("ALL",), no_new_privileges=True)
        limits = Limits(ulimits=(Ulimit("nofile", 5, 6),), oom_score_adj=7)
        zone = with_options(security=security, limits=limits)
        first, made = config(zone)["process"], exec_process(zone, ExecSpec(command=("x",)))
        for key in ("capabilities", "rlimits", "noNewPrivileges", "oomScoreAdj"):
            assert made[key] == first[key]
        privileged = exec_process(zone, ExecSpec(command=("x",), privileged=True))
        assert privileged["capabilities"]["effective"] == list(ALL_CAPABILITIES)
        assert first["rlimits"] == [{"type": "RLIMIT_NOFILE", "soft": 5, "hard": 6}]

    def test_a_filter_goes_along_compiled(self) -> None:
        data = config(SPEC)["annotations"]["run.oci.seccomp_bpf_data"]
        assert base64.b64decode(data) == seccomp_program("", CAPABILITIES)
        assert "annotations" not in config(with_options(security=Security(seccomp="unconfined")))

    def test_the_privileged_have_all_of_the_zone(self) -> None:
        made = config(with_options(security=Security(privileged=True)))
        assert made["linux"]["maskedPaths"] == made["linux"]["readonlyPaths"] == []
        assert made["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
        options = {mount["destination"]: mount["options"] for mount in made["mounts"]}
        assert "rw" in options["/sys"]
        assert "rw" in options["/sys/fs/cgroup"]
        assert "annotations" not in made

    def test_paths_are_masked_as_asked(self) -> None:
        made = config(with_options(security=Security(own_paths=True, masked_paths=("/proc/kcore",))))
        assert (made["linux"]["maskedPaths"], made["linux"]["readonlyPaths"]) == (["/proc/kcore"], [])
        assert "/proc/kcore" in config(SPEC)["linux"]["maskedPaths"]

    def test_namespaces_are_shared_with_the_zone_or_not(self) -> None:
        def kinds(**values: Any) -> set[str]:
            made = config(with_options(namespaces=Namespaces(**values)))
            return {each["type"] for each in made["linux"]["namespaces"]}

        assert kinds() == {"pid", "mount", "ipc", "uts", "cgroup"}
        assert kinds(pid="host", ipc="host", uts="host", cgroup="host") == {"mount"}
        maps = (IdMap(0, 1000, 10),)
        assert "user" in kinds(uids=maps, gids=maps)
        made = config(with_options(namespaces=Namespaces(uids=maps, gids=maps)))["linux"]
        assert made["uidMappings"] == made["gidMappings"] == [{"containerID": 0, "hostID": 1000, "size": 10}]
        assert "hostname" not in config(with_options(namespaces=Namespaces(uts="host"), domainname="x"))

    def test_shared_memory(self) -> None:
        def mounts(**values: Any) -> dict[str, Any]:
            return {mount["destination"]: mount for mount in config(with_options(**values))["mounts"]}

        assert f"size={1 << 20}" in mounts(shm_bytes=1 << 20)["/dev/shm"]["options"]
        assert "/dev/shm" not in mounts(namespaces=Namespaces(ipc="none"))
        assert mounts(namespaces=Namespaces(ipc="host"))["/dev/shm"]["type"] == "bind"

    def test_parameters_of_the_container_are_told_from_the_zones(self) -> None:
        sysctls = (("fs.mqueue.msg_max", "5"), ("kernel.shmmax", "1"), ("vm.swappiness", "1"))
        assert config(with_options(sysctls=sysctls))["linux"]["sysctl"] == {
            "fs.mqueue.msg_max": "5",
            "kernel.shmmax": "1",
        }
        assert "sysctl" not in config(with_options(sysctls=sysctls, namespaces=Namespaces(ipc="host")))["linux"]

    def test_limits_of_the_control_group(self) -> None:
        limits = Limits(
            pids=5, memory_bytes=8, memory_reservation_bytes=4, cpu_shares=2, cpu_quota_us=1, cpu_period_us=3
        )
        resources = config(with_options(limits=limits))["linux"]["resources"]
        assert resources["pids"] == {"limit": 5}
        assert resources["memory"] == {"limit": 8, "swap": 8, "reservation": 4}
        assert resources["cpu"] == {"shares": 2, "quota": 1, "period": 3}
        assert config(SPEC)["linux"]["resources"].keys() == {"devices"}

    def test_an_init_comes_before_the_command(self) -> None:
        made = config(with_options(init=True))
        assert made["process"]["args"] == [INIT, "--", *SPEC.command]
        assert made["mounts"][-1]["source"] == ZONE_INIT

    def test_rules_and_hooks_go_along(self) -> None:
        rules = (DeviceRule("c", 10, None, "r"), DeviceRule("a", None, None, "m"))
        hooks = (Hook("poststop", "/x", ("x", "y"), ("A=1",), 3), Hook("poststop", "/y"))
        made = config(with_options(device_rules=rules, hooks=hooks))
        assert made["linux"]["resources"]["devices"][-2:] == [
            {"allow": True, "type": "c", "major": 10, "access": "r"},
            {"allow": True, "type": "a", "access": "m"},
        ]
        assert made["hooks"] == {
            "poststop": [{"path": "/x", "args": ["x", "y"], "env": ["A=1"], "timeout": 3}, {"path": "/y"}]
        }

    def test_a_record_of_it_is_read_as_it_was_written(self) -> None:
        maps = (IdMap(0, 1000, 10),)
        options = RuntimeOptions(
            security=Security(cap_add=("ALL",), groups=("1",)),
            limits=Limits(ulimits=(Ulimit("core", 1, 2),)),
            namespaces=Namespaces(uids=maps, gids=maps),
            device_rules=(DeviceRule("c", None, 1, "r"),),
            hooks=(Hook("poststop", "/x", ("y",)),),
            sysctls=(("a.b", "c"),),
        )
        spec = replace(SPEC, runtime=options, labels=(("a", "b"),), stop_timeout=3, exposed_ports=("80/tcp",))
        record = ZoneRecord(spec=spec, state=ZoneState.CREATING, created_ns=1)
        assert decode_record(encode_record(record)) == record
