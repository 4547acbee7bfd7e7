"""Page tables of a new domain, walked by a walker that shares no code with the builder."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zonal.errors import InvalidInputError
from zonal.xen.build.elf import PvKernel, Segment
from zonal.xen.build.layout import Layout, plan_layout
from zonal.xen.build.page_tables import Frames, kernel_tables, p2m_tables

BASE = 0xFFFF_FFFF_8000_0000
P2M_BASE = 0x80_0000_0000
KERNEL = PvKernel(
    segments=(Segment(0x1000, 0x100000, 0x1000000, 0x180000), Segment(0x200000, 0x2000, 0x1200000, 0x3000)),
    entry=BASE + 0x1000010,
    virtual_base=BASE,
    hypercall_page=None,
    p2m_base=P2M_BASE,
    initrd_by_frame=True,
)


class Machine:
    """The domain's tables in a pretended machine memory, and a processor's walk through them."""

    def __init__(self, layout: Layout, frames: Frames, kernel: PvKernel) -> None:
        self.tables: dict[int, list[int]] = {}
        tables = kernel_tables(layout, kernel.virtual_base, frames)
        if kernel.p2m_base is not None:
            own, index, entry = p2m_tables(layout, kernel.p2m_base, frames)
            tables[0][index] = entry
            for number, table in enumerate(own):
                self.tables[int(frames[layout.p2m_tables.first + number])] = [int(value) for value in table]
        for number, table in enumerate(tables):
            self.tables[int(frames[layout.tables.first + number])] = [int(value) for value in table]
        self.root = int(frames[layout.tables.first])

    def walk(self, address: int) -> tuple[int, bool] | None:
        """Machine frame and whether it can be written to, or None when nothing is mapped there."""
        frame = self.root
        writable = True
        for shift in (39, 30, 21, 12):
            entry = self.tables[frame][(address >> shift) & 0x1FF]
            if not entry & 1:
                return None
            assert entry & 4, "a PV guest's kernel runs in ring 3: all is user memory"
            writable = writable and bool(entry & 2)
            frame = (entry >> 12) & (1 << 40) - 1
        return frame, writable


def scattered_frames(pages: int, seed: int) -> Frames:
    """Machine frames in no order, as a fragmented machine gives them."""
    return np.random.default_rng(seed).permutation(pages * 4)[:pages].astype(np.uint64) + np.uint64(0x100000)


@settings(max_examples=25)
@given(
    mebibytes=st.integers(48, 700),
    initrd=st.integers(0, 8 << 20),
    own_list=st.booleans(),
    by_frame=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_walks_reach_what_the_plan_says(mebibytes: int, initrd: int, own_list: bool, by_frame: bool, seed: int) -> None:
    pages = mebibytes << 8
    kernel = replace(KERNEL, p2m_base=P2M_BASE if own_list else None, initrd_by_frame=by_frame)
    layout = plan_layout(kernel, pages, initrd)
    frames = scattered_frames(pages, seed)
    machine = Machine(layout, frames, kernel)
    table_pages = {
        *range(layout.tables.first, layout.tables.end),
        *range(layout.p2m_tables.first, layout.p2m_tables.end),
    }
    for page in range(0, min(layout.mapped_end, pages), 7):
        assert machine.walk(BASE + page * 4096) == (frames[page], page not in table_pages)
    for page in table_pages:
        if page < layout.mapped_end:
            assert machine.walk(BASE + page * 4096) == (frames[page], False)
    assert machine.walk(BASE + layout.mapped_end * 4096) is None
    assert machine.walk(BASE - 4096) is None
    if own_list:
        for number in range(layout.p2m.count):
            assert machine.walk(P2M_BASE + number * 4096) == (frames[layout.p2m.first + number], True)
        assert machine.walk(P2M_BASE + layout.p2m.count * 4096) is None


@settings(max_examples=60)
@given(
    mebibytes=st.integers(24, 1 << 16),
    initrd=st.integers(0, 64 << 20),
    own_list=st.booleans(),
    by_frame=st.booleans(),
)
def test_nothing_overlaps_and_all_fits(mebibytes: int, initrd: int, own_list: bool, by_frame: bool) -> None:
    pages = mebibytes << 8
    kernel = replace(KERNEL, p2m_base=P2M_BASE if own_list else None, initrd_by_frame=by_frame)
    try:
        layout = plan_layout(kernel, pages, initrd)
    except InvalidInputError as error:
        assert "MiB are needed" in error.message
        return
    spans = [
        (layout.kernel.first, layout.kernel.end),
        *((page, page + 1) for page in (layout.start_info, layout.store, layout.console, layout.stack)),
        (layout.tables.first, layout.tables.end),
        (layout.p2m_tables.first, layout.p2m_tables.end),
        (layout.p2m.first, layout.p2m.end),
        (layout.initrd.first, layout.initrd.end),
    ]
    spans = sorted(span for span in spans if span[0] < span[1])
    for before, after in pairwise(spans):
        assert before[1] <= after[0]
    assert spans[-1][1] <= pages
    assert layout.p2m.count * 4096 >= pages * 8
    assert layout.initrd.count * 4096 >= initrd
    # public/xen.h: at least 512 KiB are mapped after the last thing that the builder made, to a 4 MiB boundary.
    assert layout.mapped_end % 1024 == 0
    assert layout.mapped_end - layout.stack - 1 >= 128


def test_a_domain_too_small_for_its_kernel_is_refused_with_the_size_it_needs() -> None:
    with pytest.raises(InvalidInputError, match="more to run"):
        plan_layout(KERNEL, 16 << 8, 0)


def test_a_large_domain_is_planned_quickly_enough_to_be_usable() -> None:
    pages = 256 << 18  # 256 GiB
    layout = plan_layout(KERNEL, pages, 0)
    frames = np.arange(pages, dtype=np.uint64)
    tables, index, entry = p2m_tables(layout, P2M_BASE, frames)
    assert len(tables) == layout.p2m_tables.count
    assert index == 1
    assert entry >> 12 == layout.p2m_tables.first
