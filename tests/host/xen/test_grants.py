"""Grants of the host to itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from zonal.errors import InvalidInputError
from zonal.xen.events import EventDevice
from zonal.xen.grants import PAGE_SIZE, GrantAllocator, GrantDevice, GrantError


@pytest.fixture
def allocator() -> Iterator[GrantAllocator]:
    with GrantAllocator() as allocator:
        yield allocator


@pytest.fixture
def device() -> Iterator[GrantDevice]:
    with GrantDevice() as device:
        yield device


def test_pages_are_shared_in_order(allocator: GrantAllocator, device: GrantDevice) -> None:
    pages, references = allocator.allocate(0, 3)
    with pages, device.map(0, references) as mapped, device.map(0, references[::-1]) as backwards:
        for number in range(3):
            mapped.buffer[number * PAGE_SIZE] = number + 1
        assert [pages.buffer[number * PAGE_SIZE] for number in range(3)] == [1, 2, 3]
        assert [backwards.buffer[number * PAGE_SIZE] for number in range(3)] == [3, 2, 1]


def test_a_read_only_mapping_cannot_be_written(allocator: GrantAllocator, device: GrantDevice) -> None:
    pages, references = allocator.allocate(0, 1, writable=False)
    with pages, device.map(0, references, writable=False) as mapped:
        assert mapped.buffer.readonly
        with pytest.raises(GrantError, match=f"grant {references[0]} of domain 0"):
            device.map(0, references)


def test_what_is_not_granted_cannot_be_mapped(device: GrantDevice) -> None:
    with pytest.raises(GrantError, match="grant 4000000000 of domain 0"):
        device.map(0, [4_000_000_000])
    with pytest.raises(GrantError, match="2 grants"):
        device.map(32000, [8, 9])
    for count in (0, 1025):
        with pytest.raises(InvalidInputError, match=f"{count} pages"):
            device.map(0, [1] * count)


def test_one_bad_reference_spoils_the_mapping(allocator: GrantAllocator, device: GrantDevice) -> None:
    pages, references = allocator.allocate(0, 1)
    with pages:
        with pytest.raises(GrantError):
            device.map(0, [*references, 4_000_000_000])
        with device.map(0, references) as mapped:
            mapped.buffer[0] = 1
        assert pages.buffer[0] == 1


async def test_giving_pages_up_clears_a_byte_and_raises_an_event(
    allocator: GrantAllocator, device: GrantDevice
) -> None:
    pages, references = allocator.allocate(0, 1)
    with EventDevice() as events, events.bind_unbound(0) as one, events.bind_interdomain(0, one.port) as two, pages:
        pages.buffer[20:22] = b"\x01\x01"
        mapped = device.map(0, references)
        mapped.notify_on_unmap(20, two.port)
        mapped.close()
        mapped.close()
        await one.wait()
        assert bytes(pages.buffer[20:22]) == b"\x00\x01"


def test_pages_outlive_the_device(allocator: GrantAllocator) -> None:
    pages, references = allocator.allocate(0, 1)
    device = GrantDevice()
    mapped = device.map(0, references)
    device.close()
    mapped.buffer[0] = 9
    assert pages.buffer[0] == 9
    mapped.close()
    pages.close()


def test_pages_in_use_are_not_pulled_away(allocator: GrantAllocator, device: GrantDevice) -> None:
    pages, references = allocator.allocate(0, 1)
    with pages:
        mapped = device.map(0, references)
        held = mapped.buffer[:8].cast("I")
        with pytest.raises(BufferError):
            mapped.close()
        held.release()
        mapped.close()
