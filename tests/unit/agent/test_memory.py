"""The agent's watch over memory and its CPUs, on this machine's kernel: files stand for the balloon's and the CPUs'."""

from __future__ import annotations

from pathlib import Path

import pytest

from zonal.agent.loop import Loop
from zonal.agent.memory import MemoryWatch, guard_of, read_available, read_stalled
from zonal.agent.processors import count_online, set_online

MIB = 1 << 20
NOBODY = "/proc/no-such-folder"


def balloon(folder: Path, size: int) -> str:
    (folder / "info").mkdir(exist_ok=True)
    (folder / "info/current_kb").write_text(f"{size // 1024}\n")
    return str(folder)


def cgroup(folder: Path) -> str:
    """One whose kernel says nothing: a plain file cannot be waited for, as where there is no memory controller."""
    (folder / "memory.events").write_text("high 0\n")
    return str(folder)


def test_what_is_read_of_the_kernel() -> None:
    assert 0 < read_available() < 1 << 50
    assert read_stalled() >= 0
    assert guard_of(128 * MIB) == 16 * MIB
    assert guard_of(1 << 40) == 256 * MIB


def test_without_the_kernels_word_it_looks_by_itself_and_asks(tmp_path: Path) -> None:
    loop = Loop()
    said: list[tuple[int, int, bool]] = []

    def report(available: int, stalled: int, pressed: bool) -> bool:
        said.append((available, stalled, pressed))
        return True

    # A guard that is larger than what this machine has: so it is always short.
    size = 1 << 50
    watch = MemoryWatch(loop, report, cgroup=cgroup(tmp_path), balloon=balloon(tmp_path, size))
    watch.set(size, more=False)
    assert [pressed for _, _, pressed in said] == [False]
    said.clear()
    while not said:
        loop.step()
    watch.stop()


def test_a_host_that_has_gone_holds_nobody_back(tmp_path: Path) -> None:
    loop = Loop()
    watch = MemoryWatch(loop, lambda _a, _b, _c: False, cgroup=NOBODY, balloon=balloon(tmp_path, 128 * MIB))
    watch.set(256 * MIB, more=True)
    loop.step()
    balloon(tmp_path, 256 * MIB)
    for _ in range(3):
        loop.step()
    watch.lost()
    watch.stop()
    loop.soon(loop.stop)
    loop.run()


def cpus(folder: Path, online: str, *numbers: int) -> str:
    (folder / "online").write_text(f"{online}\n")
    for number in numbers:
        (folder / f"cpu{number}").mkdir(exist_ok=True)
        (folder / f"cpu{number}/online").write_text("0\n")
    return str(folder)


@pytest.mark.parametrize(("text", "count"), [("0", 1), ("0-3", 4), ("0,2-3,7", 4)])
def test_how_many_cpus_are_online(tmp_path: Path, text: str, count: int) -> None:
    assert count_online(cpus(tmp_path, text)) == count


def test_cpus_are_brought_up_once_the_kernel_knows_them(tmp_path: Path) -> None:
    loop = Loop()
    said: list[int] = []
    folder = cpus(tmp_path, "0", 1)
    set_online(loop, 3, said.append, folder=folder)
    assert (tmp_path / "cpu1/online").read_text().strip() == "1"
    cpus(tmp_path, "0-1", 2)
    while (tmp_path / "cpu2/online").read_text().strip() != "1":
        loop.step()
    assert not said
    cpus(tmp_path, "0-2")
    while not said:
        loop.step()
    assert said == [3]


def test_cpus_go_by_the_kernels_doing_and_are_waited_for(tmp_path: Path) -> None:
    loop = Loop()
    said: list[int] = []
    set_online(loop, 1, said.append, folder=cpus(tmp_path, "0-1", 1))
    loop.step()
    assert not said
    cpus(tmp_path, "0")
    while not said:
        loop.step()
    assert said == [1]
