from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import zonal as package
from tests.unit.cli.conftest import Zonal
from zonal.cli.connect import socket_path
from zonal.errors import InvalidInputError


def test_zones_are_listed_looked_into_and_removed(zonal: Zonal) -> None:
    assert zonal("run", "--name", "first", "local:1", "sh", "-c", "echo 1; echo 2; exit 3").returncode == 3
    listed = zonal("zone", "ls", "-a").stdout.decode()
    assert re.search(r"^[0-9a-f]{12} +first +local:1 +sh -c echo 1; .* exited \(3\)", listed, re.MULTILINE)
    assert zonal("ps", "-q").stdout == b""
    document = json.loads(zonal("zone", "inspect", "first").stdout)[0]
    assert (document["State"]["Status"], document["State"]["ExitCode"]) == ("exited", 3)
    assert document["Config"]["Image"] == "local:1"
    shown = zonal("inspect", "-f", "{{.Name}} {{.State.Running}} {{json .Args}} {{.No.Such}}", "first").stdout
    assert shown == b'first false ["-c", "echo 1; echo 2; exit 3"] <no value>\n'
    listed = json.loads(zonal("zone", "ls", "-a", "--json").stdout)
    assert (listed["id"], listed["state"], listed["exit_status"]) == (document["Id"], "exited", 3)
    assert zonal("logs", "--tail", "1", "first").stdout == b"2\n"
    assert zonal("zone", "console", "first").stdout.startswith(b"Linux version")
    assert zonal("zone", "rm", document["Id"][:8]).returncode == 0
    assert zonal.names() == []


def test_a_zone_is_stopped_and_killed(zonal: Zonal) -> None:
    script = "trap 'exit 4' TERM; trap 'exit 5' USR1; while :; do sleep 0.05; done"
    for command, status in ((["stop", "-t", "30"], b"4\n"), (["kill", "-s", "USR1"], b"5\n"), (["kill"], b"137\n")):
        zonal("run", "-d", "--name", "victim", "local:1", "sh", "-c", f"echo; {script}")
        while not zonal("logs", "victim").stdout:
            pass
        assert zonal(*command, "victim").stdout == b"victim\n"
        assert zonal("zone", "wait", "victim").stdout == status
        zonal("rm", "victim")


def test_one_of_several_that_is_not_there_does_not_hold_up_the_others(zonal: Zonal) -> None:
    zonal("run", "--name", "there", "local:1", "true")
    done = zonal("rm", "absent", "there")
    assert done.returncode == 125
    assert done.stdout == b"there\n"
    assert b"no zone 'absent'" in done.stderr


def test_images_are_imported_listed_and_removed(zonal: Zonal, tmp_path: Path) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("etc"))
    (tmp_path / "root.tar").write_bytes(archive.getvalue())
    (tmp_path / "config.json").write_text('{"Cmd": ["x"]}')
    done = zonal("image", "import", "--config", f"{tmp_path}/config.json", f"{tmp_path}/root.tar", "mine:1")
    assert (done.stdout, done.returncode) == (b"mine:1\n", 0)
    assert zonal("image", "import", "-", "mine:2", stdin=archive.getvalue()).returncode == 0
    assert zonal("image", "import", str(tmp_path), "mine:3").returncode == 0
    assert re.search(r"^mine:2 +[0-9a-f]{12} ", zonal("images").stdout.decode(), re.MULTILINE)
    for pattern, found in {"mine": 3, "mine:[23]": 2, "m*:1": 1, "mine:1": 1, "x/mine": 0, "min": 0}.items():
        assert len(zonal("images", pattern).stdout.splitlines()) == 1 + found, pattern
    assert zonal("image", "ls", "-q", "--dangling", "mine").stdout == b""
    details = json.loads(zonal("image", "inspect", "mine:1").stdout)[0]
    assert details["references"] == ["mine:1"]
    done = zonal("image", "rm", "mine:1", "mine:2", "mine:3")
    assert b"untagged mine:1" in done.stdout
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["image", "import", "/no/such.tar", "x:1"], "/no/such.tar"),
        (["image", "import", "/etc/hostname"], "no name"),
        (["image", "import", "--config", "/no/such", "/etc/hostname", "x:1"], "/no/such"),
        (["image", "bootstrap", "alpine:3"], "debian:13"),
        (["image", "rm", "no-such"], "no-such"),
        (["image", "inspect", "no-such"], "no-such"),
        (["kernel", "import", "/no/such"], "/no/such"),
        (["kernel", "import", "/etc/hostname"], "no kernel"),
        (["zone", "inspect", "no-such"], "no-such"),
        (["zone", "logs", "no-such"], "no-such"),
        (["zone", "logs", "--tail", "x", "no-such"], "--tail"),
        (["zone", "kill", "-s", "NONE", "no-such"], "NONE"),
        (["zone", "nothing"], "nothing"),
        (["nothing"], "nothing"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(zonal: Zonal, arguments: list[str], said: str) -> None:
    done = zonal(*arguments)
    assert done.returncode == 125
    assert said in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


def test_info_and_version(zonal: Zonal) -> None:
    assert b"4.20.4" in zonal("info").stdout
    assert json.loads(zonal("info", "--json").stdout)["xen_version"] == "4.20.4"
    assert zonal("version").stdout.decode().strip() == package.__version__


def test_help_needs_no_heavy_imports() -> None:
    code = (
        "import sys; from zonal.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print(sorted({'grpc', 'asyncio', 'rich', 'google.protobuf', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert b"run" in done.stdout
    assert done.stdout.decode().splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", ["run", "zone", "image", "kernel", "lab", "info"])
def test_every_group_explains_itself(zonal: Zonal, command: str) -> None:
    done = zonal(command, "--help")
    assert done.returncode == 0
    assert b"Usage: zonal " in done.stdout


def test_a_reader_that_leaves_is_nothing_to_talk_about(zonal: Zonal) -> None:
    done = subprocess.run(
        ["sh", "-c", '"$@" | true', "sh", *zonal.start_command("--help")], capture_output=True, check=True
    )
    assert done.stderr == b""


def test_where_a_command_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZONAL_HOST", raising=False)
    assert socket_path("/run/x.sock", None) == Path("/run/x.sock")
    assert socket_path("unix:///run/x.sock", None) == Path("/run/x.sock")
    assert socket_path(None, "mine") is None
    with pytest.raises(InvalidInputError):
        socket_path("relative", None)
    with pytest.raises(InvalidInputError):
        socket_path("/run/x.sock", "mine")
