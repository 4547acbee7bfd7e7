"""Further processes and attached clients, over the control API."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.unit.daemon.conftest import Client, metadata, output, spec
from zonal.api import control_pb2 as pb

LOOP = ("sh", "-c", "echo started; while :; do sleep 0.05; done")


async def start(client: Client, *command: str, **values: Any) -> str:
    return (await client.run(spec(*(command or LOOP), detach=True, **values)))[0].started.zone_id


def wanted(zone: str, *command: str, **values: Any) -> pb.RunRequest:
    return pb.RunRequest(exec=pb.ExecSpec(zone=zone, command=command, **values))


async def execute(client: Client, *requests: pb.RunRequest) -> list[pb.RunReply]:
    return [reply async for reply in client.converse("Exec", iter(requests), pb.RunReply)]


def attach(client: Client) -> Any:
    return client.converse("Attach", None, pb.RunReply)


async def read_until(call: Any, text: bytes) -> bytes:
    seen = b""
    while text not in seen:
        seen += (await call.read()).stdout
    return seen


async def test_streams_and_status(client: Client) -> None:
    zone = await start(client)
    replies = await execute(
        client, wanted(zone, "sh", "-c", "cat; echo err >&2; exit 3", stdin=True), pb.RunRequest(stdin=b"in")
    )
    assert replies[0].started.exec_id
    assert (replies[0].started.zone_id, output(replies)) == (zone, b"in")
    assert b"".join(reply.stderr for reply in replies) == b"err\n"
    assert replies[-1].exited.status == 3


async def test_the_environment_is_the_containers_with_changes(client: Client) -> None:
    zone = await start(client, env=["A=1", "B=2"])
    replies = await execute(client, wanted(zone, "env", env=["B=3", "C=4", "A"]))
    lines = output(replies).decode().splitlines()
    assert {"B=3", "C=4"} <= set(lines)
    assert not any(line.startswith("A=") for line in lines)
    assert output(await execute(client, wanted(zone, "pwd", working_directory="/usr"))) == b"/usr\n"


async def test_many_at_once(client: Client) -> None:
    zone = await start(client)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(execute(client, wanted(zone, "echo", str(n)))) for n in range(20)]
    assert [output(task.result()) for task in tasks] == [f"{n}\n".encode() for n in range(20)]


async def test_a_terminal_and_its_size(client: Client) -> None:
    zone = await start(client)
    call = client.converse("Exec", None, pb.RunReply)
    script = "stty size; trap 'stty size; exit 5' WINCH; echo ready; while :; do sleep 0.05; done"
    size = pb.TerminalSize(rows=33, columns=99)
    await call.write(wanted(zone, "sh", "-c", script, terminal=True, stdin=True, terminal_size=size))
    await call.read()
    assert await read_until(call, b"ready\r\n") == b"33 99\r\nready\r\n"
    await call.write(pb.RunRequest(resize=pb.TerminalSize(rows=40, columns=120)))
    assert b"40 120" in await read_until(call, b"\r\n")
    assert (await call.read()).exited.status == 5


async def test_a_signal_goes_to_the_process_that_is_named(client: Client) -> None:
    zone = await start(client)
    call = client.converse("Exec", None, pb.RunReply)
    await call.write(wanted(zone, "sh", "-c", "trap 'exit 9' INT; echo ready; while :; do sleep 0.05; done"))
    exec_id = (await call.read()).started.exec_id
    await read_until(call, b"ready")
    request = pb.KillZoneRequest(zone=zone, signal=signal.SIGINT, exec_id=exec_id)
    await client.call("KillZone", request, pb.KillZoneReply)
    assert (await call.read()).exited.status == 9
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        request = pb.KillZoneRequest(zone=zone, exec_id="none")
        await client.call("KillZone", request, pb.KillZoneReply)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_client_that_hangs_up_leaves_it_running(client: Client, folder: Path) -> None:
    zone = await start(client)
    call = client.converse("Exec", None, pb.RunReply)
    await call.write(wanted(zone, "sh", "-c", f"echo ready; sleep 0.3; echo done > {folder}/done"))
    await call.read()
    await read_until(call, b"ready")
    process = client.zones.running(zone).execs.popitem()[1]
    call.cancel()
    assert (await process.wait()).status == 0
    assert (folder / "done").exists()


async def test_a_detached_one_ends_at_its_start(client: Client) -> None:
    zone = await start(client)
    replies = await execute(client, wanted(zone, "sleep", "1000", detach=True))
    assert [reply.WhichOneof("reply") for reply in replies] == ["started"]


@pytest.mark.parametrize(
    ("values", "status", "code"),
    [
        ({"command": ["no-such-command"]}, "127", grpc.StatusCode.NOT_FOUND),
        ({"command": ["/etc"]}, "126", grpc.StatusCode.FAILED_PRECONDITION),
        ({"command": []}, "125", grpc.StatusCode.INVALID_ARGUMENT),
        ({"command": [""]}, "125", grpc.StatusCode.INVALID_ARGUMENT),
        ({"command": ["true"], "working_directory": "x"}, "125", grpc.StatusCode.INVALID_ARGUMENT),
        ({"command": ["true"], "user": "a:b:c"}, "125", grpc.StatusCode.INVALID_ARGUMENT),
        ({"command": ["true"], "env": ["=x"]}, "125", grpc.StatusCode.INVALID_ARGUMENT),
        ({"command": ["true", "a\0b"]}, "125", grpc.StatusCode.INVALID_ARGUMENT),
        ({"command": ["true", "x" * 200_000]}, "125", grpc.StatusCode.INVALID_ARGUMENT),
        ({"command": ["true"], "detach": True, "stdin": True}, "125", grpc.StatusCode.INVALID_ARGUMENT),
        (
            {"command": ["true"], "terminal_size": pb.TerminalSize(rows=1 << 20)},
            "125",
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
        ({"command": ["true"], "zone": "none"}, "125", grpc.StatusCode.NOT_FOUND),
        ({"command": ["true"], "zone": "ended"}, "125", grpc.StatusCode.FAILED_PRECONDITION),
    ],
)
async def test_what_cannot_be_is_refused(client: Client, values: dict[str, Any], status: str, code: Any) -> None:
    wanted: dict[str, Any] = {"zone": "alive"} | values
    await client.run(spec("true", name="ended"))
    await start(client, name="alive")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await execute(client, pb.RunRequest(exec=pb.ExecSpec(**wanted)))
    assert caught.value.code() is code
    assert metadata(caught.value)["zonal-exit-status"] == status


@pytest.mark.parametrize("method", ["Run", "Exec", "Attach"])
async def test_a_call_begins_with_its_own_request(client: Client, method: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in client.converse(method, iter([pb.RunRequest(stdin=b"x")]), pb.RunReply):
            pass
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_two_clients_see_the_same_and_one_of_them_writes(client: Client) -> None:
    zone = await start(client, "sh", "-c", "while read -r line; do echo got $line; done; exit 4", stdin=True)
    first, second = attach(client), attach(client)
    await first.write(pb.RunRequest(attach=pb.AttachSpec(zone=zone, stdin=True)))
    await second.write(pb.RunRequest(attach=pb.AttachSpec(zone=zone)))
    assert (await first.read()).started.zone_id == (await second.read()).started.zone_id == zone
    await first.write(pb.RunRequest(stdin=b"a\n"))
    assert await read_until(first, b"got a\n") == await read_until(second, b"got a\n") == b"got a\n"
    # A zone that was started without a client has its input for whoever comes.
    first.cancel()
    third = attach(client)
    await third.write(pb.RunRequest(attach=pb.AttachSpec(zone=zone, stdin=True)))
    await third.read()
    await third.write(pb.RunRequest(stdin=b"b\n"))
    assert await read_until(second, b"got b\n") == b"got b\n"
    await client.call("KillZone", pb.KillZoneRequest(zone=zone), pb.KillZoneReply)
    assert await read_until(third, b"got b\n") == b"got b\n"
    assert (await second.read()).exited.status == (await third.read()).exited.status == 137


@pytest.mark.parametrize(
    ("zone", "code"), [("none", grpc.StatusCode.NOT_FOUND), ("ended", grpc.StatusCode.FAILED_PRECONDITION)]
)
async def test_what_does_not_run_cannot_be_attached_to(client: Client, zone: str, code: Any) -> None:
    await client.run(spec("true", name="ended"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in client.converse("Attach", iter([pb.RunRequest(attach=pb.AttachSpec(zone=zone))]), pb.RunReply):
            pass
    assert caught.value.code() is code
