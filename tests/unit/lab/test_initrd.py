"""The initrd's archives and the order of the modules in it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zonal.errors import UnavailableError
from zonal.lab.initrd import Entry, archive, directory, load_order, regular


def read_archive(data: bytes) -> list[tuple[str, int, int, bytes]]:
    """Path, mode, modification time and data of each entry, by the format's own description."""
    found: list[tuple[str, int, int, bytes]] = []
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name_end = at + 110 + fields[11]
        name = data[at + 110 : name_end - 1].decode()
        begin = (name_end + 3) // 4 * 4
        if name == "TRAILER!!!":
            assert not data[begin:].strip(b"\0")
            return found
        assert data[name_end - 1] == 0
        assert fields[2:5] == [0, 0, 1]
        found.append((name, fields[1], fields[5], data[begin : begin + fields[6]]))
        at = (begin + fields[6] + 3) // 4 * 4


names = st.text("abcdefghij/._-ä", min_size=1, max_size=40)
times = st.integers(0, 2**32 - 1)


@given(st.lists(st.tuples(names, st.binary(max_size=300), times), max_size=12))
def test_what_goes_in_comes_out(files: list[tuple[str, bytes, int]]) -> None:
    made = archive([regular(name, data, mtime=mtime) for name, data, mtime in files])
    assert len(made) % 512 == 0
    assert read_archive(made) == [(name, stat.S_IFREG | 0o644, mtime, data) for name, data, mtime in files]


def test_directories_and_nodes_have_their_types() -> None:
    made = archive([directory("etc", 0o700), Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))])
    assert [mode for _, mode, _, _ in read_archive(made)] == [stat.S_IFDIR | 0o700, stat.S_IFCHR | 0o600]
    second = made.index(b"070701", 6)
    assert made[second + 6 + 8 * 9 : second + 6 + 8 * 11] == b"00000005" + b"00000001"


def make_modules(folder: Path) -> Path:
    (folder / "modules.dep").write_text(
        "kernel/fs/ext4/ext4.ko.xz: kernel/fs/jbd2/jbd2.ko.xz kernel/lib/crc16.ko.xz\n"
        "kernel/fs/jbd2/jbd2.ko.xz: kernel/lib/crc16.ko.xz\n"
        "kernel/lib/crc16.ko.xz:\n"
        "kernel/drivers/xen/xen-evtchn.ko:\n"
    )
    (folder / "modules.builtin").write_text("kernel/drivers/virtio/virtio_pci.ko\n")
    return folder


def test_modules_come_after_what_they_need_and_once(tmp_path: Path) -> None:
    order = load_order(make_modules(tmp_path), ["virtio-pci", "jbd2", "ext4", "xen_evtchn"])
    assert [path.name for path in order] == ["crc16.ko.xz", "jbd2.ko.xz", "ext4.ko.xz", "xen-evtchn.ko"]


def test_a_module_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="no module nosuch"):
        load_order(make_modules(tmp_path), ["nosuch"])
