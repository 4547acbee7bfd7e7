from __future__ import annotations

import asyncio
import hashlib
import signal
from dataclasses import replace
from typing import Any, cast

import grpc
import grpc.aio
import pytest

from tests.unit.daemon.conftest import Client, metadata, output, spec
from tests.unit.daemon.local_images import LocalImages
from zonal.api import control_pb2 as pb
from zonal.errors import WrongStateError
from zonal.zones.spec import ZoneState


def stdin(data: bytes) -> pb.RunRequest:
    return pb.RunRequest(stdin=data)


async def read_until(call: Any, text: bytes) -> bytes:
    seen = b""
    while text not in seen:
        seen += (await call.read()).stdout
    return seen


async def until_state(client: Client, zone_id: str, *states: ZoneState) -> None:
    await client.zones.wait(zone_id)
    assert client.zones.store.get(zone_id).state in states


async def test_started_output_exit(client: Client) -> None:
    replies = await client.run(spec("sh", "-c", "echo out; echo err >&2; exit 3"))
    assert replies[0].started.zone_id
    assert replies[0].started.name
    assert [phase.name for phase in replies[0].started.phases] == ["launch"]
    assert output(replies) == b"out\n"
    assert b"".join(reply.stderr for reply in replies) == b"err\n"
    assert replies[-1].exited.status == 3
    assert [phase.name for phase in replies[-1].exited.phases] == ["launch", "workload"]


