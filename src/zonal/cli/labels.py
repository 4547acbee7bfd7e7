"""``--label``, ``--annotation``, ``--expose``, ``--stop-timeout`` and ``--cidfile``: what is only told of a zone."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from zonal.errors import AlreadyExistsError, InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from zonal.api import control_pb2 as pb

LABEL_OPTIONS = (
    click.option("-l", "--label", "labels", multiple=True, metavar="NAME[=VALUE]", help="A mark of the zone."),
    click.option(
        "--label-file", "label_files", multiple=True, type=click.Path(path_type=Path), help="A file of such lines."
    ),
    click.option("--annotation", "annotations", multiple=True, metavar="NAME=VALUE", help="For the OCI runtime."),
    click.option("--expose", "exposed", multiple=True, metavar="PORT[/udp]", help="Told of the zone; opens nothing."),
    click.option("--stop-timeout", type=int, metavar="SECONDS", help="Before SIGKILL; 10 by default, -1 for a day."),
)
_LONGEST_STOP = 24 * 3600


def add_labels(spec: pb.RunSpec, values: Mapping[str, Any]) -> None:
    """Puts what `LABEL_OPTIONS` have given, annotations aside, into a run's spec. Raises ``InvalidInputError``."""
    lines = [line for path in values["label_files"] for line in read_label_file(path)]
    spec.labels.update(parse_pairs("--label", [*lines, *values["labels"]]))
    spec.exposed_ports.extend(values["exposed"])
    timeout = values["stop_timeout"]
    if timeout is not None:
        if timeout < -1:
            raise InvalidInputError(f"--stop-timeout {timeout}: there is no such time", hint="seconds, or -1")
        spec.stop_timeout_seconds = _LONGEST_STOP if timeout == -1 else min(timeout, 0xFFFFFFFF)


def parse_pairs(option: str, texts: Iterable[str], *, value_needed: bool = False) -> dict[str, str]:
    """``NAME=VALUE`` each, the last one of a name; without ``=`` the value is empty. Raises ``InvalidInputError``."""
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name.strip() or (value_needed and not equals):
            raise InvalidInputError(f"{option} {text[:80]!r} cannot be", hint=f"write it as {option} NAME=VALUE")
        pairs[name] = value
    return pairs


def read_label_file(path: Path) -> list[str]:
    """One label a line; empty lines and those that begin with ``#`` left out. Raises ``NotFoundError`` and the like."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file of labels {path}", hint="give the path of a file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"the file of labels {path} cannot be read: {error}") from error
    return [line.lstrip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


@contextmanager
def id_file(path: Path | None) -> Generator[IdFile]:
    """A file that gets a zone's id once it runs, and is gone again when it never did.

    Raises ``AlreadyExistsError``: it may be the only trace of another zone.
    """
    if path is None:
        yield IdFile(None)
        return
    try:
        file = path.open("x", encoding="ascii")
    except FileExistsError as error:
        raise AlreadyExistsError(f"the file {path} is there already", hint="remove it, or choose another") from error
    except OSError as error:
        raise InvalidInputError(f"the file {path} cannot be made: {error.strerror}") from error
    with file:
        made = IdFile(file)
        try:
            yield made
        finally:
            if not made.written:
                with suppress(FileNotFoundError):
                    path.unlink()


class IdFile:
    """See ``id_file``."""

    def __init__(self, file: TextIO | None) -> None:
        self._file = file
        self.written = False

    def write(self, zone_id: str) -> None:
        """The zone runs, and has this id."""
        if self._file is not None:
            self._file.write(zone_id)
            self._file.flush()
        self.written = True
