"""``-e`` and ``--env-file``: the variables of a workload, as docker reads them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from zonal.errors import InvalidInputError, NotFoundError


def variable(text: str, own: Mapping[str, str] = os.environ) -> str:
    """``K=V`` as it is; ``K`` alone with our own value, or alone still where we have none, which removes the image's.

    Raises ``InvalidInputError`` when there is no name.
    """
    name, equals, _ = text.partition("=")
    if not name:
        raise InvalidInputError(f"{text!r} names no environment variable", hint="write it as NAME=VALUE or NAME")
    return text if equals or name not in own else f"{name}={own[name]}"


def read_env_file(path: Path, own: Mapping[str, str] = os.environ) -> list[str]:
    """The variables of a file: one a line, empty lines and those that begin with ``#`` left out, nothing unquoted.

    Raises ``NotFoundError``, or ``InvalidInputError`` with the line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no environment file {path}", hint="give the path of a file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"the environment file {path} cannot be read: {error}") from error
    variables: list[str] = []
    for number, line in enumerate(lines, start=1):
        line = line.lstrip().removesuffix("\r")
        if not line or line.startswith("#"):
            continue
        name = line.partition("=")[0]
        if not name or name != name.strip() or any(c.isspace() for c in name):
            raise InvalidInputError(
                f"{path}, line {number}: {name!r} cannot be the name of a variable", hint="write it as NAME=VALUE"
            )
        variables.append(variable(line, own))
    return variables
