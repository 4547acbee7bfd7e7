"""A share's files, by requests of 9P2000.L."""

from __future__ import annotations

import errno
import functools
import os
import stat
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.shares.client import Client, text
from zonal.shares import contents, fids
from zonal.shares.files import Opened, Share
from zonal.shares.session import Session
from zonal.shares.wire import HEADER, Type

GID = struct.pack("<I", 0)
SETATTR_MODE, SETATTR_UID, SETATTR_GID, SETATTR_SIZE, SETATTR_TIMES = 1, 2, 4, 8, 0x10 | 0x20 | 0x80 | 0x100


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "outside").write_bytes(b"secret")
    shared = tmp_path / "shared"
    (shared / "sub").mkdir(parents=True)
    (shared / "file").write_bytes(b"content")
    (shared / "sub" / "inner").write_bytes(b"inner")
    (shared / "link").symlink_to("../outside")
    (shared / "up").symlink_to("..")
    return shared


@pytest.fixture
def client(folder: Path) -> Client:
    return Client(folder)


def refused(number: int, call: Callable[[], object]) -> None:
    with pytest.raises(OSError) as raised:
        call()
    assert raised.value.errno == number


def test_files_are_read_and_listed(client: Client) -> None:
    fid = client.open(b"sub", b"inner")
    assert client.read(fid) == b"inner"
    assert client.read(fid, 2, 3) == b"er"
    assert client.read(fid, 2, 99) == b""
    assert sorted(client.list()) == [b".", b"..", b"file", b"link", b"sub", b"up"]
    assert client.attributes(fid).size == 5


def test_a_listing_goes_on_where_it_was_cut(folder: Path, client: Client) -> None:
    names = {f"{number:04}-{'x' * 40}".encode() for number in range(200)}
    for name in names:
        (folder / "sub" / os.fsdecode(name)).touch()
    listed = client.list(b"sub", count=300)
    assert len(listed) == len(set(listed))
    assert set(listed) == names | {b".", b"..", b"inner"}


def test_a_symbolic_link_is_never_followed(client: Client) -> None:
    link = client.walk(b"link")
    assert client.call(Type.READLINK, struct.pack("<I", link))[2:] == b"../outside"
    refused(errno.ENXIO, lambda: client.call(Type.LOPEN, struct.pack("<II", link, 0)))
    refused(errno.ENOTDIR, lambda: client.walk(b"outside", start=client.walk(b"up")))
    refused(errno.ELOOP, lambda: client.create(b"link", flags=os.O_RDWR))
    refused(errno.EOPNOTSUPP, lambda: client.set_attributes(link, SETATTR_MODE, mode=0o777))


@pytest.mark.parametrize("name", [b"..", b".", b"", b"a/b", b"/etc", b"a\0b", b"x" * 256])
def test_a_name_that_leads_elsewhere_is_refused(client: Client, name: bytes) -> None:
    refused(errno.EINVAL, lambda: client.walk(name))
    refused(errno.EINVAL, lambda: client.create(name))
    refused(errno.EINVAL, lambda: client.named(Type.UNLINKAT, 0, name, GID))
    refused(errno.EINVAL, lambda: client.named(Type.MKDIR, 0, name, struct.pack("<II", 0o755, 0)))


def test_what_is_made_belongs_to_whoever_made_it(folder: Path) -> None:
    client = Client(folder, uid=1234)
    fid = client.create(b"new", mode=0o4751, gid=77)
    assert client.write(fid, b"0123456789") == 10
    assert client.write(fid, b"ab", 4) == 2
    client.clunk(fid)
    client.named(Type.MKDIR, 0, b"made", struct.pack("<II", 0o750, 78))
    client.named(Type.SYMLINK, 0, b"pointer", text(b"/nowhere"), struct.pack("<I", 79))
    client.named(Type.MKNOD, 0, b"pipe", struct.pack("<IIII", stat.S_IFIFO | 0o600, 0, 0, 80))
    assert (folder / "new").read_bytes() == b"0123ab6789"
    status = {name: os.lstat(folder / name) for name in ("new", "made", "pointer", "pipe")}
    assert {name: (each.st_uid, each.st_gid) for name, each in status.items()} == {
        "new": (1234, 77),
        "made": (1234, 78),
        "pointer": (1234, 79),
        "pipe": (1234, 80),
    }
    assert [stat.S_IMODE(status[name].st_mode) for name in ("new", "made", "pipe")] == [0o4751, 0o750, 0o600]
    refused(errno.EEXIST, lambda: client.create(b"new", flags=os.O_RDWR | os.O_EXCL))


