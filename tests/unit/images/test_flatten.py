from __future__ import annotations

import contextlib
import io
import os
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from posixpath import basename, dirname, join, split
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.images.erofs_reader import as_tar
from tests.unit.images.erofs_writer import write_erofs
from tests.unit.images.tarballs import entry, file, folder, hard_link, source, symlink, tarball
from zonal.errors import InvalidInputError
from zonal.images.limits import Limits

Entry = tuple[tarfile.TarInfo, bytes]


def flat(*layers: bytes, limits: Limits | None = None) -> bytes:
    with contextlib.ExitStack() as stack:
        sources = [stack.enter_context(source(layer, f"layer {n}")) for n, layer in enumerate(layers)]
        with tempfile.TemporaryDirectory() as scratch:
            target = Path(scratch, "erofs")
            plan = write_erofs(target, sources, limits or Limits())
            image = target.read_bytes()
            assert len(image) == plan.size
            return as_tar(image)


def tree(data: bytes) -> dict[str, Any]:
    """Path → (type, mode, content or target); hard links show the content of what they link to."""
    found: dict[str, Any] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for info in archive:
            name = info.name.removeprefix("./")
            assert name not in found, f"{name} is there twice"
            parent = dirname(name)
            assert not parent or found[parent][0] == "d", f"{name} comes before its parent"
            if info.isdir():
                found[name] = ("d", info.mode)
            elif info.issym():
                found[name] = ("l", info.linkname)
            elif info.islnk():
                found[name] = found[info.linkname]
            else:
                reader = archive.extractfile(info)
                found[name] = ("f", info.mode, reader.read() if reader else None)
    del found["."]
    return found


def names(*layers: bytes) -> set[str]:
    return set(tree(flat(*layers)))


# The rules, one by one.


def test_the_upper_layer_wins() -> None:
    assert tree(flat(tarball(file("a", b"1")), tarball(file("a", b"2")))) == {"a": ("f", 0o644, b"2")}


def test_the_last_entry_of_a_name_wins() -> None:
    assert tree(flat(tarball(file("a", b"1"), file("b"), file("./a", b"2"))))["a"] == ("f", 0o644, b"2")


def test_a_whiteout_removes_what_is_below_it() -> None:
    lower = tarball(folder("d"), file("d/a"), folder("d/e"), file("d/e/b"), file("c"))
    assert names(lower, tarball(file("d/.wh.e"), file(".wh.c"), file(".wh.none"))) == {"d", "d/a"}


@pytest.mark.parametrize("first", [True, False])
def test_a_whiteout_spares_its_own_layer_in_either_order(first: bool) -> None:
    lower = tarball(folder("d", mode=0o700), file("d/old"))
    entries = [file(".wh.d"), file("d/new")]
    assert tree(flat(lower, tarball(*(entries if first else entries[::-1])))) == {
        "d": ("d", 0o755),
        "d/new": ("f", 0o644, b""),
    }


@pytest.mark.parametrize("first", [True, False])
def test_an_opaque_directory_hides_what_lower_layers_have_in_it(first: bool) -> None:
    lower = tarball(folder("d"), file("d/old"), folder("d/e"), file("d/e/old"))
    entries = [file("d/.wh..wh..opq"), file("d/e/new")]
    assert names(lower, tarball(*(entries if first else entries[::-1]))) == {"d", "d/e", "d/e/new"}


@pytest.mark.parametrize("first", [True, False])
def test_a_directory_that_is_marked_opaque_is_there_in_whatever_order_marks_come(first: bool) -> None:
    lower = tarball(folder("d"), folder("d/e", mode=0o700), file("d/e/old"))
    marks = [file("d/.wh..wh..opq"), file("d/e/.wh..wh..opq")]
    assert tree(flat(lower, tarball(*(marks if first else marks[::-1])))) == {"d": ("d", 0o755), "d/e": ("d", 0o755)}


