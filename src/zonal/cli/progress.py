"""Progress with elapsed times, on standard error: live in a terminal, plain lines in a pipe.

`Terminal` is a `zonal.lab.Progress`. Standard output is never touched: it belongs to what a command prints.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from zonal.lab.progress import Step

_DETAIL_WIDTH = 48


class Terminal:
    """Progress on ``stream`` (standard error): live when that is a terminal, else a line as each step begins and ends.

    Nothing is shown before the first step, and nothing stays open after the last, with or without a ``with`` block.
    Steps may be begun by several threads.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        target = stream or sys.stderr
        self._shown = _Live(target) if target.isatty() else _Lines(target)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shown.close()

    def step(self, title: str) -> AbstractContextManager[Step]:
        """Shows ``title`` and the time that it takes until the block ends."""
        return self._shown.step(title)

    def note(self, line: str) -> None:
        """Shows one line."""
        self._shown.note(line)


def seconds(elapsed: float) -> str:
    """A duration for people: ``0.42 s``, ``12.3 s``, ``3 min 05 s``."""
    if elapsed < 10:
        return f"{elapsed:.2f} s"
    if elapsed < 60:
        return f"{elapsed:.1f} s"
    return f"{int(elapsed) // 60} min {int(elapsed) % 60:02} s"


class _Lines:
    """For pipes and logs: nothing is ever overwritten."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def close(self) -> None:
        pass

    def note(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    @contextmanager
    def step(self, title: str) -> Generator[Step]:
        begin = time.monotonic()
        self.note(f"{title} ...")
        try:
            yield _NoDetail()
        except BaseException:
            self.note(f"{title}: failed after {seconds(time.monotonic() - begin)}")
            raise
        self.note(f"{title}: {seconds(time.monotonic() - begin)}")


class _NoDetail:
    def detail(self, text: str) -> None:
        pass


class _Live:
    """For terminals: steps under way turn at the bottom with their times, and leave a line when they end."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bars: Bars | None = None
        self._under_way = 0
        self._lock = threading.RLock()

    def close(self) -> None:
        with self._lock:
            if self._bars is not None:
                self._bars.stop()
                self._bars = None

    @contextmanager
    def step(self, title: str) -> Generator[Step]:
        begin = time.monotonic()
        task = self._begin(title)
        outcome = "[red]✗[/]"
        try:
            yield _LiveStep(self._open(), task)
            outcome = "[green]✓[/]"
        finally:
            self._end(task, f"{outcome} {_plain(title)} [dim]{seconds(time.monotonic() - begin)}[/]")

    def note(self, line: str) -> None:
        with self._lock:
            if self._bars is None:
                print(line, file=self._stream, flush=True)
            else:
                self._bars.console.print(_plain(line))

    def _begin(self, title: str) -> TaskID:
        with self._lock:
            self._under_way += 1
            return self._open().add_task(_plain(title), detail="")

    def _end(self, task: TaskID, line: str) -> None:
        with self._lock:
            bars = self._open()
            bars.console.print(line, highlight=False)
            self._under_way -= 1
            if self._under_way:
                bars.remove_task(task)
            else:
                self.close()

    def _open(self) -> Bars:
        if self._bars is None:
            self._bars = _bars(self._stream)
            self._bars.start()
        return self._bars


class _LiveStep:
    def __init__(self, bars: Bars, task: TaskID) -> None:
        self._bars = bars
        self._task = task

    def detail(self, text: str) -> None:
        self._bars.update(self._task, detail=_plain(text[:_DETAIL_WIDTH]))


def _bars(stream: TextIO) -> Bars:
    # Importing rich takes longer than most commands run; only who waits in front of a terminal pays for it.
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[detail]}[/]"),
    )
    return Bars(*columns, console=Console(file=stream), transient=True)


def _plain(text: str) -> str:
    """``text`` with what rich would take for markup made harmless."""
    return text.replace("[", "\\[")
