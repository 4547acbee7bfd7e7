"""Byte rings in shared memory, of which the other side may write anything at any time.

A ring of ``2**n`` bytes has two free-running u32 counters: ``prod``, of bytes written, and ``cons``, of bytes read.
The console (``io/console.h``) and the channel (``io/libxenvchan.h``) are pairs of such rings.

Each end keeps its own counter in private memory and only publishes it; the other's is read once a look, as one 32-bit
load, and believed only if ``0 <= prod - cons <= size``. What is taken out of a ring is copied before anybody sees it.

Loads and stores go through memoryviews of 32-bit items, each of which CPython does by one machine instruction. x86
keeps them in order but for one case, a store followed by a load of something else; there :func:`fence` is needed.
"""

from __future__ import annotations

import threading

from zonal.errors import ZonalError

_WRAP = 0xFFFF_FFFF
_lock = threading.Lock()


class RingCorruptError(ZonalError):
    """The other side's counter is impossible: it is broken or hostile, and the ring is of no use any more."""

    grpc_code = "ABORTED"

    def __init__(self, name: str, produced: int, consumed: int, size: int) -> None:
        super().__init__(
            f"the ring {name} is corrupt: {produced} bytes written and {consumed} read cannot be with {size} bytes"
        )
        self.produced = produced
        self.consumed = consumed
        self.size = size


def fence() -> None:
    """Lets no later load go before an earlier store (``xen_mb`` of Xen's headers).

    Taking a free lock is a locked compare-and-exchange, which is a full barrier on x86.
    """
    _lock.acquire()
    _lock.release()


class RingReader:
    """The consuming end.

    :param data: the ring's bytes; their number must be a power of two
    :param indices: the memory that holds the counters, as 32-bit items (``memoryview.cast("I")``)
    :param prod: which item is the producer's counter
    :param cons: which item is ours
    :param name: what errors call it

    Takes up where the shared counter says that a former reader left off; raises :class:`RingCorruptError` if that is
    impossible.
    """

    def __init__(self, data: memoryview, indices: memoryview, *, prod: int, cons: int, name: str) -> None:
        _check_size(data)
        self.size = len(data)
        self._data = data
        self._indices = indices
        self._prod = prod
        self._cons = cons
        self._name = name
        self._consumed: int = indices[cons]
        self.available()

    def available(self) -> int:
        """How many bytes wait to be read; raises :class:`RingCorruptError`."""
        produced: int = self._indices[self._prod]
        ready = (produced - self._consumed) & _WRAP
        if ready > self.size:
            raise RingCorruptError(self._name, produced, self._consumed, self.size)
        return ready

    def read(self, limit: int) -> bytes:
        """Takes out at most ``limit`` bytes, all that wait if they are fewer; raises :class:`RingCorruptError`."""
        count = min(self.available(), limit)
        start = self._consumed & (self.size - 1)
        end = start + count
        if end <= self.size:
            data = bytes(self._data[start:end])
        else:
            data = b"".join((self._data[start:], self._data[: end - self.size]))
        self._consumed = (self._consumed + count) & _WRAP
        self._indices[self._cons] = self._consumed
        return data

    def peek(self, count: int) -> bytes:
        """A copy of the next ``count`` bytes, which stay; the caller has seen that they wait."""
        start = self._consumed & (self.size - 1)
        if start + count <= self.size:
            return self._data[start : start + count].tobytes()
        return b"".join(self.pieces(0, count))

    def pieces(self, skip: int, count: int) -> list[memoryview]:
        """Where ``count`` bytes behind the next ``skip`` are: the ring itself, which the other side may change."""
        return _pieces(self._data, self._consumed + skip, count)

    def skip(self, count: int) -> None:
        """Gives up the next ``count`` bytes."""
        self._consumed = (self._consumed + count) & _WRAP
        self._indices[self._cons] = self._consumed


class RingWriter:
    """The producing end; the parameters are those of :class:`RingReader`, with ``prod`` as our counter."""

    def __init__(self, data: memoryview, indices: memoryview, *, prod: int, cons: int, name: str) -> None:
        _check_size(data)
        self.size = len(data)
        self._data = data
        self._indices = indices
        self._prod = prod
        self._cons = cons
        self._name = name
        self._produced: int = indices[prod]
        self.space()

    def space(self) -> int:
        """How many bytes can be written; raises :class:`RingCorruptError`."""
        consumed: int = self._indices[self._cons]
        unread = (self._produced - consumed) & _WRAP
        if unread > self.size:
            raise RingCorruptError(self._name, self._produced, consumed, self.size)
        return self.size - unread

    def write(self, data: memoryview) -> int:
        """Puts in as much of ``data`` as there is room for, and returns how much; raises :class:`RingCorruptError`."""
        count = min(self.space(), len(data))
        start = self._produced & (self.size - 1)
        first = min(count, self.size - start)
        self._data[start : start + first] = data[:first]
        if first < count:
            self._data[: count - first] = data[first:count]
        self._produced = (self._produced + count) & _WRAP
        self._indices[self._prod] = self._produced
        return count

    def pieces(self, skip: int, count: int) -> list[memoryview]:
        """Where ``count`` bytes behind the next ``skip`` will be; the caller has seen that there is room for them."""
        return _pieces(self._data, self._produced + skip, count)

    def fill(self, data: bytes) -> None:
        """Puts ``data`` into the ring, for which the caller has seen that there is room, and does not publish it."""
        start = self._produced & (self.size - 1)
        end = start + len(data)
        if end <= self.size:
            self._data[start:end] = data
        else:
            first = self.size - start
            self._data[start:] = data[:first]
            self._data[: end - self.size] = data[first:]

    def advance(self, count: int) -> None:
        """Publishes ``count`` bytes that were put into the ring."""
        self._produced = (self._produced + count) & _WRAP
        self._indices[self._prod] = self._produced


def _pieces(data: memoryview, begin: int, count: int) -> list[memoryview]:
    size = len(data)
    start = begin & (size - 1)
    end = start + count
    if end <= size:
        return [data[start:end]]
    return [data[start:], data[: end - size]]


def _check_size(data: memoryview) -> None:
    if len(data) == 0 or len(data) & (len(data) - 1):
        raise ValueError(f"a ring of {len(data)} bytes: the size must be a power of two")