def test_a_hard_link_keeps_its_content_when_its_target_is_replaced() -> None:
    lower = tarball(file("a", b"1"), hard_link("b", "a"))
    for upper in (tarball(file("a", b"2")), tarball(file(".wh.a"))):
        assert tree(flat(lower, upper))["b"] == ("f", 0o644, b"1")


def test_a_hard_link_may_point_into_a_lower_layer() -> None:
    assert tree(flat(tarball(file("a", b"1")), tarball(hard_link("d/b", "./a"))))["d/b"] == ("f", 0o644, b"1")


def test_files_and_directories_replace_each_other() -> None:
    has_file, has_folder = tarball(file("a", b"1")), tarball(folder("a"), file("a/b"))
    assert names(has_file, has_folder) == {"a", "a/b"}
    assert tree(flat(has_folder, has_file)) == {"a": ("f", 0o644, b"1")}


def test_a_directory_again_keeps_its_content_and_changes_its_mode() -> None:
    upper = tarball(folder("a", mode=0o700))
    assert tree(flat(tarball(folder("a"), file("a/b")), upper)) == {"a": ("d", 0o700), "a/b": ("f", 0o644, b"")}


def test_names_are_tidied() -> None:
    entries = folder("./"), folder("./a//"), file("././a/./b"), file("a//c")
    assert names(tarball(*entries)) == {"a", "a/b", "a/c"}


def test_a_path_through_a_symbolic_link_goes_where_the_link_goes_within_the_tree() -> None:
    lower = tarball(
        folder("usr/bin"), symlink("bin", "usr/bin"), folder("run"), folder("var"), symlink("var/run", "/run")
    )
    upper = tarball(file("bin/x"), file("var/run/y"), symlink("var/tmp", "../tmp"), file("var/tmp/z"))
    assert {"usr/bin/x", "run/y", "tmp/z"} < names(lower, upper)
    assert names(lower, upper, tarball(file("bin/.wh.x"))) == names(lower, upper) - {"usr/bin/x"}


def test_a_directory_replaces_a_symbolic_link() -> None:
    lower = tarball(folder("e"), file("e/x"), symlink("d", "e"))
    assert names(lower, tarball(folder("d"), file("d/.wh.x"), file("d/y"))) == {"e", "e/x", "d", "d/y"}