def test_a_file_that_was_there_keeps_its_owner(folder: Path) -> None:
    os.chown(folder / "file", 5, 6)
    client = Client(folder, uid=1234)
    fid = client.create(b"file", flags=os.O_RDWR | os.O_TRUNC, gid=77)
    client.write(fid, b"new")
    assert (folder / "file").read_bytes() == b"new"
    assert ((folder / "file").stat().st_uid, (folder / "file").stat().st_gid) == (5, 6)


@pytest.mark.parametrize("kind", [stat.S_IFBLK, stat.S_IFCHR])
def test_no_device_is_made(client: Client, kind: int) -> None:
    refused(errno.EPERM, lambda: client.named(Type.MKNOD, 0, b"sda", struct.pack("<IIII", kind | 0o666, 8, 0, 0)))


def test_attributes_are_changed(folder: Path, client: Client) -> None:
    fid, link = client.walk(b"file"), client.walk(b"link")
    client.set_attributes(fid, SETATTR_MODE | SETATTR_UID | SETATTR_GID, mode=0o640, uid=10, gid=11)
    client.set_attributes(fid, SETATTR_SIZE, size=3)
    client.set_attributes(fid, SETATTR_TIMES, atime=(1, 2), mtime=(1_700_000_000, 123_456_789))
    client.set_attributes(link, SETATTR_UID, uid=12)
    status = (folder / "file").stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid, status.st_size) == (0o640, 10, 11, 3)
    assert (status.st_atime_ns, status.st_mtime_ns) == (1_000_000_002, 1_700_000_000_123_456_789)
    assert os.lstat(folder / "link").st_uid == 12
    assert (folder.parent / "outside").stat().st_uid == 0
    assert client.attributes(fid).mtime_ns == status.st_mtime_ns


def test_files_are_renamed_linked_and_removed(folder: Path, client: Client) -> None:
    sub = client.walk(b"sub")
    client.call(Type.RENAMEAT, struct.pack("<I", 0), text(b"file"), struct.pack("<I", sub), text(b"moved"))
    client.call(Type.LINK, struct.pack("<II", 0, client.walk(b"sub", b"moved")), text(b"again"))
    assert (folder / "again").samefile(folder / "sub" / "moved")
    client.named(Type.UNLINKAT, sub, b"moved", GID)
    client.named(Type.UNLINKAT, sub, b"inner", GID)
    refused(errno.EISDIR, lambda: client.named(Type.UNLINKAT, 0, b"sub", GID))
    client.named(Type.UNLINKAT, 0, b"sub", struct.pack("<I", 0x200))
    assert sorted(path.name for path in folder.iterdir()) == ["again", "link", "up"]


def test_an_open_file_outlives_its_name(folder: Path, client: Client) -> None:
    fid = client.open(b"file", flags=os.O_RDWR)
    client.named(Type.UNLINKAT, 0, b"file", GID)
    assert client.read(fid) == b"content"
    assert client.write(fid, b"C") == 1
    assert client.attributes(fid).size == 7
    client.set_attributes(fid, SETATTR_SIZE, size=1)
    assert client.read(fid) == b"C"
    client.call(Type.FSYNC, struct.pack("<II", fid, 0))


