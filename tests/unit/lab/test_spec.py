"""What a lab can be made of."""

from __future__ import annotations

import pytest

from zonal.errors import InvalidInputError, ResourceExhaustedError
from zonal.lab.paths import GIB, MIB
from zonal.lab.spec import Spec, Wanted, check_name, default_name, resolve


@pytest.mark.parametrize("name", ["a", "default", "ci-2", "0", "x" * 32])
def test_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "A", "-a", "a/b", "..", "a b", "ä", "x" * 33, "a\n"])
def test_no_names(name: str) -> None:
    with pytest.raises(InvalidInputError):
        check_name(name)


def test_the_default_name_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZONAL_LAB", "mine")
    assert default_name() == "mine"
    monkeypatch.setenv("ZONAL_LAB", "../mine")
    with pytest.raises(InvalidInputError):
        default_name()


def test_what_is_not_asked_for_stays() -> None:
    base = Spec(memory_bytes=3 * GIB, cpus=1, devices=("e1000e",), packages=("docker.io",))
    assert resolve(Wanted(), base) == base
    assert resolve(Wanted(devices=()), base) == Spec(3 * GIB, 1, (), ("docker.io",))


def test_order_and_repetition_make_no_difference() -> None:
    first = resolve(Wanted(devices=("nvme", "e1000e"), packages=("b1", "a1", "b1")), Spec(cpus=1))
    assert first == resolve(Wanted(devices=("e1000e", "nvme", "nvme"), packages=("a1", "b1")), Spec(cpus=1))
    assert not first.snapshotable


@pytest.mark.parametrize(
    "wanted",
    [
        Wanted(memory_bytes=2 * GIB - 1),
        Wanted(cpus=0),
        Wanted(cpus=65),
        Wanted(devices=("floppy",)),
        Wanted(packages=("a;b",)),
        Wanted(packages=("--x",)),
    ],
)
def test_what_cannot_work(wanted: Wanted) -> None:
    with pytest.raises(InvalidInputError):
        resolve(wanted, None)


def test_more_memory_than_the_machine_has() -> None:
    with pytest.raises(ResourceExhaustedError, match="does not fit"):
        resolve(Wanted(memory_bytes=1 << 50), None)


@pytest.mark.parametrize(("memory", "hosts"), [(2 * GIB, GIB), (8 * GIB, 2 * GIB), (64 * GIB, 4 * GIB)])
def test_the_hosts_share(memory: int, hosts: int) -> None:
    assert Spec(memory_bytes=memory).host_memory_bytes == hosts
    assert Spec(memory_bytes=memory).host_memory_bytes % MIB == 0
