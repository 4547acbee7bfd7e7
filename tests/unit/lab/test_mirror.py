"""Finding the Debian mirror that a machine uses."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zonal.errors import InvalidInputError
from zonal.lab.mirror import DEFAULT_MIRROR, DEFAULT_SECURITY, mirrors, sources


@pytest.fixture(autouse=True)
def _no_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZONAL_DEBIAN_MIRROR", raising=False)


def apt(folder: Path, **files: str) -> Path:
    (folder / "sources.list.d").mkdir()
    for name, text in files.items():
        path = folder / "sources.list" if name == "main" else folder / "sources.list.d" / name.replace("_", ".")
        path.write_text(text)
    return folder


def test_one_line_sources(tmp_path: Path) -> None:
    text = (
        "# deb http://commented.example/debian bookworm main\n"
        "deb-src http://sources.example/debian bookworm main\n"
        "deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian/ bookworm main contrib\n"
        "deb http://mirror.example/debian-security bookworm-security main\n"
    )
    assert mirrors(apt(tmp_path, main=text)) == (
        "http://mirror.example/debian",
        "http://mirror.example/debian-security",
    )


def test_deb822_sources(tmp_path: Path) -> None:
    text = (
        "Enabled: no\nTypes: deb\nURIs: http://off.example/debian\nSuites: trixie\n\n"
        "# a comment\nTypes: deb deb-src\nURIs:\n https://mirror.example/debian\nSuites: trixie\n trixie-updates\n"
        "Components: main\n\n"
        "Types: deb\nURIs: https://mirror.example/debian-security\nSuites: trixie-security\n"
    )
    assert mirrors(apt(tmp_path, debian_sources=text)) == (
        "https://mirror.example/debian",
        "https://mirror.example/debian-security",
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "deb http://ubuntu.example/ubuntu noble main\n",
        "deb http://packages.example/debian nodistro main\n",
        "deb file:/srv/debian bookworm main\n",
        "deb cdrom:[Debian 12]/ bookworm main\n",
    ],
)
def test_other_archives_are_not_taken_for_debian(tmp_path: Path, text: str) -> None:
    assert mirrors(apt(tmp_path, main=text)) == (DEFAULT_MIRROR, DEFAULT_SECURITY)


def test_the_environment_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZONAL_DEBIAN_MIRROR", "http://near.example/debian/")
    text = sources("trixie", apt(tmp_path, main="deb http://mirror.example/debian bookworm main\n"))
    assert "URIs: http://near.example/debian\nSuites: trixie trixie-updates\n" in text
    assert "URIs: http://near.example/debian-security\nSuites: trixie-security\n" in text


@pytest.mark.parametrize("value", ["near.example", "file:///srv", "http://a b/debian", "http://a/debian\nTypes: x"])
def test_an_override_that_is_no_address_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZONAL_DEBIAN_MIRROR", value)
    with pytest.raises(InvalidInputError, match="ZONAL_DEBIAN_MIRROR"):
        mirrors()


@settings(deadline=None)
@given(one_line=st.text(max_size=200), deb822=st.text(max_size=200))
def test_any_text_gives_two_addresses(tmp_path_factory: pytest.TempPathFactory, one_line: str, deb822: str) -> None:
    folder = tmp_path_factory.mktemp("apt")
    for address in mirrors(apt(folder, main=one_line, x_sources=deb822)):
        assert address.startswith(("http://", "https://"))
        assert not any(character.isspace() for character in address)
