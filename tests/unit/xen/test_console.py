"""The console: its page against Xen's header, the bounded log, and quoting."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.xen.c_layout import c_struct
from zonal.xen import console
from zonal.xen.console_log import ConsoleLog, find_panic, quote_console


def test_page_is_laid_out_as_in_c() -> None:
    fields = ["in", "out", "in_cons", "in_prod", "out_cons", "out_prod"]
    _, offsets = c_struct(["xen/io/console.h"], "struct xencons_interface", fields)
    assert offsets["in"] == 0
    assert offsets["out"] == console.OUTPUT_OFFSET == console.INPUT_SIZE
    assert offsets["in_cons"] == console.COUNTERS_OFFSET == console.OUTPUT_OFFSET + console.OUTPUT_SIZE
    base = console.COUNTERS_OFFSET
    counters = (console.IN_CONS, console.IN_PROD, console.OUT_CONS, console.OUT_PROD)
    assert [base + 4 * counter for counter in counters] == [offsets[field] for field in fields[2:]]


def read_all(log: ConsoleLog, position: int = 0) -> bytes:
    collected = b""
    while True:
        position, data = log.read(position, 7)
        if not data:
            return collected
        collected += data


def lines(first: int, last: int) -> bytes:
    return b"".join(b"line %06d\n" % number for number in range(first, last))


@given(st.lists(st.binary(max_size=60), max_size=40))
def test_a_log_keeps_its_first_and_last_bytes(tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("log") / "console.log"
    log = ConsoleLog(path, keep_first=32, keep_last=64)
    whole = b""
    for piece in pieces:
        log.append(piece)
        whole += piece
        assert log.end == len(whole)
        assert path.stat().st_size <= 32 + 100 + 2 * 64 + 60
        kept = read_all(log)
        assert kept[:32] == whole[:32]
        assert kept[-64:][-len(whole) :] == whole[-64:]
        assert log.tail(10) == whole[-10:]
        if b"bytes are left out here" not in kept:
            assert kept == whole
    log.close()
    again = ConsoleLog(path, keep_first=32, keep_last=64)
    assert again.end == len(whole)
    assert read_all(again)[:32] == whole[:32]
    again.close()


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    log = ConsoleLog(tmp_path / "console.log", keep_first=120, keep_last=120)
    log.append(lines(0, 100))
    log.append(lines(100, 200))
    assert log.end == 200 * 12
    kept = (tmp_path / "console.log").read_bytes()
    assert kept[:120] == lines(0, 10)
    assert kept[120:-120] == b"\n[zonal: 00000000000000002160 bytes are left out here]\n"
    assert kept[-120:] == lines(190, 200)
    log.close()


async def test_followers_get_what_there_was_and_what_comes(tmp_path: Path) -> None:
    log = ConsoleLog(tmp_path / "console.log")
    log.append(b"before ")
    started = asyncio.Event()
    collected = b""

    async def follow() -> None:
        nonlocal collected
        async for piece in log.follow():
            collected += piece
            started.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(follow())
        await started.wait()
        started.clear()
        log.append(b"after ")
        await started.wait()
        log.close()
    assert collected == b"before after "


async def test_the_tail_of_a_follower_comes_before_the_end(tmp_path: Path) -> None:
    log = ConsoleLog(tmp_path / "console.log")
    position = log.end
    log.append(b"panic")
    stream = log.follow(position)
    assert await anext(stream) == b"panic"
    await stream.aclose()
    log.close()


@given(st.binary(max_size=300))
def test_quoted_output_is_harmless(data: bytes) -> None:
    quoted = quote_console(data, lines=5, width=80)
    assert all(line.isprintable() and len(line) <= 80 for line in quoted.split("\n"))
    assert quoted.count("\n") < 5


def test_quoted_output_is_the_end() -> None:
    assert quote_console(b"one\r\ntwo\r\n\x1b[31mred\tthree\xff\r\n", lines=2) == "two\n\\x1b[31mred three\\xff"


def test_why_a_kernel_panics_is_found_before_its_long_trace() -> None:
    trace = b"".join(b"[ 24.65] RSP: 002b:%016x\r\n" % number for number in range(100))
    data = (
        b"[ 1.0] Kernel panic - not syncing: older\r\nbooted\r\n[ 24.6] Kernel panic - not syncing: \x1b[2Jgone\r\n"
        + trace
    )
    assert find_panic(data) == "Kernel panic - not syncing: \\x1b[2Jgone"
    assert find_panic(trace) == ""
    assert (
        find_panic(b"Kernel panic - not syncing: " + b"x" * 10_000) == "Kernel panic - not syncing: " + "x" * 171 + "…"
    )
