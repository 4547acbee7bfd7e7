"""The name server of all networks, a process of its own: ``python -m zonal.network.resolver FOLDER``.

Zones ask it, at their gateway's address, for one another's names, which it has from files in FOLDER; other names it
asks the host's own name servers for. It watches the files (inotify(7)), and is ended by SIGTERM. Zones are hostile: it
is confined to its folder, has no rights but to bind its port, and keeps no more than so many questions and connections,
of all and of each zone. No asyncio: importing that takes longer than all the rest.
"""

from __future__ import annotations

import ctypes
import fcntl
import ipaddress
import json
import os
import resource
import select
import socket
import struct
import sys
import time
from contextlib import suppress
from typing import Any

from zonal.network import dns
from zonal.network.dns import LOCK, SUFFIX, UPSTREAM

PORT = 53
MAX_WAITING, MAX_WAITING_EACH = 512, 64
"""Questions under way outside, and those of one zone."""
MAX_CONNECTIONS, MAX_CONNECTIONS_EACH = 64, 8
TRY_SECONDS = 3.0
"""For which one server is waited for."""
CONNECTION_SECONDS = 8.0
RATE, BURST = 500.0, 1000.0
"""Questions a second that one zone may ask, and at once."""
IDLE_SECONDS = 600.0
"""Without any network, before it ends."""
_TURN = 16
"""Questions that are taken from one network before the next."""
_IP_FREEBIND, _IPV6_FREEBIND = 15, 78  # linux/in.h, linux/in6.h
_CAP_NET_BIND_SERVICE, _CAP_LAST = 10, 63
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_CAP_VERSION_3, _SYS_CAPSET = 0x20080522, 126
_MEMORY = 256 << 20
_IN_MOVED_TO, _IN_DELETE = 0x80, 0x200  # linux/inotify.h


class _Network:
    """One network: its names, and where they are asked for."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.listen = [str(each) for each in values["listen"]]
        self.forward = bool(values["forward"])
        self.subnets = [ipaddress.ip_network(each) for each in values["subnets"]]
        self.names: dict[str, list[str]] = {name.lower(): list(each) for name, each in values["zones"].items()}
        self.reverse: dict[str, str] = {}
        for name, addresses in values["zones"].items():
            for address in addresses:
                self.reverse.setdefault(dns.reverse_name(address), name)
        self.suffixes = [_reverse_suffix(subnet) for subnet in self.subnets]

    def answer(self, question: dns.Question) -> bytes | None:
        """What is known here; ``None`` for a question to be asked outside."""
        addresses = self.names.get(question.name)
        if addresses is not None:
            records = [dns.address_record(address) for address in addresses]
            return dns.answer(question, [each for each in records if question.kind in (each[0], dns.ANY)])
        name = self.reverse.get(question.name)
        if name is not None:
            known = question.kind in (dns.PTR, dns.ANY)
            return dns.answer(question, [dns.name_record(name)] if known else [])
        if "." not in question.name or any(question.name.endswith(suffix) for suffix in self.suffixes):
            return dns.answer(question, [], dns.NO_SUCH_NAME)  # nobody outside knows better
        return None if self.forward else dns.answer(question, [], dns.REFUSED)

    def has(self, client: str) -> bool:
        """Whether a client is on this network, and not only able to reach the address."""
        address = ipaddress.ip_address(client)
        return any(address in subnet for subnet in self.subnets)


class _Waiting:
    """A question under way outside."""

    def __init__(self, listener: socket.socket, client: Any, question: dns.Question, message: bytes) -> None:
        self.listener, self.client, self.question, self.message = listener, client, question, message
        self.identifier = 0
        self.tries = 0
        self.deadline = 0.0


class _Connection:
    """A client's TCP connection, or ours to a server on its behalf."""

    def __init__(self, network: _Network, client: str) -> None:
        self.network, self.client = network, client
        self.received, self.unsent = bytearray(), bytearray()
        self.deadline = time.monotonic() + CONNECTION_SECONDS
        self.peer: socket.socket | None = None
        self.is_server = False


