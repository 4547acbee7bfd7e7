"""How long-running work tells a person where it stands.

The rooms below the command line speak to this protocol only; `zonal.cli.progress` draws it.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Step(Protocol):
    """One step that is under way."""

    def detail(self, text: str) -> None:
        """Says what the step is doing now, in a few words; replaces what was said before."""
        ...


class Progress(Protocol):
    """Steps, each shown with its elapsed time; several may be under way at once."""

    def step(self, title: str) -> AbstractContextManager[Step]:
        """Shows ``title`` until the block ends; a block that raises is shown as failed."""
        ...

    def note(self, line: str) -> None:
        """Says one thing worth knowing that is not a step."""
        ...


class Silent:
    """Progress that nobody watches."""

    def detail(self, text: str) -> None:
        """Says nothing."""

    def note(self, line: str) -> None:
        """Says nothing."""

    @contextmanager
    def step(self, title: str) -> Generator[Silent]:
        """Does nothing around the block."""
        yield self
