from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import termios
import time

import pytest

from tests.unit.cli.conftest import TIMEOUT, Zonal
from zonal.api import control_pb2 as pb
from zonal.cli import live
from zonal.cli.live import Order, Reading, obey, picture, rows, short_size, short_time, sort_rows
from zonal.cli.screen import parse_keys

S = 10**9


def reading(now: int, *zones: tuple[str, int, int]) -> Reading:
    """At ``now`` seconds; zones by name, ns of CPU and bytes received."""
    return Reading(
        time_ns=now * S,
        info=pb.InfoReply(cpus=2, free_bytes=3 << 30, memory_bytes=4 << 30, wall_clock_ns=now * S),
        zones=[
            pb.Zone(id=name, name=name, state=pb.ZONE_STATE_RUNNING, cpus=1, started_ns=S, memory_bytes=1 << 28)
            for name, _, _ in zones
        ],
        stats={
            name: pb.ZoneStats(
                id=name,
                time_ns=now * S,
                cpu_time_ns=cpu,
                net_received_bytes=received,
                memory_bytes=1 << 26,
                memory_limit_bytes=1 << 28,
            )
            for name, cpu, received in zones
        },
    )


def test_two_readings_make_rates() -> None:
    before = reading(10, ("a", 0, 0), ("b", 5 * S, 100))
    now = reading(12, ("a", S, 4096), ("b", 0, 0), ("new", S, 0))
    a, b, new = rows(now, before)
    assert (a.cpu_percent, a.received, a.memory, a.uptime_ns) == (50.0, 2048, 1 << 26, 11 * S)
    assert (b.cpu_percent, b.received) == (0, 0)  # started again: no rate, and none below zero
    assert new.cpu_percent == 0
    assert [row.name for row in sort_rows([a, b, new], Order("cpu"))] == ["a", "b", "new"]
    assert [row.name for row in sort_rows([a, b, new], Order("name", reverse=True))] == ["new", "b", "a"]


@pytest.mark.parametrize("width", [80, 100, 200])
def test_the_picture_fits_the_screen(width: int) -> None:
    zones = [(f"zone-{number:03d}{'x' * 60}", number * S, 10**15) for number in range(50)]
    for height in (2, 5, 24):
        order = Order(first=1000)
        lines = picture(reading(12, *zones), reading(10, *((name, 0, 0) for name, _, _ in zones)), order, height, width)
        assert len(lines) == height
        plain = [re.sub(r"\x1b\[[0-9]*m", "", line) for line in lines]
        assert max(map(len, plain)) <= width
    assert "CPU%*" in plain[1]
    assert order.first == 50 - 21
    assert plain[-1].startswith("30-50 of 50  ")


def test_names_cannot_move_the_cursor() -> None:
    name = "\x1b[2J\u202eevil\n"
    lines = picture(reading(12, (name, 0, 0)), reading(10, (name, 0, 0)), Order(), 24, 80)
    assert not any(c in line for line in lines[2:] for c in "\x1b\u202e\n")


def test_keys() -> None:
    assert parse_keys(b"q\x1b[Aj\x1b[1;5C\x1b[6~\x03") == ["q", "up", "j", "page down", "\x03"]
    assert parse_keys(b"\x1b") == ["\x1b"]
    order = Order(first=7)
    assert obey("m", order, page=10)
    assert (order.column, order.first) == ("memory", 0)
    assert obey("r", order, page=10)
    assert obey("page down", order, page=10)
    assert obey("up", order, page=10)
    assert (order.reverse, order.first) == (True, 9)
    assert obey("?", order, page=10)
    for key in ("q", "\x03", "\x1b"):
        assert not obey(key, order, page=10)


def test_sizes_and_times_are_short() -> None:
    sizes = [0, 999, 1000, 1024, 10239, 10 << 10, 999 << 10, 1023 << 10, 1 << 20, 10**12, 1 << 62]
    assert [short_size(size) for size in sizes[:7]] == ["0", "999", "1.0K", "1.0K", "10K", "10K", "999K"]
    assert all(len(short_size(size)) <= 5 for size in sizes)
    assert [short_time(seconds * S) for seconds in (0, 59, 61, 3700, 90000, 10**7)] == [
        *("0s", "59s", "1m01s", "1h01m", "1d01h"),
        "115d",
    ]


def test_in_a_pipe_it_is_one_plain_table(zonal: Zonal) -> None:
    zonal("run", "-d", "--name", "watched", "local:1", "sleep", "100")
    for arguments in (("top",), ("top", "--once", "--sort", "name"), ("zone", "top")):
        table = zonal(*arguments).stdout.decode()
        assert re.search(r"^watched +running +50.0 +1.0M +0.8 ", table, re.MULTILINE)
        assert "\x1b" not in table
    assert zonal("top", "--sort", "colour").returncode == 125
    zonal("rm", "-f", "watched")


@pytest.mark.parametrize("end", [b"q", b"\x03", signal.SIGTERM, signal.SIGHUP])
def test_the_terminal_is_put_back_however_it_ends(zonal: Zonal, end: bytes | signal.Signals) -> None:
    zonal("run", "-d", "--name", "shown", "local:1", "sleep", "100")
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    before = termios.tcgetattr(slave)
    process = subprocess.Popen[bytes](
        zonal.start_command("top", "-d", "0.3"), stdin=slave, stdout=slave, env=zonal.environment
    )
    shown = b""
    deadline = time.monotonic() + TIMEOUT
    while b"shown" not in shown or b"50.0" not in shown:
        assert time.monotonic() < deadline
        shown += os.read(master, 65536)
    assert shown.startswith(b"\x1b[?1049h")
    assert termios.tcgetattr(slave) != before
    if isinstance(end, bytes):
        os.write(master, end)
    else:
        process.send_signal(end)
    os.set_blocking(master, False)
    while process.poll() is None:
        assert time.monotonic() < deadline
        try:
            shown += os.read(master, 65536)
        except BlockingIOError:
            time.sleep(0.05)
    while True:
        try:
            shown += os.read(master, 65536)
        except OSError:
            break
    assert process.returncode == (0 if isinstance(end, bytes) else 128 + end)
    assert shown.endswith(b"\x1b[?7h\x1b[?25h\x1b[?1049l")
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)
    zonal("rm", "-f", "shown")


def test_every_order_has_a_key() -> None:
    assert set(live.SORTS) == {order.column for key in "cmndusa" if obey(key, order := Order(), page=1)}