class Resolver:
    """The loop. ``root``: the folder, as the process sees it."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._poll = select.poll()
        self._networks: dict[str, _Network] = {}
        self._sockets: dict[int, socket.socket] = {}
        self._udp: dict[int, str] = {}
        self._tcp: dict[int, str] = {}
        self._bound: dict[tuple[str, int], socket.socket] = {}
        self._waiting: dict[int, _Waiting] = {}
        self._connections: dict[int, _Connection] = {}
        self._tokens: dict[str, tuple[float, float]] = {}
        self._upstream: list[str] = []
        self._idle_since = time.monotonic()

    def wake_by(self, descriptor: int) -> None:
        """Readable when there is something to reread."""
        self._poll.register(descriptor, select.POLLIN)
        self._wake = descriptor

    def load(self) -> None:
        """Reads the folder, and listens where it says."""
        networks: dict[str, _Network] = {}
        for entry in sorted(os.listdir(self._root)):  # noqa: PTH208
            if entry.endswith(SUFFIX):
                with suppress(OSError, ValueError, KeyError, TypeError), open(f"{self._root}/{entry}") as file:  # noqa: PTH123
                    networks[entry.removesuffix(SUFFIX)] = _Network(json.load(file))
        with suppress(OSError), open(f"{self._root}/{UPSTREAM}") as file:  # noqa: PTH123
            self._upstream = [line for line in file.read().split("\n") if line]
        self._networks = networks
        wanted = {(address, kind): name for name in networks for address in networks[name].listen for kind in (1, 2)}
        for key in [key for key in self._bound if key not in wanted]:
            self._close(self._bound.pop(key))
        for (address, kind), name in wanted.items():
            if (address, kind) not in self._bound:
                self._listen(address, kind, name)
        if networks:
            self._idle_since = 0.0
        elif not self._idle_since:
            self._idle_since = time.monotonic()

    def run(self) -> None:
        """Until nothing has been asked for long, or it is told to end."""
        while not (self._idle_since and time.monotonic() - self._idle_since > IDLE_SECONDS):
            for descriptor, events in self._poll.poll(self._patience() * 1000):
                if descriptor == self._wake:
                    os.read(descriptor, 4096)
                    self.load()
                elif descriptor in self._udp:
                    self._take_questions(descriptor)
                elif descriptor in self._tcp:
                    self._take_connection(descriptor)
                elif descriptor in self._waiting:
                    self._take_answer(descriptor)
                elif descriptor in self._connections:
                    self._go_on(descriptor, events)
            self._expire()

    def _listen(self, address: str, kind: int, name: str) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.socket(family, kind | socket.SOCK_NONBLOCK)
        try:
            # The bridge that will have the address is made with its first zone.
            level = (socket.IPPROTO_IPV6, _IPV6_FREEBIND) if family == socket.AF_INET6 else (0, _IP_FREEBIND)
            listener.setsockopt(*level, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, PORT))
            if kind == socket.SOCK_STREAM:
                listener.listen(16)
        except OSError as error:
            print(f"zonal resolver: cannot listen on {address} port {PORT}: {error}", file=sys.stderr, flush=True)
            listener.close()
            return
        self._bound[address, kind] = listener
        (self._tcp if kind == socket.SOCK_STREAM else self._udp)[listener.fileno()] = name
        self._watch(listener, select.POLLIN)

    def _take_questions(self, descriptor: int) -> None:
        listener, network = self._sockets[descriptor], self._networks.get(self._udp[descriptor])
        for _ in range(_TURN):
            try:
                message, client = listener.recvfrom(dns.MAX_UDP)
            except OSError:
                return
            question = dns.parse_question(message)
            if network is None or question is None or not network.has(client[0]) or not self._may_ask(client[0]):
                continue
            reply = network.answer(question)
            if reply is None:
                self._ask(_Waiting(listener, client, question, message))
            else:
                with suppress(OSError):
                    listener.sendto(reply, client)

    def _may_ask(self, client: str) -> bool:
        now = time.monotonic()
        if len(self._tokens) > 4096:
            self._tokens.clear()
        tokens, last = self._tokens.get(client, (BURST, now))
        tokens = min(BURST, tokens + (now - last) * RATE)
        self._tokens[client] = (max(0.0, tokens - 1), now)
        return tokens >= 1

    def _ask(self, waiting: _Waiting) -> None:
        """Asks the next server; each question from a port of its own, so that answers are hard to forge (RFC 5452)."""
        each = sum(1 for other in self._waiting.values() if other.client[0] == waiting.client[0])
        full = len(self._waiting) >= MAX_WAITING or each >= MAX_WAITING_EACH
        while not full and waiting.tries < len(self._upstream):
            server = self._upstream[waiting.tries]
            waiting.tries += 1
            waiting.identifier = int.from_bytes(os.urandom(2), "big")
            waiting.deadline = time.monotonic() + TRY_SECONDS
            link = socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, 2 | socket.SOCK_NONBLOCK)
            try:
                link.connect((server, PORT))
                link.send(dns.with_identifier(waiting.message, waiting.identifier))
            except OSError:
                link.close()
                continue
            self._watch(link, select.POLLIN)
            self._waiting[link.fileno()] = waiting
            return
        with suppress(OSError):
            waiting.listener.sendto(dns.answer(waiting.question, [], dns.SERVER_FAILURE), waiting.client)

    def _take_answer(self, descriptor: int) -> None:
        waiting, link = self._waiting[descriptor], self._sockets[descriptor]
        try:
            message = link.recv(0xFFFF)
        except OSError:
            self._give_up(descriptor)
            return
        if dns.is_response_to(message, waiting.identifier, waiting.question):
            del self._waiting[descriptor]
            self._close(link)
            with suppress(OSError):
                waiting.listener.sendto(dns.with_identifier(message, waiting.question.identifier), waiting.client)

    def _give_up(self, descriptor: int) -> None:
        waiting = self._waiting.pop(descriptor)
        self._close(self._sockets[descriptor])
        self._ask(waiting)

    def _take_connection(self, descriptor: int) -> None:
        network = self._networks.get(self._tcp[descriptor])
        try:
            link, client = self._sockets[descriptor].accept()
        except OSError:
            return
        mine = [each for each in self._connections.values() if not each.is_server]
        each = sum(1 for other in mine if other.client == client[0])
        full = len(mine) >= MAX_CONNECTIONS or each >= MAX_CONNECTIONS_EACH
        if network is None or full or not network.has(client[0]):
            link.close()
            return
        link.setblocking(False)
        self._connections[link.fileno()] = _Connection(network, client[0])
        self._watch(link, select.POLLIN)

    def _go_on(self, descriptor: int, events: int) -> None:
        connection, link = self._connections[descriptor], self._sockets[descriptor]
        try:
            if connection.unsent and events & select.POLLOUT:
                del connection.unsent[: link.send(connection.unsent)]
                if not connection.unsent:
                    self._poll.modify(descriptor, select.POLLIN)
            if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                data = link.recv(0xFFFF)
                if not data:
                    raise ConnectionResetError
                connection.received += data
                if len(connection.received) > 2 + 0xFFFF:
                    raise ConnectionResetError
                self._take_message(connection, link)
        except BlockingIOError:
            return
        except OSError:
            self._drop(descriptor)

    def _take_message(self, connection: _Connection, link: socket.socket) -> None:
        length = int.from_bytes(connection.received[:2], "big")
        if len(connection.received) < 2 + length or len(connection.received) < 2:
            return
        message = bytes(connection.received[2 : 2 + length])
        del connection.received[: 2 + length]
        if connection.is_server:
            if connection.peer is not None:
                self._send(connection.peer, message)
            return
        question = dns.parse_question(message)
        if question is None or not self._may_ask(connection.client) or connection.peer is not None:
            raise ConnectionResetError
        reply = connection.network.answer(question)
        if reply is not None:
            self._send(link, reply)
        elif not self._connect(connection, link, message):
            self._send(link, dns.answer(question, [], dns.SERVER_FAILURE))

    def _connect(self, connection: _Connection, link: socket.socket, message: bytes) -> bool:
        if not self._upstream:
            return False
        server = self._upstream[0]
        outside = socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, 1 | socket.SOCK_NONBLOCK)
        with suppress(BlockingIOError):
            try:
                outside.connect((server, PORT))
            except BlockingIOError:
                raise
            except OSError:
                outside.close()
                return False
        theirs = _Connection(connection.network, connection.client)
        theirs.is_server, theirs.peer = True, link
        connection.peer = outside
        self._connections[outside.fileno()] = theirs
        self._watch(outside, select.POLLIN)
        self._send(outside, message)
        return True

    def _send(self, link: socket.socket, message: bytes) -> None:
        connection = self._connections[link.fileno()]
        connection.unsent += len(message).to_bytes(2, "big") + message
        self._poll.modify(link.fileno(), select.POLLIN | select.POLLOUT)

    def _drop(self, descriptor: int) -> None:
        connection = self._connections.pop(descriptor, None)
        if connection is None:
            return
        self._close(self._sockets[descriptor])
        if connection.peer is not None and connection.peer.fileno() in self._connections:
            self._drop(connection.peer.fileno())

    def _expire(self) -> None:
        now = time.monotonic()
        for descriptor in [number for number, each in self._waiting.items() if each.deadline < now]:
            self._give_up(descriptor)
        for descriptor in [number for number, each in self._connections.items() if each.deadline < now]:
            self._drop(descriptor)

    def _patience(self) -> float:
        deadlines = [each.deadline for each in (*self._waiting.values(), *self._connections.values())]
        if self._idle_since:
            deadlines.append(self._idle_since + IDLE_SECONDS)
        return max(0.01, min(deadlines) - time.monotonic()) if deadlines else 3600.0

    def _watch(self, link: socket.socket, events: int) -> None:
        self._sockets[link.fileno()] = link
        self._poll.register(link.fileno(), events)

    def _close(self, link: socket.socket) -> None:
        descriptor = link.fileno()
        self._poll.unregister(descriptor)
        del self._sockets[descriptor]
        self._udp.pop(descriptor, None)
        self._tcp.pop(descriptor, None)
        link.close()


def main() -> None:
    """The process; the lock in its folder shows that it runs, and holds its number."""
    folder = sys.argv[1]
    lock = os.open(f"{folder}/{LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # another one was started, and reads the same folder
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    libc = ctypes.CDLL(None, use_errno=True)
    watching = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    if watching < 0 or libc.inotify_add_watch(watching, os.fsencode(folder), _IN_MOVED_TO | _IN_DELETE) < 0:
        raise OSError(ctypes.get_errno(), f"cannot watch {folder}")
    _confine(libc, folder)
    resolver = Resolver("/")
    resolver.wake_by(watching)
    resolver.load()
    resolver.run()


def _confine(libc: ctypes.CDLL, folder: str) -> None:
    """Gives up, for good, all of the file system but its folder, and all rights but the one to bind its port."""
    os.chroot(folder)
    os.chdir("/")
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    for capability in range(_CAP_LAST + 1):
        if capability != _CAP_NET_BIND_SERVICE and libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break  # the kernel's last one
    kept = 1 << _CAP_NET_BIND_SERVICE
    header, sets = struct.pack("=Ii", _CAP_VERSION_3, 0), struct.pack("=6I", kept, kept, 0, 0, 0, 0)
    if libc.syscall(ctypes.c_long(_SYS_CAPSET), header, sets) or libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "cannot give up rights")


def _reverse_suffix(subnet: Any) -> str:
    """What the names end with under which a network's addresses are asked for, to a whole part."""
    whole = dns.reverse_name(str(subnet.network_address)).split(".")
    known = subnet.prefixlen // (8 if subnet.version == 4 else 4)
    return "." + ".".join(whole[-(known + 2) :])


if __name__ == "__main__":
    main()
