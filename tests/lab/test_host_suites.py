"""The tests in ``tests/host`` need Xen under their feet: each room's run with pytest inside of the lab's host."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.conftest import PROJECT, Lab

SUITES = sorted(
    str(path.relative_to(PROJECT)) for path in (PROJECT / "tests/host").iterdir() if list(path.glob("test_*"))
)


@pytest.mark.parametrize("suite", SUITES)
def test_in_the_host(lab: Lab, suite: str) -> None:
    done = lab.host_pytest(suite)
    assert done.status == 0, done.stdout.decode(errors="replace")[-6000:] + done.err[-2000:]


def test_every_suite_is_found() -> None:
    assert {Path(suite).name for suite in SUITES} == {"agent", "images", "xen"}
