from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zonal.errors import InvalidInputError
from zonal.images.config import ImageConfig
from zonal.zones.oci_spec import (
    CAPABILITIES,
    DEFAULT_PATH,
    MAX_STRING_BYTES,
    Process,
    ProcessOptions,
    resolve_process,
    runtime_config,
)
from zonal.zones.spec import TerminalSize, ZoneSpec

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
