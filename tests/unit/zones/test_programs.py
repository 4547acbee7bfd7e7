"""What a zone says of its processes, which is not believed unchecked."""

from __future__ import annotations

import pytest

from zonal.zones.programs import parse_process

WORDS = ["7", "1", "1000", "pts/0", "S", "1795648000123456789", "5000000", "4096", "2048", "sh", "sh -c x"]


def test_a_process_is_read() -> None:
    found = parse_process(WORDS)
    assert (found.pid, found.parent, found.uid, found.terminal, found.state) == (7, 1, 1000, "pts/0", "S")
    assert (found.started_ns, found.cpu_ns, found.resident_bytes) == (1795648000123456789, 5000000, 2048)
    assert (found.name, found.command) == ("sh", "sh -c x")


@pytest.mark.parametrize("text", ["", "-1", "x", "²", str(1 << 63), "1" * 30])
@pytest.mark.parametrize("place", [0, 1, 2, 5, 6, 7, 8])
def test_what_is_no_number_is_refused(place: int, text: str) -> None:
    with pytest.raises(ValueError):
        parse_process([*WORDS[:place], text, *WORDS[place + 1 :]])
