"""Logs in a kubelet's format: whole lines, cut lines, and a file that an earlier zonald has begun."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zonal.cri.logs import MAX_LINE, LogWriter, log_path
from zonal.errors import InvalidInputError
from zonal.zones.log_reading import LinePicker
from zonal.zones.output_log import LogRecord
from zonal.zones.spec import LogQuery

EPOCH = 1_800_000_000_000_000_000


def picked(records: list[LogRecord], since: int = 0) -> list[tuple[int, bytes]]:
    """As zonald gives out what it keeps."""
    picker = LinePicker(LogQuery(timestamps=True, since_ns=since))
    return [(record.stream, data) for record in records if (data := picker.pick(record))]


def copy(path: Path, records: list[LogRecord]) -> None:
    writer = LogWriter(path)
    for stream, data in picked(records, writer.since):
        writer.write(stream, data)
    writer.finish()


def texts(path: Path) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    for line in path.read_text().splitlines():
        _, stream, tag, text = line.split(" ", 3)
        found.append((stream, tag, text))
    return found


def record(number: int, stream: int, data: bytes) -> LogRecord:
    assert stream in (1, 2)
    return LogRecord(EPOCH + number, 1 if stream == 1 else 2, data)


def test_lines_are_put_together_from_pieces(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    copy(path, [record(1, 1, b"a\nb"), record(2, 2, b"error\n"), record(3, 1, b"c\n\nd"), record(4, 1, b"e")])
    assert texts(path) == [
        *(("stdout", "F", "a"), ("stderr", "F", "error"), ("stdout", "F", "bc"), ("stdout", "F", "")),
        ("stdout", "P", "de"),
    ]


def test_a_long_line_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    copy(path, [record(1, 1, b"x" * MAX_LINE + b"y" * MAX_LINE + b"z\n"), record(2, 1, b"end\n")])
    assert [(tag, len(text), text[-1]) for _, tag, text in texts(path)] == [
        *(("P", MAX_LINE, "x"), ("P", MAX_LINE, "y"), ("F", 1, "z"), ("F", 3, "d")),
    ]


@given(
    st.lists(st.tuples(st.integers(1, 2), st.lists(st.sampled_from([b"one", b"two", b""]), min_size=1)), max_size=12),
    st.data(),
)
def test_whoever_goes_on_loses_and_doubles_nothing(
    tmp_path_factory: pytest.TempPathFactory, said: list[tuple[int, list[bytes]]], data: st.DataObject
) -> None:
    """Some records have the same time, as when much came at once."""
    records = [record(number // 2, stream, b"\n".join(lines) + b"\n") for number, (stream, lines) in enumerate(said)]
    whole, parted = (tmp_path_factory.mktemp("logs") / "0.log" for _ in range(2))
    copy(whole, records)
    copy(parted, records[: data.draw(st.integers(0, len(records)))])
    copy(parted, records)
    assert sorted(texts(parted)) == sorted(texts(whole))


def test_a_file_that_was_moved_away_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "pod" / "0.log"
    writer = LogWriter(path)
    writer.write(*picked([record(1, 1, b"before\n")])[0])
    path.rename(tmp_path / "pod" / "0.log.1")
    writer.reopen()
    writer.write(*picked([record(2, 1, b"after\n")])[0])
    writer.finish()
    assert [text for _, _, text in texts(tmp_path / "pod" / "0.log.1")] == ["before"]
    assert [text for _, _, text in texts(path)] == ["after"]


@pytest.mark.parametrize("path", ["../outside", "a/../../outside", ".."])
def test_a_log_stays_in_its_pods_directory(path: str) -> None:
    with pytest.raises(InvalidInputError):
        log_path("/var/log/pods/x", path)
    assert log_path("/var/log/pods/x", "a/0.log") == "/var/log/pods/x/a/0.log"
    assert log_path("", "a") == log_path("/var", "") == ""


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for path in (tmp_path, tmp_path / "link"):
        with pytest.raises(InvalidInputError):
            LogWriter(path)