def test_a_read_only_share_is_not_changed(folder: Path) -> None:
    client = Client(folder, read_only=True)
    fid = client.open(b"file")
    before = {path: path.lstat() for path in folder.rglob("*")}
    for call in (
        lambda: client.open(b"file", flags=os.O_RDWR),
        lambda: client.open(b"file", flags=os.O_TRUNC),
        lambda: client.create(b"new"),
        lambda: client.write(fid, b"x"),
        lambda: client.set_attributes(fid, SETATTR_SIZE, size=0),
        lambda: client.named(Type.UNLINKAT, 0, b"file", GID),
        lambda: client.named(Type.MKDIR, 0, b"made", struct.pack("<II", 0o755, 0)),
        lambda: client.named(Type.SYMLINK, 0, b"made", text(b"x"), GID),
        lambda: client.call(Type.LINK, struct.pack("<II", 0, client.walk(b"file")), text(b"again")),
        lambda: client.call(Type.RENAMEAT, GID, text(b"file"), GID, text(b"moved")),
        lambda: client.named(Type.XATTRCREATE, client.walk(b"file"), b"user.a", struct.pack("<QI", 1, 0)),
    ):
        refused(errno.EROFS, call)
    assert {path: path.lstat() for path in folder.rglob("*")} == before


def test_of_a_single_file_s_folder_nothing_else_is_seen(folder: Path) -> None:
    client = Client(folder, only=b"file")
    assert sorted(client.list()) == [b".", b"..", b"file"]
    assert client.read(client.open(b"file")) == b"content"
    assert client.write(client.open(b"file", flags=os.O_RDWR), b"CONTENT") == 7
    for call in (lambda: client.walk(b"sub"), lambda: client.walk(b"link")):
        refused(errno.ENOENT, call)
    for call in (
        lambda: client.create(b"new"),
        lambda: client.named(Type.UNLINKAT, 0, b"file", GID),
        lambda: client.set_attributes(client.walk(), SETATTR_MODE, mode=0),
        lambda: client.call(Type.RENAMEAT, GID, text(b"file"), GID, text(b"sub")),
    ):
        refused(errno.EPERM, call)


def test_extended_attributes_of_users_pass(folder: Path, client: Client) -> None:
    fid = client.walk(b"file")
    client.named(Type.XATTRCREATE, fid, b"user.colour", struct.pack("<QI", 4, 0))
    client.write(fid, b"bl")
    client.write(fid, b"ue", 2)
    client.clunk(fid)
    assert os.getxattr(folder / "file", "user.colour") == b"blue"
    os.setxattr(folder / "file", "trusted.host", b"1")
    names = client.walk()
    file = client.walk(b"file")
    assert client.call(Type.XATTRWALK, struct.pack("<II", file, 900), text(b"")) == struct.pack("<Q", 12)
    assert client.read(900) == b"user.colour\0"
    for name in (b"trusted.host", b"system.posix_acl_access"):
        refused(
            errno.EOPNOTSUPP, lambda name=name: client.call(Type.XATTRWALK, struct.pack("<II", file, 901), text(name))
        )
        refused(
            errno.EOPNOTSUPP, lambda name=name: client.named(Type.XATTRCREATE, file, name, struct.pack("<QI", 1, 0))
        )
    refused(errno.ENODATA, lambda: client.call(Type.XATTRWALK, struct.pack("<II", file, 901), text(b"user.none")))
    refused(errno.E2BIG, lambda: client.named(Type.XATTRCREATE, file, b"user.big", struct.pack("<QI", 1 << 40, 0)))
    removed = client.walk(b"file")
    client.named(Type.XATTRCREATE, removed, b"user.colour", struct.pack("<QI", 0, os.XATTR_REPLACE))
    client.clunk(removed)
    client.clunk(names)
    assert "user.colour" not in os.listxattr(folder / "file")


def test_locks_hold_between_clients(folder: Path) -> None:
    one, two = Client(folder), Client(folder)
    request = struct.pack("<BIQQI", 1, 1, 0, 0, 42) + text(b"host")
    locked, waiting = one.open(b"file", flags=os.O_RDWR), two.open(b"file", flags=os.O_RDWR)
    assert one.call(Type.LOCK, struct.pack("<I", locked), request) == b"\0"
    assert two.call(Type.LOCK, struct.pack("<I", waiting), request) == b"\1"
    question = struct.pack("<BQQI", 1, 0, 0, 43) + text(b"host")
    assert two.call(Type.GETLOCK, struct.pack("<I", waiting), question)[0] == 1
    one.clunk(locked)
    assert two.call(Type.LOCK, struct.pack("<I", waiting), request) == b"\0"


