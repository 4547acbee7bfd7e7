from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.unit.cli.conftest import TIMEOUT, Zonal

READY = "echo ready; while :; do sleep 0.05; done"


def test_output_and_exit_status(zonal: Zonal) -> None:
    done = zonal("run", "--rm", "local:1", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 7)


def test_what_follows_the_image_is_the_commands(zonal: Zonal) -> None:
    script = 'printf "%s\\n" "$@"'
    arguments = ["-e", "--rm", "--timing", "--timing=json", "--", "-", "a b", "'\"$x", "ä€😀", "", "*"]
    done = zonal("run", "--rm", "local:1", "sh", "-c", script, "sh", *arguments)
    assert (done.stdout.decode().split("\n"), done.stderr) == ([*arguments, ""], b"")


def test_variables(zonal: Zonal, tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("# comment\n\nFILE='as it is' \nPASSED\nABSENT\n")
    done = zonal(
        *["run", "--rm", "--env-file", str(file), "-e", "A=ü 'x'", "-eB=", "-e", "FROM_IMAGE", "local:1", "env"],
        env={"PASSED": "yes"},
    )
    values = done.stdout.decode().splitlines()
    assert {"FILE='as it is' ", "PASSED=yes", "A=ü 'x'", "B="} <= set(values)
    assert not any(value.startswith(("ABSENT", "FROM_IMAGE")) for value in values)


def test_piped_input_is_binary_safe(zonal: Zonal) -> None:
    data = os.urandom(3_000_000)
    done = zonal("run", "--rm", "-i", "local:1", "cat", stdin=data)
    assert done.stdout == data


def test_without_i_input_is_not_touched(zonal: Zonal) -> None:
    script = 'read -r first; "$@" < /dev/null; cat'
    done = subprocess.run(
        ["sh", "-c", script, "sh", *zonal.start_command("run", "--rm", "local:1", "cat")],
        input=b"one\ntwo\n",
        capture_output=True,
        timeout=TIMEOUT,
        check=True,
        env=zonal.environment,
    )
    assert done.stdout == b"two\n"


def test_a_reader_that_leaves_ends_the_zone_quietly(zonal: Zonal) -> None:
    with zonal.start("run", "--rm", "local:1", "yes", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline() == b"y\n"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE
    assert zonal.names() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_signals_are_passed_on(zonal: Zonal, number: signal.Signals) -> None:
    script = f"trap 'exit 9' {number.name.removeprefix('SIG')}; {READY}"
    with zonal.start("run", "--rm", "local:1", "sh", "-c", script, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.wait(TIMEOUT) == 9


def test_signals_pass_input_that_nobody_reads(zonal: Zonal) -> None:
    # By the time that it is ready, endless input has filled everything between.
    script = f"sleep 1; trap 'exit 9' INT; {READY}"
    with (
        Path("/dev/zero").open("rb") as endless,
        zonal.start(
            "run", "--rm", "-i", "local:1", "sh", "-c", script, stdin=endless, stdout=subprocess.PIPE
        ) as process,
    ):
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 9


def test_the_third_interrupt_leaves_the_zone_alone(zonal: Zonal) -> None:
    script = f"trap 'echo got' INT; {READY}"
    with zonal.start(
        *["run", "--name", "deaf", "local:1", "sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline() == b"ready\n"
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == b"got\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 130
        assert b"zonal zone kill deaf" in process.stderr.read()
    assert zonal("zone", "ls", "-q").stdout.strip()
    assert zonal("zone", "rm", "-f", "deaf").returncode == 0


def test_detached(zonal: Zonal) -> None:
    done = zonal("run", "-d", "--name", "behind", "local:1", "sh", "-c", "echo hello; exit 3")
    assert re.fullmatch(rb"[0-9a-f]{64}\n", done.stdout)
    assert zonal("zone", "wait", "behind").stdout == b"3\n"
    assert zonal("zone", "logs", "behind").stdout == b"hello\n"
    assert zonal("rm", "behind").stdout == b"behind\n"


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["local:1", "no-such"], 127, "no-such"),
        (["local:1", "/etc"], 126, "/etc"),
        (["no-such:1"], 125, "no-such:1"),
        (["--name", "-", "local:1"], 125, "'-'"),
        (["-m", "1M", "local:1"], 125, "hint: give at least 64M"),
        (["-m", "much", "local:1"], 125, "'much' is not a size"),
        (["-m", "0", "local:1"], 125, "no memory"),
        (["--cpus", "0", "local:1"], 125, "--cpus"),
        (["--cpus", "65", "local:1"], 125, "--cpus"),
        (["-m", "256M", "--memory-max", "128M", "local:1"], 125, "--memory-max at least"),
        (["-m", "128M", "--memory-max", "8G", "local:1"], 125, "give --memory 820M or more"),
        (["--memory-max", "0", "local:1"], 125, "no memory"),
        (["--memory-max", "-1", "local:1"], 125, "'-1' is not a size"),
        (["--cpus", "2", "--cpus-max", "1", "local:1"], 125, "--cpus-max"),
        (["--cpu-weight", "0", "local:1"], 125, "weight"),
        (["--cpu-shares", "-2", "local:1"], 125, "-1 cannot be"),
        (["-c", "2", "--weight", "2", "local:1"], 125, "are the same"),
        (["--cpu-cap", "-1", "local:1"], 125, "--cpu-cap -1"),
        (["--cpuset-cpus", "none", "local:1"], 125, "'none' is no list"),
        (["-w", "relative", "local:1"], 125, "relative"),
        (["-e", "=x", "local:1"], 125, "=x"),
        (["--env-file", "/no/such", "local:1"], 125, "/no/such"),
        (["--kernel", "/no/such", "local:1"], 125, "/no/such"),
        (["--kernel", "/etc/hostname", "local:1"], 125, "hostname"),
        (["--stop-signal", "X", "local:1"], 125, "X"),
        (["-it", "local:1"], 125, "not a terminal"),
        (["--detach-keys", "ctrl-1", "local:1"], 125, "ctrl-1"),
        (["--timing=xml", "local:1"], 125, "xml"),
        (["--no-such-option", "local:1"], 125, "--no-such-option"),
        ([], 125, "IMAGE"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(zonal: Zonal, arguments: list[str], status: int, said: str) -> None:
    done = zonal("run", *arguments)
    assert done.returncode == status
    assert said in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()
    assert done.stdout == b""
    assert zonal.names() == []


def test_arguments_that_are_not_utf8_are_refused(zonal: Zonal) -> None:
    done = subprocess.run(
        [*map(os.fsencode, zonal.start_command("run", "local:1", "echo")), b"\xff"],
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
        env=zonal.environment,
    )
    assert done.returncode == 125
    assert b"UTF-8" in done.stderr


def test_timing_goes_to_stderr_in_order(zonal: Zonal) -> None:
    done = zonal("run", "--rm", "--timing", "local:1", "echo", "x")
    assert done.stdout == b"x\n"
    names = [line.split("  ")[0] for line in done.stderr.decode().splitlines()]
    assert names == ["phase", "command line", "connect", "launch", "workload", "end", "total"]


def test_timing_for_programs(zonal: Zonal) -> None:
    done = zonal("run", "--rm", "--timing=json", "local:1", "sh", "-c", "exit 4")
    timing = json.loads(done.stderr)
    assert timing["status"] == done.returncode == 4
    phases = timing["phases"]
    assert [phase["name"] for phase in phases] == ["command line", "connect", "launch", "workload", "end"]
    assert all(0 <= phase["begin_ns"] <= phase["end_ns"] <= timing["total_ns"] for phase in phases)


def test_no_zonald_is_told(zonal: Zonal, tmp_path: Path) -> None:
    done = zonal("run", "local:1", env={"ZONAL_HOST": str(tmp_path / "none.sock")})
    assert done.returncode == 125
    assert b"zonald is not running" in done.stderr
    assert b"hint: " in done.stderr


def test_a_kernel_file_is_uploaded_once(zonal: Zonal, tmp_path: Path) -> None:
    kernel = tmp_path / "My Kernel"
    kernel.write_bytes(b"\x7fELF" + bytes(100))
    for _ in range(2):
        assert zonal("run", "--rm", "--kernel", str(kernel), "local:1", "true").returncode == 0
    names = zonal("kernel", "ls").stdout.decode()
    assert len(re.findall(r"my-kernel-[0-9a-f]{12} ", names)) == 1
