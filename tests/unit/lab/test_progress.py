"""Progress as a person, and as a log file, sees it."""

from __future__ import annotations

import io
import re
import threading

import pytest

from zonal.cli.progress import Terminal, seconds


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def plain(stream: io.StringIO) -> str:
    """What was written, without the terminal's control sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())


def test_durations() -> None:
    assert [seconds(value) for value in (0.416, 9.994, 12.34, 59.94, 60, 185.9)] == [
        *("0.42 s", "9.99 s", "12.3 s", "59.9 s", "1 min 00 s", "3 min 05 s")
    ]


def test_a_pipe_gets_a_line_at_each_begin_and_end() -> None:
    out = io.StringIO()
    with Terminal(out) as progress:
        with progress.step("Building") as step:
            step.detail("half way")
        progress.note("a note")
    assert re.fullmatch(r"Building \.\.\.\nBuilding: \d+\.\d\d s\na note\n", out.getvalue())


@pytest.mark.parametrize("stream", [io.StringIO, Tty])
def test_a_step_that_fails_is_shown_as_failed(stream: type[io.StringIO]) -> None:
    out = stream()
    with pytest.raises(ValueError), Terminal(out) as progress, progress.step("Building"):
        raise ValueError
    assert re.search(r"Building: failed after|✗ Building", plain(out))


def test_a_terminal_keeps_a_line_for_each_step() -> None:
    out = Tty()
    progress = Terminal(out)

    def work(number: int) -> None:
        with progress.step(f"Step [{number}]") as step:
            step.detail("[bold]going on")
            meet.wait()

    meet = threading.Barrier(2)
    threads = [threading.Thread(target=work, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    progress.note("the end")
    for number in (1, 2):
        assert re.search(rf"✓ Step \[{number}\] \d+\.\d\d s", plain(out))
    assert plain(out).endswith("the end\n")