def test_everything_about_a_file_is_kept() -> None:
    headers = {"SCHILY.xattr.user.a": "b", "SCHILY.xattr.security.capability": "\x01\x02", "mtime": "1700000000.125"}
    long = "n" * 120 + "/" + "o" * 200
    layer = tarball(
        file("f", b"x" * 1000, mode=0o4755, uid=3_000_000, gid=70_000, pax_headers=headers),
        file(long, b"long"),
        symlink("l", "t" * 300),
        entry("null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
        entry("disk", tarfile.BLKTYPE, devmajor=202, devminor=16),
        entry("pipe", tarfile.FIFOTYPE),
        file(os.fsdecode(b"caf\xe9"), b"bytes"),
    )
    with tarfile.open(fileobj=io.BytesIO(flat(layer, tarball(file("other"))))) as archive:
        f = archive.getmember("f")
        assert (f.mode, f.uid, f.gid, f.mtime, f.size) == (0o4755, 3_000_000, 70_000, 1700000000.125, 1000)
        assert f.pax_headers["SCHILY.xattr.user.a"] == "b"
        assert f.pax_headers["SCHILY.xattr.security.capability"] == "\x01\x02"
        assert archive.getmember("l").linkname == "t" * 300
        assert archive.getmember(long).size == 4
        null, disk = archive.getmember("null"), archive.getmember("disk")
        assert (null.ischr(), null.devmajor, null.devminor, null.mode) == (True, 1, 3, 0o666)
        assert (disk.isblk(), disk.devmajor, disk.devminor) == (True, 202, 16)
        assert archive.getmember("pipe").isfifo()
        assert archive.getmember(os.fsdecode(b"caf\xe9")).size == 5


def test_sparse_files_keep_their_content() -> None:
    sparse = {"GNU.sparse.map": "1000,5,5000,3,900000,0", "GNU.sparse.size": "900000"}
    found = tree(flat(tarball(file("hole", b"piecetwo", pax_headers=sparse), file("f", b"x" * 5000))))
    assert found["hole"][2] == bytes(1000) + b"piece" + bytes(3995) + b"two" + bytes(900_000 - 5003)
    assert found["f"][2] == b"x" * 5000


# What is refused.


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([file("../x")], r"'\.\.'"),
        ([file("a/../../x")], r"'\.\.'"),
        ([file("a/../x")], r"'\.\.'"),
        ([file("/etc/passwd")], "absolute"),
        ([hard_link("a", "/etc/passwd")], "outside the image's tree"),
        ([hard_link("a", "../etc/passwd")], r"'\.\.'"),
        ([hard_link("a", "missing")], "not in the tree"),
        ([folder("d"), hard_link("a", "d")], "is a directory"),
        ([symlink("l", "../.."), file("l/x")], "leaves the image's tree"),
        ([symlink("d/l", "../../../etc"), file("d/l/passwd")], "leaves the image's tree"),
        ([symlink("a", "b"), symlink("b", "a"), file("a/x")], "too many symbolic links"),
        ([file("f"), file("f/x")], "not a directory"),
        ([file(".")], "root of the tree"),
        ([file(".wh.")], "names nothing"),
        ([file("d/.wh...")], "names nothing"),
        ([file("x" * 256)], "too long"),
        ([file("/".join("x" * 400))], "too deep"),
        ([symlink("l", "x" * 4096)], "longer than"),
    ],
)
def test_bad_members_are_refused_by_name_and_archive(entries: list[Entry], says: str) -> None:
    with pytest.raises(InvalidInputError, match=says) as caught:
        flat(tarball(*entries))
    assert caught.value.message.startswith("layer 0: member ")


def test_limits_hold() -> None:
    big = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 50)}
    with pytest.raises(InvalidInputError, match="more than"):
        flat(tarball(file("f", b"x", pax_headers=big)))
    with pytest.raises(InvalidInputError, match="more than 20 files"):
        flat(tarball(*(file("/".join(f"{n}{m}" for m in range(9))) for n in range(3))), limits=Limits(entries=20))
    with pytest.raises(InvalidInputError, match="more than 2 layers"):
        flat(*[tarball(file("a"))] * 3, limits=Limits(layers=2))


# Random stacks of layers against a simple model: a dictionary of paths, laid over one another by the specification.


@dataclass
class Model:
    paths: dict[str, tuple[str, int, bytes]] = field(default_factory=dict[str, tuple[str, int, bytes]])

    def over(self, entries: list[Entry]) -> None:
        # All whiteouts of a layer act on the layers below it, before anything of its own.
        for info, _ in entries:
            parent, base = split(info.name)
            if base == ".wh..wh..opq":
                self._remove_below(parent)
            elif base.startswith(".wh."):
                gone = join(parent, base[4:])
                self.paths.pop(gone, None)
                self._remove_below(gone)
        for info, data in entries:
            parent, base = split(info.name)
            if base.startswith(".wh."):
                if base == ".wh..wh..opq":
                    self._parents(info.name)
                continue
            self._parents(info.name)
            if info.isdir():
                if self.paths.get(info.name, ("",))[0] != "d":
                    self._remove_below(info.name)
                self.paths[info.name] = ("d", info.mode, b"")
                continue
            value = self.paths[info.linkname] if info.islnk() else ("f", info.mode, data)
            self._remove_below(info.name)
            self.paths[info.name] = value

    def _parents(self, name: str) -> None:
        parent = dirname(name)
        if parent and parent not in self.paths:
            self._parents(parent)
            self.paths[parent] = ("d", 0o755, b"")

    def _remove_below(self, name: str) -> None:
        for path in [path for path in self.paths if path.startswith(f"{name}/" if name else "")]:
            del self.paths[path]