def test_a_pipe_is_seen_but_not_opened(folder: Path, client: Client) -> None:
    os.mkfifo(folder / "pipe")
    fid = client.walk(b"pipe")
    assert stat.S_ISFIFO(client.attributes(fid).mode)
    refused(errno.ENXIO, lambda: client.call(Type.LOPEN, struct.pack("<II", fid, os.O_RDONLY)))


def test_a_name_leads_to_what_has_it_now(folder: Path, client: Client) -> None:
    for _ in range(2):
        assert client.read(client.open(b"sub", b"inner")) == b"inner"
    (folder / "sub").rename(folder / "was-sub")
    refused(errno.ENOENT, lambda: client.walk(b"sub"))
    (folder / "sub").mkdir()
    (folder / "sub" / "inner").write_bytes(b"another")
    assert client.read(client.open(b"sub", b"inner")) == b"another"
    # What was known before is the same file still, whatever it is called.
    old = client.walk(b"was-sub")
    client.call(Type.RENAMEAT, GID, text(b"was-sub"), GID, text(b"moved"))
    refused(errno.ENOENT, lambda: client.walk(b"was-sub"))
    assert client.attributes(client.walk(b"inner", start=old)).size == 5


def test_attributes_are_those_of_now(folder: Path, client: Client) -> None:
    fid = client.walk(b"file")
    client.session.look_at_clock(1.0)
    (folder / "file").write_bytes(b"longer than before")
    assert client.attributes(fid).size == 18
    again = client.walk(b"file")
    assert client.attributes(again).size == 18
    (folder / "file").write_bytes(b"short")
    assert client.attributes(again).size == 5
    # A change by the client itself counts at once.
    fid = client.walk(b"file")
    client.set_attributes(client.walk(b"file"), SETATTR_SIZE, size=2)
    assert client.attributes(fid).size == 2


def test_remembered_folders_are_bounded_and_let_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fids, "MAX_REMEMBERED", 4)
    client = Client(folder)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(20):
        (folder / f"{number}" / "below").mkdir(parents=True)
        client.clunk(client.walk(f"{number}".encode(), b"below"))
        client.clunk(client.walk(f"{number}".encode(), b"below"))
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 5
    client.session.close()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_inode_numbers_are_the_host_s(folder: Path, client: Client) -> None:
    fid = client.walk(b"file")
    path = struct.unpack_from("<Q13s", client.call(Type.GETATTR, struct.pack("<IQ", fid, 0x7FF)))[1][5:]
    assert int.from_bytes(path, "little") + 2 == (folder / "file").stat().st_ino


@pytest.mark.parametrize(("size", "unit"), [(1 << 18, 208 << 10), ((1 << 18) + 4096, 1 << 18), (1 << 19, 344 << 10)])
def test_a_mib_is_asked_for_in_as_few_equal_parts_as_it_takes(folder: Path, size: int, unit: int) -> None:
    server = Session(lambda _: Share(os.open(folder, os.O_PATH)), Opened(), size)
    server.client.message_size = size
    assert contents.io_unit(server.client) == struct.pack("<I", unit)


def test_fids_are_bounded_and_given_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fids, "MAX_FIDS", 5)
    before = len(list(Path("/proc/self/fd").iterdir()))
    client = Client(folder)
    for _ in range(4):
        client.walk(b"file")
    refused(errno.ENFILE, lambda: client.walk(b"file"))
    client.session.close()
    refused(errno.EBADF, lambda: client.walk())
    os.close(client.share.root)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1  # the way to reopen them


@given(st.binary(max_size=64), st.sampled_from([*map(int, Type), 1, 99, 255]), st.integers(0, 65535))
@settings(max_examples=400)
def test_any_request_is_answered(body: bytes, type_: int, tag: int) -> None:
    reply = _emptied().session.handle(HEADER.pack(HEADER.size + len(body), type_, tag) + body)
    size, answered, same = HEADER.unpack_from(reply)
    assert (size, same) == (len(reply), tag)
    assert answered in (type_ + 1, Type.LERROR + 1)


@functools.cache
def _emptied() -> Client:
    return Client(Path(tempfile.mkdtemp()))
