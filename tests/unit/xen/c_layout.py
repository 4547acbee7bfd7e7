"""Sizes, offsets and numbers as the C compiler sees them in the public headers of Xen and Linux.

The headers are those of Debian's ``libxen-dev`` (``xen/…``) and ``linux-libc-dev`` (``linux/…``, ``xen/evtchn.h``).
"""

from __future__ import annotations

import functools
import subprocess
import tempfile
from pathlib import Path


def c_values(headers: list[str], expressions: list[str]) -> dict[str, int]:
    """Compiles and runs a program that prints each expression as an integer; all in one go, so ask for many at once.

    Headers are as they stand between ``<`` and ``>``; a line that begins with ``#`` or ends with ``;`` is taken as it
    is. The same question is answered from memory.
    """
    return dict(zip(expressions, _run(tuple(headers), tuple(expressions)), strict=True))


def c_struct(headers: list[str], name: str, fields: list[str]) -> tuple[int, dict[str, int]]:
    """The size in bytes of a type, such as ``struct ring_shared``, and the offset in bytes of each of its fields."""
    size = f"sizeof({name})"
    values = c_values(headers, [size, *(f"offsetof({name}, {field})" for field in fields)])
    return values[size], {field: values[f"offsetof({name}, {field})"] for field in fields}


@functools.cache
def _run(headers: tuple[str, ...], expressions: tuple[str, ...]) -> list[int]:
    included = [line if line.startswith("#") or line.endswith(";") else f"#include <{line}>" for line in headers]
    printed = [f'    printf("%lld\\n", (long long)({expression}));' for expression in expressions]
    source = "\n".join(
        [
            "#include <stddef.h>",
            "#include <stdint.h>",
            "#include <stdio.h>",
            "#include <sys/ioctl.h>",
            *included,
            "int main(void)",
            "{",
            *printed,
            "    return 0;",
            "}",
            "",
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "values"
        subprocess.run(
            ["gcc", "-x", "c", "-O0", "-w", "-D__XEN_TOOLS__", "-o", str(program), "-"],
            input=source,
            text=True,
            check=True,
        )
        output = subprocess.run([str(program)], stdout=subprocess.PIPE, text=True, check=True).stdout
    return [int(line) for line in output.split()]