@st.composite
def stacks(draw: st.DrawFn) -> tuple[list[list[Entry]], dict[str, tuple[str, int, bytes]]]:
    """Layers in which every entry is allowed where it stands, and the tree that they make."""
    model = Model()
    layers: list[list[Entry]] = []
    paths = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map("/".join)
    for number in range(draw(st.integers(1, 4))):
        entries: list[Entry] = []
        for _ in range(draw(st.integers(0, 8))):
            path = draw(paths)
            kind = draw(st.sampled_from(["file", "file", "folder", "link", "whiteout", "opaque"]))
            mode = draw(st.sampled_from([0o600, 0o644, 0o755]))
            if kind == "file":
                new = file(path, f"{number} {path} {len(entries)}".encode() * draw(st.sampled_from([1, 60])), mode=mode)
            elif kind == "folder":
                new = folder(path, mode=mode)
            elif kind == "whiteout":
                new = file(join(dirname(path), f".wh.{basename(path)}"))
            elif kind == "opaque":
                new = file(f"{path}/.wh..wh..opq")
            else:
                new = hard_link(path, draw(paths))
            trial = Model(dict(model.paths))
            if _allowed(trial, [*entries, new]):
                entries.append(new)
        model.over(entries)
        layers.append(entries)
    return layers, model.paths


def _allowed(below: Model, entries: list[Entry]) -> bool:
    """Whether each entry's parent is a directory and each link's target a file when its turn comes, however whiteouts
    of the same layer are taken: those that touch what the layer itself has are for tests of their own."""
    hidden = [join(dirname(i.name), basename(i.name)[4:]) for i, _ in entries if _is_plain(i)]
    own = [info.name for info, _ in entries if ".wh." not in info.name]
    opaque = [dirname(i.name) for i, _ in entries if i.name.endswith(".wh..wh..opq")]
    linked = [info.linkname for info, _ in entries if info.islnk()]
    if any(path == gone or path.startswith(f"{gone}/") for gone in hidden for path in [*own, *opaque, *linked]):
        return False
    if any(path.startswith(f"{gone}/") for gone in opaque for path in linked):
        return False
    whiteouts = [item for item in entries if ".wh." in item[0].name]
    done: list[Entry] = []
    for info, data in entries:
        now = Model(dict(below.paths))
        now.over([*whiteouts, *(item for item in done if item not in whiteouts)])
        before = Model(dict(below.paths))
        before.over([item for item in done if item not in whiteouts])
        for state in (now, before):
            parent = dirname(info.name)
            while parent:
                if state.paths.get(parent, ("d",))[0] != "d":
                    return False
                parent = dirname(parent)
            if info.islnk() and (state.paths.get(info.linkname, ("",))[0] != "f" or info.linkname == info.name):
                return False
        done.append((info, data))
    return True


def _is_plain(info: tarfile.TarInfo) -> bool:
    return ".wh." in info.name and not info.name.endswith(".wh..wh..opq")


@settings(max_examples=150)
@given(stacks(), st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
def test_random_layers_make_the_tree_of_the_model(
    stack: tuple[list[list[Entry]], dict[str, tuple[str, int, bytes]]], format: int
) -> None:
    layers, expected = stack
    found = tree(flat(*(tarball(*entries, format=format) for entries in layers)))
    assert {path: value[:2] if value[0] == "d" else value for path, value in expected.items()} == found


@given(
    st.lists(
        st.tuples(st.text("ab./\0é", max_size=9), st.sampled_from(b"0125"), st.text("ab./", max_size=9)), max_size=6
    )
)
def test_random_names_are_flattened_or_refused(items: list[tuple[str, int, str]]) -> None:
    layer = tarball(*(entry(name, bytes([kind]), linkname=link) for name, kind, link in items))
    with contextlib.suppress(InvalidInputError):
        tree(flat(layer, layer))
