"""The agent with real containers, as PID 1 of namespaces of its own in the Xen host: all but the channel is real."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncGenerator, Generator

import pytest

from tests.host.agent.workload import ROOT, read_all, running, start
from tests.host.agent.zone import busybox_image
from tests.unit.agent.local_agent import LocalAgent, local_agent
from zonal.xen.loop import open_loop
from zonal.zones.greeting import Exit
from zonal.zones.session import CallRefusedError, Session, open_session

NAMESPACES = ["unshare", "--fork", "--pid", "--mount", "--ipc", "--uts", "--net", "--kill-child"]


@pytest.fixture(scope="module")
def device() -> Generator[str]:
    with open_loop(busybox_image(), read_only=True) as loop:
        yield str(loop.path)


@pytest.fixture(scope="module")
def agent() -> Generator[LocalAgent]:
    with local_agent("containers", prefix=NAMESPACES) as process:
        yield process


@pytest.fixture
async def session(agent: LocalAgent, device: str) -> AsyncGenerator[Session]:
    async with open_session(await agent.connect()) as opened:
        await opened.call("prepare_root", {"id": ROOT, "device": device, "size": 1 << 20})
        yield opened
        assert await opened.call("list", {}) == {"workloads": []}
        await opened.call("remove_root", {"id": ROOT})


async def test_output_error_and_status_arrive(session: Session) -> None:
    async with running(session, "sh", "-c", "echo out; echo err >&2; exit 3") as workload:
        assert await workload.finish() == (b"out\n", b"err\n", Exit(3, None, False))


async def test_bytes_go_through_unchanged_both_ways(session: Session) -> None:
    data = random.Random(1).randbytes(1_000_000)
    async with running(session, "cat") as workload, asyncio.TaskGroup() as group:
        finishing = group.create_task(workload.finish())
        await workload.stdin.write(data)
        workload.stdin.end()
        out, err, ended = await finishing
        assert out == data
        assert (err, ended.shell_status) == (b"", 0)


async def test_arguments_and_environment_are_those_that_were_given(session: Session) -> None:
    args = [
        "sh",
        "-c",
        'printf "%s|" "$@" "$NAME"',
        "sh",
        "two words",
        "quo\"te's",
        "née ☃",
        "",
        "back\\slash",
        "new\nline",
    ]
    async with running(session, *args, env={"NAME": 'Zoë\'s "x" = \\n'}) as workload:
        out, _, _ = await workload.finish()
        assert out.decode() == "|".join([*args[4:], 'Zoë\'s "x" = \\n']) + "|"


async def test_a_signal_to_a_session_reaches_what_a_process_has_started_and_nobody_else(session: Session) -> None:
    async with running(session, "sh", "-c", "trap 'exit 4' TERM; while :; do sleep 0.1; done") as container:
        line = "sleep 1000 & echo on; wait"
        async with running(session, "sh", "-c", line, name="further", container=container.name) as process:
            assert await process.stdout.read() == b"on\n"
            process.stdout.done(3)
            await session.call("signal", {"id": process.name, "signal": signal.SIGKILL, "session": True})
            # Its output has an end: what it has started had that open as well.
            assert await process.finish() == (b"", b"", Exit(None, 9, False))
        await session.call("signal", {"id": container.name, "signal": signal.SIGTERM})
        assert (await container.finish())[2] == Exit(4, None, False)


async def test_a_long_command_line_arrives(session: Session) -> None:
    words = ["x" * 100_000] * 8
    async with running(session, "sh", "-c", "echo ${#1} $#", "sh", *words) as workload:
        out, _, _ = await workload.finish()
        assert out == b"100000 8\n"


@pytest.mark.parametrize(
    ("user", "ids", "home"),
    [
        ("", "0 0 0", "/root"),
        ("anna", "1000 100 29 44 100", "/home/anna"),
        ("1000:audio", "1000 29 29", "/home/anna"),
        ("4711", "4711 0 0", "/"),
    ],
)
async def test_users_are_those_of_the_image(session: Session, user: str, ids: str, home: str) -> None:
    command = "echo $(id -u) $(id -g) $(id -G | tr ' ' '\\n' | sort -n); echo $HOME"
    async with running(session, "sh", "-c", command, user=user) as workload:
        out, _, _ = await workload.finish()
        assert out.decode().split("\n")[:2] == [ids, home]


@pytest.mark.parametrize(
    ("command", "user", "code"),
    [
        ("no-such-command", "", "not-found"),
        ("/no/such/command", "", "not-found"),
        ("/bin/not-executable", "", "not-executable"),
        ("/bin", "", "not-executable"),
        ("true", "nobody-here", "no-user"),
        ("true", "root:no-such-group", "no-user"),
    ],
)
async def test_what_cannot_start_is_refused_with_its_code(session: Session, command: str, user: str, code: str) -> None:
    with pytest.raises(CallRefusedError) as refusal:
        async with running(session, command, user=user):
            pass
    assert refusal.value.code == code
    async with running(session, "true") as workload:  # and nothing of it is left in the way
        assert (await workload.finish())[2].shell_status == 0


async def test_signals_arrive_and_are_told_of(session: Session) -> None:
    async with running(
        session, "sh", "-c", "trap 'echo got; exit 5' USR1; echo ready; while :; do sleep 1; done"
    ) as workload:
        assert await workload.stdout.read() == b"ready\n"
        await session.call("signal", {"id": "w", "signal": signal.SIGUSR1})
        assert (await workload.finish())[2] == Exit(5, None, False)
    async with running(session, "sleep", "1000") as workload:
        await session.call("signal", {"id": "w", "signal": signal.SIGKILL, "all": True})
        assert (await workload.finish())[2].shell_status == 137


async def test_a_terminal_has_its_size_echoes_and_is_resized(session: Session) -> None:
    command = "stty size; trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 1; done"
    async with running(session, "sh", "-c", command, terminal=(33, 121)) as workload:
        seen = b""
        while b"ready" not in seen:
            seen += await workload.stdout.read()
        assert seen.startswith(b"33 121\r\n")
        await session.call("resize", {"id": "w", "rows": 20, "columns": 40})
        out, _, _ = await workload.finish()
        assert out.endswith(b"20 40\r\n")
    async with running(session, "sh", terminal=(24, 80)) as workload:
        await workload.stdin.write(b"echo $((6*7)); exit 9\n")
        out, _, ended = await workload.finish()
        assert b"\r\n42\r\n" in out
        assert ended.shell_status == 9


async def test_an_interrupt_typed_at_a_terminal_is_one(session: Session) -> None:
    command = "trap 'echo got; exit 7' INT; echo ready; while :; do sleep 1; done"
    async with running(session, "sh", "-c", command, terminal=(24, 80)) as workload:
        assert b"ready" in await workload.stdout.read()
        await workload.stdin.write(b"\x03")
        out, _, ended = await workload.finish()
        assert b"got" in out
        assert ended.status == 7


async def test_a_second_process_runs_in_the_same_container(session: Session) -> None:
    async with running(session, "sh", "-c", "echo here > /file; echo ready; cat") as first:
        assert await first.stdout.read() == b"ready\n"
        async with running(session, "sh", "-c", "cat /file; exit 4", container="w", name="x") as second:
            assert await second.finish() == (b"here\n", b"", Exit(4, None, False))
        async with running(session, "cat", container="w", name="x") as second:
            await second.stdin.write(b"to x")
            assert await second.stdout.read() == b"to x"
            with pytest.raises(CallRefusedError):
                await session.call("forget", {"id": "w"})


async def test_a_process_of_a_container_that_ends_ends_too(session: Session) -> None:
    async with (
        running(session, "cat") as first,
        running(session, "sleep", "1000", container="w", name="x") as second,
    ):
        first.stdin.end()
        assert (await first.finish())[2].status == 0
        assert (await second.finish())[2].signal == signal.SIGKILL


async def test_the_writable_layer_is_bounded(session: Session) -> None:
    async with running(session, "sh", "-c", "head -c 2000000 /dev/zero > /big; stat -c %s /big") as workload:
        out, _, _ = await workload.finish()
        assert 0 < int(out) <= 1 << 20


async def test_a_workload_that_runs_out_of_memory_is_told_so(session: Session) -> None:
    async with running(
        session, "sh", "-c", "x=$(head -c 60000000 /dev/zero | tr '\\0' x); echo ${#x}", memory=16 << 20
    ) as workload:
        out, _, ended = await workload.finish()
        assert ended.out_of_memory
        assert out != b"60000000\n"


async def test_a_workload_goes_on_without_a_host_and_is_found_again(device: str) -> None:
    with local_agent("containers", prefix=NAMESPACES) as agent:
        async with open_session(await agent.connect()) as first:
            await first.call("prepare_root", {"id": ROOT, "device": device})
            workload = await start(first, "sh", "-c", "echo one; read x; echo two $x; exit 6")
            assert await workload.stdout.read() == b"one\n"
            await workload.stdin.write(b"word\n")
            await first.call("list", {})
        async with open_session(await agent.connect(), consumed={workload.stdout.number: 0}) as second:
            assert (await second.wait_exited("w")).status == 6
            assert await read_all(second.outputs[workload.stdout.number]) == b"one\ntwo word\n"
        async with open_session(await agent.connect()) as third:
            assert (await third.wait_exited("w")).status == 6
            await third.call("forget", {"id": "w"})


async def test_a_shutdown_asks_the_workloads_first(device: str) -> None:
    with local_agent("containers", prefix=NAMESPACES) as agent:
        async with open_session(await agent.connect()) as session:
            await session.call("prepare_root", {"id": ROOT, "device": device})
            command = "trap 'echo asked; exit 0' TERM; echo ready; while :; do sleep 1; done"
            polite = await start(session, "sh", "-c", command)
            assert await polite.stdout.read() == b"ready\n"
            await session.call("power_off", {"grace_ms": 60_000})
            assert (await session.wait_exited("w")).status == 0
        assert await asyncio.to_thread(agent.process.wait, 20) == 0
