"""The log of a workload's output: nothing lost, nothing doubled, bounded, and usable after a kill."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zonal.errors import InvalidInputError
from zonal.zones.output_log import OutputLog, read_output

Chunks = list[tuple[Literal[1, 2], bytes]]
chunks = st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(min_size=1, max_size=300)), max_size=30)


def stream_bytes(found: Chunks, stream: int) -> bytes:
    return b"".join(data for number, data in found if number == stream)


@settings(max_examples=50)
@given(written=chunks)
def test_what_was_written_is_read_in_order(written: Chunks, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("zone")
    with OutputLog(folder) as log:
        for stream, data in written:
            log.append(stream, data)
    assert list(read_output(folder)) == written


@settings(max_examples=50)
@given(written=chunks, cut=st.integers(0, 400))
def test_after_a_kill_the_offsets_are_those_of_what_is_kept(
    written: Chunks, cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("zone")
    with OutputLog(folder) as log:
        for stream, data in written:
            log.append(stream, data)
    path = folder / "output.log"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(max(24, size - cut))
    with OutputLog(folder) as log:
        kept = list(read_output(folder))
        assert kept == written[: len(kept)]
        assert log.offsets == {1: len(stream_bytes(kept, 1)), 2: len(stream_bytes(kept, 2))}
        log.append(1, b"again")
    assert list(read_output(folder)) == [*kept, (1, b"again")]


@settings(max_examples=30)
@given(written=chunks, size=st.integers(400, 3000))
def test_the_two_files_are_bounded_and_hold_the_newest(
    written: Chunks, size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("zone")
    with OutputLog(folder, max_file=size) as log:
        for stream, data in written:
            log.append(stream, data)
        offsets = dict(log.offsets)
    assert all(path.stat().st_size <= size for path in folder.iterdir())
    assert len(list(folder.iterdir())) <= 2
    kept = list(read_output(folder))
    assert kept == written[len(written) - len(kept) :]
    with OutputLog(folder, max_file=size) as log:
        assert log.offsets == offsets == {n: len(stream_bytes(written, n)) for n in (1, 2)}


@settings(max_examples=100)
@given(lines=st.lists(st.binary(max_size=20).map(lambda b: b.replace(b"\n", b"")), max_size=20), data=st.data())
def test_a_tail_is_what_tail_would_show(
    lines: list[bytes], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("zone")
    text = b"\n".join(lines) + (b"\n" if data.draw(st.booleans()) else b"")
    with OutputLog(folder) as log:
        position = 0
        while position < len(text):
            length = data.draw(st.integers(1, 30))
            log.append(1, text[position : position + length])
            position += length
    wanted = data.draw(st.integers(0, 25))
    expected = b"".join(text.splitlines(keepends=True)[-wanted:]) if wanted else b""
    # bytes.splitlines also splits at carriage returns, tail(1) does not.
    if b"\r" not in text:
        assert stream_bytes(list(read_output(folder, tail=wanted)), 1) == expected


async def test_followers_get_everything_once_across_rotations(tmp_path: Path) -> None:
    log = OutputLog(tmp_path, max_file=500)
    seen = bytearray()

    async def follow() -> None:
        async for _, data in log.follow():
            seen.extend(data)

    written = bytearray()
    async with asyncio.TaskGroup() as group:
        group.create_task(follow())
        for number in range(200):
            data = f"{number} ".encode() * 5
            log.append(1, data)
            written += data
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        log.close()
    assert seen == written


def test_a_file_that_is_not_a_log_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "output.log"
    path.write_bytes(b"something else entirely, and of some length")
    with pytest.raises(InvalidInputError, match="not a log"):
        OutputLog(tmp_path)
    assert path.read_bytes().startswith(b"something else")
