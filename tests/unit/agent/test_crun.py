from __future__ import annotations

from pathlib import Path

import pytest

from zonal.agent.crun import refusal


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("executable file `nope` not found in $PATH: No such file or directory", "not-found"),
        ("executable file `/nope` not found: No such file or directory", "not-found"),
        ("the path `/bin` is not a regular file: Operation not permitted", "not-executable"),
        ("the path `/bin/data` exists but it is not executable: Operation not permitted", "not-executable"),
        ("open executable: Permission denied", "not-executable"),
        ("open executable: No such file or directory", "not-found"),
        ("mount `proc` to `proc`: Operation not permitted", "runtime"),
        ("", "runtime"),
    ],
)
def test_the_words_of_crun_are_told_apart(tmp_path: Path, text: str, code: str) -> None:
    (tmp_path / "log").write_text(text + "\n")
    got, message = refusal(str(tmp_path / "log"))
    assert got == code
    assert message == (text or "crun failed and said nothing")


def test_no_log_is_a_refusal_too(tmp_path: Path) -> None:
    assert refusal(str(tmp_path / "log"))[0] == "runtime"
