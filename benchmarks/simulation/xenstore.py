"""The machine's xenstored: nodes, watches and transactions, by the protocol of ``io/xs_wire.h``.

Whoever asks may do everything, and no transaction is ever refused for another's sake: there is one client that matters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from zonal.xen.store.wire import PAYLOAD_MAX, Message, MessageType, encode_strings

_FAILED = "ENOENT"
_OK = b"OK\0"
_ANSWERS = {b"1": b"4", b"5": b"6"}
"""Of the drivers of a disk, the host's and the zone's in one: initialising to connected, closing to closed."""
_PART = 2048
"""Bytes of a listing in one answer, where it does not fit into one."""

Send = Callable[[Message], None]
Told = Callable[[str], None]


class StoreRefusalError(Exception):
    """``args``: the name of the error."""


class Tree:
    """All nodes; each knows its children."""

    def __init__(self) -> None:
        self.generation = 0
        """Another one after each change."""
        self._values: dict[str, bytes] = {"/": b""}
        self._children: dict[str, dict[str, None]] = {"/": {}}

    def read(self, path: str) -> bytes:
        """Raises ``StoreRefusalError``."""
        if path not in self._values:
            raise StoreRefusalError(_FAILED)
        return self._values[path]

    def list(self, path: str) -> list[str]:
        """Raises ``StoreRefusalError``."""
        if path not in self._children:
            raise StoreRefusalError(_FAILED)
        return list(self._children[path])

    def write(self, path: str, value: bytes | None) -> None:
        """``None`` leaves the value of a node that exists."""
        self.generation += 1
        if path not in self._values:
            parent, _, name = path.rpartition("/")
            parent = parent or "/"
            if parent not in self._values:
                self.write(parent, None)
            self._children[parent][name] = None
            self._children[path] = {}
            self._values[path] = b""
        if value is not None:
            self._values[path] = value

    def remove(self, path: str) -> None:
        """The node and all below it. Raises ``StoreRefusalError``."""
        if path not in self._values:
            raise StoreRefusalError(_FAILED)
        self.generation += 1
        parent, _, name = path.rpartition("/")
        del self._children[parent or "/"][name]
        for each in list(self._below(path)):
            del self._values[each], self._children[each]

    def _below(self, path: str) -> Iterator[str]:
        yield path
        for name in self._children[path]:
            yield from self._below(f"{path}/{name}")


Change = tuple[str, bytes | None, bool]
"""A path, its value, and whether it is removed."""


class StandInStore:
    """The store itself; `Client` is one connection to it, and zones use it directly."""

    def __init__(self) -> None:
        self.tree = Tree()
        self.introduced: set[int] = set()
        self._watches: dict[str, list[Told]] = {}

    def read(self, path: str) -> bytes | None:
        """The value, if there is such a node."""
        try:
            return self.tree.read(path)
        except StoreRefusalError:
            return None

    def write(self, path: str, value: bytes) -> None:
        """And whoever watches is told."""
        self.apply([(path, value, False)])

    def apply(self, changes: list[Change]) -> None:
        """All of them; then whoever watches is told."""
        for path, value, removed in changes:
            if not removed:
                self.tree.write(path, value)
            elif self.read(path) is not None:
                self.tree.remove(path)
        for path, _, removed in changes:
            self.fire(path, below=removed)
        for path, value, removed in changes:
            if not removed and value in _ANSWERS and "/backend/vbd/" in path and path.endswith("/state"):
                self.write(path, _ANSWERS[value])

    def fire(self, path: str, *, below: bool = False) -> None:
        """Tells those who watch ``path`` or what is above it; with ``below`` also those of what is below it."""
        place = path
        while True:
            for told in list(self._watches.get(place, ())):
                told(path)
            if place in ("/", "") or place.startswith("@"):
                break
            place = place.rpartition("/")[0] or "/"
        if below:
            for watched in [each for each in self._watches if each.startswith(f"{path}/")]:
                for told in list(self._watches[watched]):
                    told(watched)

    def watch(self, path: str, told: Told) -> None:
        """From now on, and once at once."""
        self._watches.setdefault(path, []).append(told)
        told(path)

    def unwatch(self, path: str, told: Told) -> None:
        """No more."""
        kept = [each for each in self._watches.get(path, ()) if each is not told]
        if kept:
            self._watches[path] = kept
        else:
            self._watches.pop(path, None)


class Client:
    """One connection: requests in, replies and events out."""

    def __init__(self, store: StandInStore, send: Send) -> None:
        self._store = store
        self._send = send
        self._watching: dict[tuple[str, str], Told] = {}
        self._transactions: dict[int, list[Change]] = {}
        self._last_transaction = 0

    def close(self) -> None:
        """Its watches end."""
        for (path, _), told in self._watching.items():
            self._store.unwatch(path, told)

    def handle(self, message: Message) -> None:
        """Answers a request."""
        try:
            payload = self._answer(message)
        except StoreRefusalError as fault:
            message, payload = message._replace(type=MessageType.ERROR), str(fault).encode() + b"\0"
        self._send(message._replace(payload=payload))

    def _answer(self, message: Message) -> bytes:
        path_bytes, _, rest = message.payload.partition(b"\0")
        path, number = path_bytes.decode(), message.transaction_id
        match message.type:
            case MessageType.READ:
                return self._read(number, path)
            case MessageType.DIRECTORY:
                listing = encode_strings(self._list(number, path))
                if len(listing) > PAYLOAD_MAX:
                    raise StoreRefusalError("E2BIG")
                return listing
            case MessageType.DIRECTORY_PART:
                listing, begin = encode_strings(self._list(number, path)), int(rest.rstrip(b"\0"))
                end = b"\0" if begin + _PART >= len(listing) else b""
                return b"%d\0" % self._store.tree.generation + listing[begin : begin + _PART] + end
            case MessageType.WRITE:
                self._change(number, (path, rest, False))
            case MessageType.MAKE_DIRECTORY:
                self._change(number, (path, None, False))
            case MessageType.REMOVE:
                self._read(number, path)
                self._change(number, (path, None, True))
            case MessageType.WATCH | MessageType.UNWATCH:
                self._watch(path, rest.rstrip(b"\0").decode(), begin=message.type == MessageType.WATCH)
            case MessageType.TRANSACTION_START:
                self._last_transaction += 1
                self._transactions[self._last_transaction] = []
                return b"%d\0" % self._last_transaction
            case MessageType.TRANSACTION_END:
                changes = self._transactions.pop(number)
                if path == "T":
                    self._store.apply(changes)
            case MessageType.INTRODUCE:
                self._store.introduced.add(int(path))
                self._store.fire("@introduceDomain")
            case MessageType.RELEASE:
                if int(path) not in self._store.introduced:
                    raise StoreRefusalError(_FAILED)
                self._store.introduced.discard(int(path))
            case MessageType.SET_PERMISSIONS:
                self._read(number, path)
            case _:
                raise StoreRefusalError("ENOSYS")
        return _OK

    def _change(self, number: int, change: Change) -> None:
        if number:
            self._transactions[number].append(change)
        else:
            self._store.apply([change])

    def _read(self, number: int, path: str) -> bytes:
        for changed, value, removed in reversed(self._transactions.get(number, ())):
            if removed and (path == changed or path.startswith(f"{changed}/")):
                raise StoreRefusalError(_FAILED)
            if path == changed and value is not None:
                return value
            if not removed and changed.startswith(f"{path}/") and self._store.read(path) is None:
                return b""
        return self._store.tree.read(path)

    def _list(self, number: int, path: str) -> list[str]:
        names = dict.fromkeys(self._store.tree.list(path) if self._store.read(path) is not None else ())
        self._read(number, path)
        for changed, _, removed in self._transactions.get(number, ()):
            if changed.startswith(f"{path}/"):
                name, _, deeper = changed.removeprefix(f"{path}/").partition("/")
                if not removed:
                    names[name] = None
                elif not deeper:
                    names.pop(name, None)
        return list(names)

    def _watch(self, path: str, token: str, *, begin: bool) -> None:
        if not begin:
            told = self._watching.pop((path, token), None)
            if told is None:
                raise StoreRefusalError(_FAILED)
            self._store.unwatch(path, told)
            return

        def tell(changed: str) -> None:
            self._send(Message(MessageType.WATCH_EVENT, 0, 0, encode_strings((changed, token))))

        self._watching[path, token] = tell
        self._store.watch(path, tell)
