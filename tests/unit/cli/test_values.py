from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zonal.cli.environment import read_env_file, variable
from zonal.cli.errors import printable
from zonal.cli.format import parse_size, show_age, show_size, show_table
from zonal.cli.kernel import kernel_name
from zonal.cli.terminal import DETACH_KEYS, DetachKeys
from zonal.cli.timing import Span, process_begin_ns, table
from zonal.errors import InvalidInputError
from zonal.images.kernels import KernelStore


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("64k", 65536), ("256M", 256 << 20), ("256 MiB", 256 << 20), ("1g", 1 << 30), ("0.5G", 512 << 20)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@given(st.text(max_size=12))
def test_any_text_is_a_size_or_refused(text: str) -> None:
    try:
        assert parse_size(text) >= 0
    except InvalidInputError as error:
        assert error.hint


@pytest.mark.parametrize("text", ["", "-1", "1e3", "x", "1x", "M", "1.M", ".5G", "٣M", "1" * 16])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InvalidInputError):
        parse_size(text)


def test_sizes_for_people() -> None:
    shown = [show_size(size) for size in (0, 1023, 1024, 10 << 20, 1023 << 20, (1 << 30) - 1, 5 << 40)]
    assert shown == ["0 B", "1023 B", "1.0 KiB", "10 MiB", "1023 MiB", "1.0 GiB", "5.0 TiB"]


def test_ages() -> None:
    second = 1_000_000_000
    now = 10**18
    ages = [show_age(now - age * second, now) for age in (-5, 0, 1, 59, 60, 7200, 86400 * 3)]
    assert ages == [
        *("0 seconds ago", "0 seconds ago", "1 second ago", "59 seconds ago", "1 minute ago", "2 hours ago"),
        "3 days ago",
    ]
    assert show_age(0) == ""


def test_tables_are_aligned_and_cannot_play_with_the_terminal() -> None:
    shown = show_table(["A", "B"], [["x", "1"], ["\x1b[2J\n", "22"]])
    assert shown == "A          B\nx          1\n\\x1b[2J    22"


@given(st.text())
def test_what_a_zone_says_cannot_play_with_the_terminal(text: str) -> None:
    assert all(c.isprintable() or c in "\n\t" for c in printable(text))


def test_variables_take_our_value_or_remove_the_images() -> None:
    own = {"A": "1"}
    assert [variable(text, own) for text in ("A", "B", "A=", "C=x=y")] == ["A=1", "B", "A=", "C=x=y"]
    with pytest.raises(InvalidInputError):
        variable("=x")


@pytest.mark.parametrize("content", ["=x", "a b=c", "A =1"])
def test_a_bad_line_of_a_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "env").write_text(f"OK=1\r\n{content}\n")
    with pytest.raises(InvalidInputError, match="line 2"):
        read_env_file(tmp_path / "env")


def test_a_file_of_variables_is_read_line_by_line(tmp_path: Path) -> None:
    (tmp_path / "env").write_bytes(b"\xef\xbb\xbfA=1\r\n  # no\n\n B=' 2 '\nC\n")
    assert read_env_file(tmp_path / "env", {"C": "3"}) == ["A=1", "B=' 2 '", "C=3"]


@given(st.binary(max_size=40), st.integers(1, 5))
def test_detach_keys_are_found_however_they_are_cut(data: bytes, size: int) -> None:
    keys = DetachKeys()
    passed = b"".join(keys.filter(data[i : i + size]) for i in range(0, len(data), size))
    before, found, _ = data.partition(DETACH_KEYS)
    assert keys.detached is bool(found)
    # The first of the keys is held until it is known what follows it.
    assert passed == before or (not found and passed + DETACH_KEYS[:1] == before)


def test_a_kernel_files_name_is_one_that_the_store_takes(tmp_path: Path) -> None:
    path = tmp_path / "Vmlinuz Ö_(new).ELF"
    path.write_bytes(Path("/proc/self/exe").read_bytes()[:100_000])
    name = kernel_name(path)
    assert KernelStore(tmp_path / "store", boot=tmp_path / "none").import_file(path, name).name == name
    path.write_bytes(b"other")
    assert kernel_name(path) != name


def test_times_are_told_in_seconds() -> None:
    shown = table([Span("boot", 500_000_000, 1_750_000_000)], 2_000_000_000).splitlines()
    assert shown[1].split() == ["boot", "0.500", "1.250"]
    assert shown[2].split() == ["total", "2.000"]


def test_this_process_began_before_now() -> None:
    begin = process_begin_ns()
    assert abs(process_begin_ns() - begin) < 100_000_000
