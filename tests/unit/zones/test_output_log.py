"""The log of a workload's output: nothing lost, nothing doubled, bounded, and usable after a kill."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zonal.errors import InvalidInputError
from zonal.zones.log_reading import stream_log, time_text
from zonal.zones.output_log import LogReader, OutputLog, find_tail, read_output
from zonal.zones.spec import LogLimits, LogQuery

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
@given(written=chunks, size=st.integers(400, 3000), files=st.integers(1, 4))
def test_the_files_are_bounded_and_hold_the_newest(
    written: Chunks, size: int, files: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("zone")
    with OutputLog(folder, LogLimits(size, files)) as log:
        for stream, data in written:
            log.append(stream, data)
        offsets = dict(log.offsets)
    assert all(path.stat().st_size <= size for path in folder.iterdir())
    assert len(list(folder.iterdir())) <= files
    kept = list(read_output(folder))
    assert kept == written[len(written) - len(kept) :]
    with OutputLog(folder, LogLimits(size, files)) as log:
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
        with LogReader(folder, find_tail(folder, wanted)) as reader:
            assert b"".join(record.data for record in reader.records()) == expected


async def test_a_days_worth_of_lines_stays_within_its_bound_and_ends_with_the_last_of_them(tmp_path: Path) -> None:
    """A million lines, a dozen a second for a day, in chunks as a busy workload writes them."""
    limits, count = LogLimits(1 << 20, 3), 1_000_000
    lines = [b"%d %s\n" % (number, b"x" * (number % 61)) for number in range(count)]
    with OutputLog(tmp_path, limits) as log:
        for begin in range(0, count, 100):
            log.append(1, b"".join(lines[begin : begin + 100]))
        assert log.offsets[1] == sum(map(len, lines))
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == limits.max_files
    assert max(sizes) <= limits.max_size
    kept = b"".join(data for _, data in read_output(tmp_path))
    assert len(kept) > limits.max_size
    assert kept == b"".join(lines)[-len(kept) :]
    assert await query(tmp_path, tail=3) == b"".join(lines[-3:])


@pytest.mark.parametrize("files", [1, 2, 5])
async def test_followers_get_everything_once_across_rotations(tmp_path: Path, files: int) -> None:
    log = OutputLog(tmp_path, LogLimits(500, files))
    seen = bytearray()

    async def follow() -> None:
        async for _, data in stream_log(tmp_path, LogQuery(follow=True), log):
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


async def test_a_follower_outlives_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "zone"
    folder.mkdir()
    log = OutputLog(folder)
    log.append(1, b"one\n")
    following = stream_log(folder, LogQuery(follow=True), log)
    assert await anext(following) == (1, b"one\n")
    log.append(2, b"two\n")
    log.close()
    shutil.rmtree(folder)
    assert [chunk async for chunk in following] == [(2, b"two\n")]


@pytest.mark.parametrize("left", [0, 1])
def test_a_kill_within_a_rotation_loses_no_offset(tmp_path: Path, left: int) -> None:
    with OutputLog(tmp_path) as log:
        log.append(1, b"abc")
        log.append(2, b"defg")
    (tmp_path / "output.log").replace(tmp_path / "output.log.1")
    if left:
        (tmp_path / "output.log.new").write_bytes(b"ZONAL")
    with OutputLog(tmp_path) as log:
        assert log.offsets == {1: 3, 2: 4}
        log.append(1, b"h")
    assert b"".join(data for _, data in read_output(tmp_path)) == b"abcdefgh"


def test_a_zone_that_is_started_again_counts_anew_in_the_same_files(tmp_path: Path) -> None:
    for _ in range(2):
        with OutputLog(tmp_path) as log:
            log.begin_again()
            assert log.offsets == {1: 0, 2: 0}
            log.append(1, b"no end of line")
            log.append(2, b"x\n")
    with OutputLog(tmp_path) as log:
        assert log.offsets == {1: 14, 2: 2}
    assert b"".join(data for _, data in read_output(tmp_path)) == b"no end of linex\n" * 2


async def query(folder: Path, **wanted: Any) -> bytes:
    return b"".join([data async for _, data in stream_log(folder, LogQuery(**wanted), None)])


def with_times(folder: Path, monkeypatch: pytest.MonkeyPatch, *written: tuple[int, Literal[1, 2], bytes]) -> None:
    with OutputLog(folder) as log:
        for when, stream, data in written:
            monkeypatch.setattr("zonal.zones.output_log.time.time_ns", lambda when=when: when)
            log.append(stream, data)
    monkeypatch.undo()


async def test_a_line_has_the_time_of_its_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_times(
        tmp_path, monkeypatch, (1, 1, b"on"), (2, 2, b"other\n"), (3, 1, b"e\n\ntwo\nthr"), (4, 1, b"ee\nfour\n")
    )
    times = {n: time_text(n).encode() + b" " for n in range(1, 5)}
    assert times[1] == b"1970-01-01T00:00:00.000000001Z "
    stamped = times[1] + b"on" + times[2] + b"other\n" + b"e\n" + times[3] + b"\n" + times[3] + b"two\n"
    stamped += times[3] + b"three\n" + times[4] + b"four\n"
    assert await query(tmp_path, timestamps=True) == stamped
    assert await query(tmp_path, since_ns=3) == b"\ntwo\nthree\nfour\n"
    assert await query(tmp_path, until_ns=3) == b"onother\ne\n\ntwo\nthree\n"
    assert await query(tmp_path, since_ns=2, until_ns=2) == b"other\n"
    assert await query(tmp_path, since_ns=5) == b""
    # As docker has it, the tail is taken first.
    assert await query(tmp_path, tail=1, until_ns=3) == b""


async def test_following_ends_in_time(tmp_path: Path) -> None:
    with OutputLog(tmp_path) as log:
        log.append(1, b"a\n")
        async with asyncio.timeout(10):
            wanted = LogQuery(follow=True, until_ns=time.time_ns() + 100_000_000)
            assert [data async for _, data in stream_log(tmp_path, wanted, log)] == [b"a\n"]
