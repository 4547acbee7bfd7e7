"""The control interface's structures and numbers, against the headers of the very Xen that the lab runs."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

from tests.lab.conftest import Lab
from tests.layout_table import CONTROL, CONTROL_HEADERS, CONTROL_NUMBERS, STABLE, STABLE_HEADERS, expressions


def test_layouts_and_numbers_are_those_of_the_labs_xen(lab: Lab, tmp_path: Path) -> None:
    archive = lab.shell("tar -C /usr/include -c xen").check().stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(tmp_path, filter="data")
    expected = expressions(CONTROL) | CONTROL_NUMBERS | expressions(STABLE)
    lines = [
        "#define __XEN_TOOLS__ 1",
        "#include <stddef.h>",
        "#include <stdint.h>",
        "#include <stdio.h>",
        *(f"#include <{header}>" for header in (*STABLE_HEADERS, *CONTROL_HEADERS)),
        "int main(void) {",
        *(f'    printf("%lld\\n", (long long)({expression}));' for expression in expected),
        "}",
    ]
    program = tmp_path / "values"
    subprocess.run(
        ["gcc", "-x", "c", "-w", "-I", str(tmp_path), "-o", str(program), "-"],
        input="\n".join(lines),
        text=True,
        check=True,
    )
    output = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout
    assert dict(zip(expected, map(int, output.split()), strict=True)) == expected
