"""Random layers, made and shown by the kernel's overlayfs, and the tree that we make of the same layers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.images.erofs_reader import as_tar, fsck
from tests.unit.images.erofs_writer import write_erofs
from tests.unit.images.overlays import Operation, Overlays
from zonal.images.layers import open_source

BASE: list[Operation] = [
    *(["folder", path] for path in ("a", "b", "a/b", "a/b/c")),
    *(["write", f"{path}/c", "base", 3] for path in ("a", "b")),
    ["link", "a/c", "a/b/a"],
    ["link", "a/c", "b/a"],
    ["write", "a/b/b", "base", 5],
]
"""In the lowest layer, so that most random operations find something to work on."""
CAPABILITY = "0100000200200000000000000000000000000000"

paths = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)
numbers = st.sampled_from([0, 1, 1000, 70_000, 3_000_000_000])
operations = st.one_of(
    st.tuples(st.just("write"), paths, st.sampled_from(["", "one", "other"]), st.sampled_from([1, 700])),
    st.tuples(st.just("folder"), paths),
    st.tuples(st.just("anew"), paths),
    st.tuples(st.just("remove"), paths),
    st.tuples(st.just("rename"), paths, paths),
    st.tuples(st.just("link"), paths, paths),
    st.tuples(st.just("symlink"), st.sampled_from(["a", "../b", "/a/b", "../../c", "gone"]), paths),
    st.tuples(st.just("sparse"), paths, st.lists(st.integers(0, 5), max_size=3)),
    st.tuples(st.just("node"), paths, st.sampled_from("cbp"), st.integers(1, 300)),
    st.tuples(st.just("mode"), paths, st.sampled_from([0o600, 0o1777, 0o4755, 0o2750])),
    st.tuples(st.just("owner"), paths, numbers, numbers),
    st.tuples(
        st.just("attribute"),
        paths,
        st.sampled_from(["user.a", "user.b", "trusted.c"]),
        st.binary(max_size=9).map(bytes.hex),
    ),
    st.tuples(st.just("attribute"), paths, st.just("security.capability"), st.just(CAPABILITY)),
    st.tuples(st.just("time"), paths, st.sampled_from([0, 1, 1_700_000_000_123_456_789, 4_000_000_000 * 10**9])),
)


@pytest.fixture(name="overlays", scope="module")
def some_overlays(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Overlays]:
    with Overlays(tmp_path_factory.mktemp("overlays")) as overlays:
        yield overlays


@settings(max_examples=80)
@given(st.lists(st.lists(operations.map(list), max_size=14), min_size=1, max_size=4))
def test_random_layers_make_the_tree_that_overlayfs_shows(
    overlays: Overlays, tmp_path_factory: pytest.TempPathFactory, layers: list[list[Operation]]
) -> None:
    tars, expected = overlays.stack([BASE, *layers])
    target = tmp_path_factory.getbasetemp() / "flattened.tar"
    erofs = target.with_suffix(".erofs")
    with contextlib.ExitStack() as stack:
        sources = [stack.enter_context(open_source(tar, Path(tar).name)) for tar in tars]
        write_erofs(erofs, sources)
    target.write_bytes(as_tar(erofs.read_bytes()))
    fsck(erofs)
    erofs.unlink()
    found = overlays.extract(target)
    assert found == expected
