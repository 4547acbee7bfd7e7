from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zonal.errors import InvalidInputError
from zonal.images.reference import familiar, parse

SHA = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("debian", "docker.io/library/debian:latest"),
        ("debian:13", "docker.io/library/debian:13"),
        ("library/debian:13", "docker.io/library/debian:13"),
        ("docker.io/debian:13", "docker.io/library/debian:13"),
        ("index.docker.io/library/debian:13", "docker.io/library/debian:13"),
        ("team/app", "docker.io/team/app:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app", "localhost:5000/app:latest"),
        ("registry.example/a/b/c:1.0_x-y", "registry.example/a/b/c:1.0_x-y"),
        ("Registry/app", "Registry/app:latest"),
        ("[::1]:5000/app:2", "[::1]:5000/app:2"),
        (f"debian@{SHA}", f"docker.io/library/debian@{SHA}"),
        (f"debian:13@{SHA}", f"docker.io/library/debian:13@{SHA}"),
        ("a__b/c---d.e:t", "docker.io/a__b/c---d.e:t"),
    ],
)
def test_a_short_name_is_completed_as_docker_does(text: str, full: str) -> None:
    assert str(parse(text)) == full


@pytest.mark.parametrize(
    "text",
    [
        "", ":13", "debian:", "debian:a b", "debian@", "debian@sha256:12", "Debian", "a//b", "/a", "a/", "-a", "a-",
        "a___b", "a..b", "debian:13:14", "debian:" + "x" * 129, "0" * 64, "x" * 256, "reg_istry.example/app",
        "host:port/app", "débian", "debian:१", f"debian@{SHA.upper()}", "a\n", "debian:13\n", "../etc/passwd",
    ],
)  # fmt: skip
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError):
        parse(text)


def test_people_see_the_short_form() -> None:
    assert familiar("docker.io/library/debian:13") == "debian:13"
    assert familiar("docker.io/team/app:1") == "team/app:1"
    assert familiar("localhost:5000/library/debian:13") == "localhost:5000/library/debian:13"


@given(st.text(max_size=80) | st.from_regex(r"[a-z:/@._-]{0,40}"))
def test_any_text_is_a_name_or_refused(text: str) -> None:
    try:
        reference = parse(text)
    except InvalidInputError:
        return
    assert parse(str(reference)) == reference
    assert parse(reference.familiar) == reference