async def test_the_image_stays_while_a_volume_is_made_for_its_zone(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, volumes = cast("LocalImages", client.services.images), client.services.volumes
    image = images.tag("local:1", "other:1")
    monkeypatch.setitem(images.images, "other:1", replace(image, references=("other:1",)))
    create = volumes.create

    async def remove_meanwhile(*arguments: Any, **named: Any) -> Any:
        with pytest.raises(WrongStateError, match="in use"):
            images.remove("other:1")
        return await create(*arguments, **named)

    monkeypatch.setattr(volumes, "create", remove_meanwhile)
    request = spec("echo", "x")
    request.spec.image = "other:1"
    request.spec.mounts.append(pb.Mount(type="volume", source="data", target="/data", size_bytes=32 << 20))
    assert output(await client.run(request)) == b"x\n"
    assert not images.leases
    images.remove("other:1")


async def test_input_is_passed_on_byte_for_byte_until_its_end(client: Client) -> None:
    data = bytes(range(256)) * 2000
    pieces = [stdin(data[i : i + 30000]) for i in range(0, len(data), 30000)]
    replies = await client.run(spec("cat", stdin=True), *pieces, pb.RunRequest(stdin_end=True))
    assert output(replies) == data


async def test_a_client_that_says_no_more_ends_the_input(client: Client) -> None:
    assert output(await client.run(spec("cat", stdin=True), stdin(b"x"))) == b"x"


async def test_without_input_the_workload_reads_its_end(client: Client) -> None:
    assert output(await client.run(spec("cat"))) == b""


async def test_much_output_arrives_whole(client: Client) -> None:
    replies = await client.run(spec("sh", "-c", "yes 0123456789abcde | head -c 50000000"))
    assert hashlib.sha256(output(replies)).digest() == hashlib.sha256(b"0123456789abcde\n" * 3125000).digest()


async def test_a_slow_reader_holds_the_workload_back(client: Client) -> None:
    call = client.start()
    await call.write(spec("sh", "-c", "head -c 100000000 /dev/zero; echo done >&2; sleep 100"))
    started = (await call.read()).started
    zone = client.zones.running(started.zone_id)
    # With nobody reading, all buffers between must fill up and then the log stop growing.
    seen, size = -1, 0
    while size != seen:
        seen = size
        await asyncio.wait([asyncio.ensure_future(zone.grown.wait())], timeout=0.5)
        zone.grown.clear()
        size = sum(len(data) for _, data in zone.log)
    assert size < 20_000_000
    call.cancel()


async def test_a_call_that_fails_while_a_reply_is_on_its_way_ends_with_its_error(client: Client) -> None:
    call = client.start()
    await call.write(spec("sh", "-c", "head -c 100000000 /dev/zero; sleep 100"))
    zone = client.zones.running((await call.read()).started.zone_id)
    async with asyncio.timeout(30):
        while sum(len(data) for _, data in zone.log) < 1_000_000:
            zone.grown.clear()
            await zone.grown.wait()
    # Nobody reads, so a reply waits to be taken; and now the client makes a mistake.
    await call.write(spec("true"))
    await asyncio.sleep(0.2)
    async with asyncio.timeout(30):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            while await call.read():
                pass
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_arguments_and_variables_arrive_as_they_are(client: Client) -> None:
    weird = ["a b", "'q\"", "ä€😀", "", "-e", "$HOME", "*", "\n"]
    script = 'printf "%s|" "$@"; printf %s "$WEIRD"'
    replies = await client.run(spec("sh", "-c", script, "sh", *weird, env=["WEIRD=ü 'x\" \t=y", "FROM_IMAGE"]))
    assert output(replies).decode() == "|".join(weird) + "|ü 'x\" \t=y"


async def test_a_terminal_has_the_clients_size_and_changes_with_it(client: Client) -> None:
    call = client.start()
    size = pb.TerminalSize(rows=33, columns=99)
    script = "tty >/dev/null && stty size; trap 'stty size; exit 5' WINCH; echo ready; while :; do sleep 0.05; done"
    await call.write(spec("sh", "-c", script, terminal=True, stdin=True, terminal_size=size))
    assert (await call.read()).started.zone_id
    assert await read_until(call, b"ready\r\n") == b"33 99\r\nready\r\n"
    await call.write(pb.RunRequest(resize=pb.TerminalSize(rows=40, columns=120)))
    assert b"40 120" in await read_until(call, b"\r\n")
    assert (await call.read()).exited.status == 5


async def test_signals_reach_the_workload(client: Client) -> None:
    call = client.start()
    await call.write(spec("sh", "-c", "trap 'exit 9' INT; echo ready; while :; do sleep 0.05; done"))
    await call.read()
    await read_until(call, b"ready")
    await call.write(pb.RunRequest(signal=signal.SIGINT))
    assert (await call.read()).exited.status == 9


async def test_an_end_by_a_signal_is_128_and_its_number(client: Client) -> None:
    assert (await client.run(spec("sh", "-c", "kill -9 $$")))[-1].exited.status == 137


@pytest.mark.parametrize(
    ("command", "status", "code"),
    [
        (["no-such-command"], "127", grpc.StatusCode.NOT_FOUND),
        (["/etc"], "126", grpc.StatusCode.FAILED_PRECONDITION),
    ],
)
async def test_a_command_that_cannot_be_run(client: Client, command: list[str], status: str, code: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.run(spec(*command, name="here"))
    assert caught.value.code() is code
    assert metadata(caught.value)["zonal-exit-status"] == status
    assert client.zones.store.list() == []


async def test_a_name_in_use_is_refused_and_a_made_up_one_is_made_anew(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await client.run(spec("true", name="mine")))[-1].exited.status == 0
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.run(spec("true", name="mine"))
    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
    names = iter(["mine", "mine", "other"])
    monkeypatch.setattr("zonal.daemon.requested.make_name", lambda: next(names))
    assert (await client.run(spec("true")))[0].started.name == "other"


async def test_a_detached_run_ends_at_its_start_and_goes_on(client: Client) -> None:
    replies = await client.run(spec("sh", "-c", "echo on; sleep 0.1; exit 4", detach=True))
    assert len(replies) == 1
    result = await client.zones.wait(replies[0].started.zone_id)
    assert result.status == 4


async def test_a_client_that_hangs_up_leaves_the_workload_running(client: Client) -> None:
    call = client.start()
    await call.write(spec("sh", "-c", "echo ready; sleep 0.3; echo after; exit 6", name="left"))
    await call.read()
    await read_until(call, b"ready")
    call.cancel()
    assert (await client.zones.wait("left")).status == 6
    assert b"".join(data for _, data in client.zones.running("left").log) == b"ready\nafter\n"


async def test_a_client_that_hangs_up_ends_the_input(client: Client) -> None:
    call = client.start()
    await call.write(spec("sh", "-c", "echo ready; cat; exit 8", stdin=True, name="left"))
    await call.read()
    await read_until(call, b"ready")
    call.cancel()
    assert (await client.zones.wait("left")).status == 8


async def test_a_client_that_hangs_up_during_the_launch_undoes_it(client: Client) -> None:
    client.zones.hold_launch.clear()
    call = client.start()
    await call.write(spec("true", name="early"))
    while not client.zones.store.list():
        await asyncio.wait_for(client.zones.changed.wait(), 10)
        client.zones.changed.clear()
    call.cancel()
    while client.zones.store.list():
        await asyncio.wait_for(client.zones.changed.wait(), 10)
        client.zones.changed.clear()


@pytest.mark.parametrize(
    "request_",
    [
        stdin(b"x"),
        pb.RunRequest(),
        spec("true", name="-"),
        spec("true", memory_bytes=1 << 20),
        spec("true", memory_bytes=1 << 50),
        spec("true", cpus=65),
        spec("true", memory_bytes=1 << 28, resources=pb.Resources(memory_max_bytes=1 << 27)),
        spec("true", memory_bytes=1 << 27, resources=pb.Resources(memory_max_bytes=1 << 33)),
        spec("true", cpus=2, resources=pb.Resources(cpus_max=1)),
        spec("true", resources=pb.Resources(cpu_weight=0)),
        spec("true", resources=pb.Resources(cpu_cap=1 << 20)),
        spec("true", resources=pb.Resources(cpuset_cpus="x")),
        spec("true", hostname="a b"),
        spec("true", working_directory="x"),
        spec("true", stop_signal="nothing"),
        spec("true", user="a:b:c"),
        spec("true", terminal_size=pb.TerminalSize(rows=70000, columns=1)),
        spec("true", env=["=x"]),
        spec("", name="empty"),
        pb.RunRequest(spec=pb.RunSpec()),
    ],
)
async def test_what_makes_no_sense_is_refused_and_leaves_nothing(client: Client, request_: pb.RunRequest) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.run(request_)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details()
    assert client.zones.store.list() == []


@pytest.mark.parametrize(
    "request_",
    [
        spec("true"),
        pb.RunRequest(),
        pb.RunRequest(signal=0),
        pb.RunRequest(signal=65),
        pb.RunRequest(resize=pb.TerminalSize(rows=1 << 20, columns=1)),
    ],
)
async def test_nonsense_later_ends_the_call_and_not_the_workload(client: Client, request_: pb.RunRequest) -> None:
    call = client.start()
    await call.write(spec("sh", "-c", "sleep 0.5; exit 2", name="goes-on"))
    await call.read()
    await call.write(request_)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        for _ in range(3):
            await call.read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (await client.zones.wait("goes-on")).status == 2


async def test_a_fault_of_ours_is_logged_and_told_in_a_sentence(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise ValueError("the secret reason")

    monkeypatch.setattr(client.zones, "run", broken)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.run(spec("true"))
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in (caught.value.details() or "")
    assert "the secret reason" in caplog.text
    assert "Traceback" in caplog.text
