from __future__ import annotations

from ctypes import c_uint8, c_uint16, c_uint32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zonal.agent.ring import ORDER, SIZE, ChannelClosedError, Rings
from zonal.xen.channel import (
    CLI_LIVE,
    CLI_NOTIFY,
    LEFT_CONS,
    LEFT_PROD,
    NOTIFY_READ,
    NOTIFY_WRITE,
    ORDERS_OFFSET,
    RIGHT_CONS,
    RIGHT_PROD,
    SRV_LIVE,
    SRV_NOTIFY,
    parse_layout,
)
from zonal.xen.ring import RingReader, RingWriter


class Meeting:
    """The agent's rings in ordinary memory, and the host's ends of them."""

    def __init__(self, start: int = 0) -> None:
        self.page = bytearray(4096)
        self.memory = bytearray(2 * SIZE)
        self.words = memoryview(self.page).cast("I")
        for index in (LEFT_CONS, LEFT_PROD, RIGHT_CONS, RIGHT_PROD):
            self.words[index] = start
        self.agent = Rings(memoryview(self.page), memoryview(self.memory), list(range(100, 100 + 2 * SIZE // 4096)))
        view = memoryview(self.memory)
        self.reader = RingReader(view[SIZE:], self.words, prod=RIGHT_PROD, cons=RIGHT_CONS, name="right")
        self.writer = RingWriter(view[:SIZE], self.words, prod=LEFT_PROD, cons=LEFT_CONS, name="left")


def test_the_host_reads_the_layout_that_the_agent_writes() -> None:
    meeting = Meeting()
    layout = parse_layout(bytes(meeting.page))
    assert (layout.left_order, layout.right_order) == (ORDER, ORDER)
    assert layout.left_grants + layout.right_grants == tuple(range(100, 100 + 2 * SIZE // 4096))
    assert c_uint8.from_buffer(meeting.page, SRV_LIVE).value == 1
    assert c_uint8.from_buffer(meeting.page, CLI_LIVE).value == 2
    assert c_uint8.from_buffer(meeting.page, CLI_NOTIFY).value == NOTIFY_WRITE
    assert c_uint16.from_buffer(meeting.page, ORDERS_OFFSET).value == ORDER
    assert c_uint32.from_buffer(meeting.page, 24).value == 100


STEPS = st.lists(st.tuples(st.sampled_from("sreRW"), st.integers(1, SIZE + 5)), max_size=40)


@given(STEPS, st.sampled_from([0, SIZE - 3, 0xFFFFFFFF - 100]))
def test_bytes_go_both_ways_in_order_whatever_the_pieces(steps: list[tuple[str, int]], start: int) -> None:
    meeting = Meeting(start)
    pattern = bytes(range(251)) * (SIZE // 100)
    sent = received = written = read = 0
    for what, count in steps:
        if what in "se":
            sent += meeting.agent.send(memoryview(pattern)[sent % 251 :][:count])
        elif what == "r":
            data = meeting.agent.receive(count)
            assert data == pattern[received % 251 :][: len(data)]
            received += len(data)
        elif what == "R":
            data = meeting.reader.read(count)
            assert data == pattern[read % 251 :][: len(data)]
            read += len(data)
        else:
            written += meeting.writer.write(memoryview(pattern)[written % 251 :][:count])
        assert 0 <= sent - read <= SIZE
        assert 0 <= written - received <= SIZE


@given(st.tuples(*[st.integers(0, 0xFFFFFFFF)] * 4))
def test_any_indices_give_bounded_data_or_an_error(indices: tuple[int, int, int, int]) -> None:
    meeting = Meeting()
    for place, value in enumerate(indices):
        meeting.words[place] = value
    try:
        assert len(meeting.agent.receive(1 << 20)) <= SIZE
        assert 0 <= meeting.agent.send(memoryview(bytes(SIZE * 2))) <= SIZE
    except ChannelClosedError:
        pass


def test_an_event_is_due_only_when_the_host_wishes_it() -> None:
    meeting = Meeting()
    assert not meeting.agent.take_wishes()
    meeting.agent.send(memoryview(b"x"))
    assert not meeting.agent.take_wishes()
    meeting.page[SRV_NOTIFY] = NOTIFY_WRITE
    assert not meeting.agent.take_wishes()  # nothing new
    meeting.agent.send(memoryview(b"x"))
    assert meeting.agent.take_wishes()
    assert meeting.page[SRV_NOTIFY] == 0
    meeting.page[SRV_NOTIFY] = NOTIFY_READ
    meeting.writer.write(memoryview(b"y"))
    assert meeting.agent.receive(10) == b"y"
    assert meeting.agent.take_wishes()


def test_the_agent_wishes_for_data_when_there_is_none_and_for_room_when_there_is_none() -> None:
    meeting = Meeting()
    meeting.page[CLI_NOTIFY] = 0
    assert meeting.agent.receive(10) == b""
    assert meeting.page[CLI_NOTIFY] == NOTIFY_WRITE
    assert meeting.agent.send(memoryview(bytes(SIZE + 1))) == SIZE
    assert meeting.page[CLI_NOTIFY] == NOTIFY_WRITE | NOTIFY_READ


def test_what_a_host_wrote_before_it_left_is_read_before_its_leaving_is_told() -> None:
    meeting = Meeting()
    meeting.writer.write(memoryview(b"last"))
    meeting.page[CLI_LIVE] = 0
    assert meeting.agent.receive(10) == b"last"
    with pytest.raises(ChannelClosedError):
        meeting.agent.receive(10)


def test_the_server_is_gone_after_close() -> None:
    meeting = Meeting()
    meeting.agent.close()
    assert meeting.page[SRV_LIVE] == 0
