"""The machine's process: serves zonald's questions and its store, and runs all zones in one loop, the agent's own.

``python -m benchmarks.simulation.machine FOLDER`` runs until it gets SIGTERM.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.simulation.doors import LINE, STORE
from benchmarks.simulation.hypervisor import Domain, Port, StandInXen
from benchmarks.simulation.line import LineDecoder, encode
from benchmarks.simulation.xenstore import Client, StandInStore
from benchmarks.simulation.zone import Zone, ZoneLoop
from zonal.agent import log as agent_log
from zonal.agent.loop import READ, WRITE
from zonal.daemon.main import allow_files
from zonal.xen.abi.privcmd import PAGE_SIZE
from zonal.xen.events import BIND_INTERDOMAIN, NOTIFY, UNBIND
from zonal.xen.grants import MAP_HEADER, UNMAP, UNMAP_NOTIFY
from zonal.xen.store.wire import Message, MessageDecoder, encode_message

_READ_SIZE = 1 << 16
_TWO = struct.Struct("=2I")
_PORT = struct.Struct("=I")


@dataclass
class HostPort:
    """The host's end of an event channel; masked from an event until somebody waits for the next."""

    owner: Process
    domain_id: int
    remote: int
    masked: bool = False
    pending: bool = False


@dataclass
class Mapping:
    """Pages of a domain that a process has mapped; ``notice`` is what their end is told by: a byte and a port."""

    domain_id: int
    notice: tuple[int, int] | None = None


@dataclass
class Process:
    """One process of the host that has the devices open."""

    line: Sending
    fired: int
    """The pipe's end where ports go that have fired."""
    mappings: dict[int, Mapping] = field(default_factory=dict[int, Mapping])
    ports: set[int] = field(default_factory=set[int])


class Sending:
    """One connection's bytes out, kept while there is no room."""

    def __init__(self, loop: ZoneLoop, connection: socket.socket) -> None:
        self._loop = loop
        self._fd = connection.fileno()
        self._rest = bytearray()

    def send(self, data: bytes) -> None:
        """Now or later."""
        if not self._rest:
            self._loop.soon(self._flush)
        self._rest += data

    def _flush(self, _events: int = 0) -> None:
        try:
            del self._rest[: os.write(self._fd, self._rest)]
        except BlockingIOError:
            pass
        except OSError:
            self._rest.clear()  # it has gone; its reader sees to the rest
        self._loop.watch(self._fd, READ | WRITE if self._rest else READ, self.on_ready)

    def on_ready(self, events: int) -> None:
        """Readable, writable, or gone."""
        if events & WRITE:
            self._flush()
        if events & ~WRITE:
            self.on_readable()

    def on_readable(self) -> None:
        """To be replaced."""


class Machine:
    """All of it."""

    def __init__(self, folder: Path) -> None:
        self.loop = ZoneLoop()
        self.store = StandInStore()
        self.store.write("/local/domain/0/name", b"Domain-0")
        self.xen = StandInXen(self._begin, self._end, self._raise)
        self._zones: dict[int, Zone] = {}
        self._ports: dict[int, HostPort] = {}
        self._last_port = 0
        self._listen(folder / STORE, self._serve_store)
        self._listen(folder / LINE, self._serve_line)

    def _listen(self, path: Path, accept: Callable[[socket.socket], None]) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        listener.listen()
        self.loop.watch(listener.fileno(), READ, lambda _: accept(listener.accept()[0]))

    def _begin(self, domain: Domain) -> None:
        self._zones[domain.id] = Zone(self.xen, self.store, self.loop, domain)

    def _end(self, domain: Domain) -> None:
        zone = self._zones.pop(domain.id, None)
        if zone is not None:
            zone.power_off()
        # xenstored hears of it from the hypervisor (VIRQ_DOM_EXC).
        self.store.introduced.discard(domain.id)
        self.store.fire("@releaseDomain")

    def _serve_store(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        sending, decoder = Sending(self.loop, connection), MessageDecoder()

        def send(message: Message) -> None:
            sending.send(encode_message(message))

        client = Client(self.store, send)

        def receive() -> None:
            data = _read(connection)
            for message in decoder.feed(data):
                client.handle(message)
            if not data:
                self.loop.unwatch(connection.fileno())
                client.close()
                connection.close()

        sending.on_readable = receive
        self.loop.watch(connection.fileno(), READ, sending.on_ready)

    def _serve_line(self, connection: socket.socket) -> None:
        fired_out, fired_in = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        unmasked_out, unmasked_in = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        for pipe in (fired_in, unmasked_in):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 1 << 20)
        socket.send_fds(connection, [b"x"], [self.xen.memory, fired_out, unmasked_in])
        os.close(fired_out)
        os.close(unmasked_in)
        connection.setblocking(False)
        sending, decoder = Sending(self.loop, connection), LineDecoder()
        process = Process(sending, fired_in)

        def receive() -> None:
            data = _read(connection)
            for operation, *arguments in decoder.feed(data):
                sending.send(encode(self._answer(process, operation, arguments)))
            if not data:
                for descriptor in (connection.fileno(), unmasked_out):
                    self.loop.unwatch(descriptor)
                self._clear_up(process)
                for descriptor in (fired_in, unmasked_out):
                    os.close(descriptor)
                connection.close()

        def unmask(_events: int) -> None:
            for (number,) in _PORT.iter_unpack(os.read(unmasked_out, _READ_SIZE)):
                self._unmask(number)

        sending.on_readable = receive
        self.loop.watch(connection.fileno(), READ, sending.on_ready)
        self.loop.watch(unmasked_out, READ, unmask)

    def _answer(self, process: Process, operation: str, arguments: list[Any]) -> tuple[int, Any]:
        own: dict[str, Callable[..., Any]] = {
            "events": self._event_call,
            "map_grants": self._map,
            "unmap_grants": self._unmap,
            "notify_on_unmap": self._notify_on_unmap,
        }
        try:
            handler = partial(own[operation], process) if operation in own else getattr(self.xen, operation)
            return 0, handler(*arguments)
        except OSError as error:
            return error.errno or 5, None

    def _event_call(self, process: Process, request: int, argument: bytes) -> int:
        if request == BIND_INTERDOMAIN:
            domain_id, remote = _TWO.unpack(argument)
            domain = self.xen.domains.get(domain_id)
            if domain is None or domain.ports.get(remote, Port(1)).host:
                raise OSError(22, "bind_interdomain")
            self._last_port += 1
            domain.ports[remote].host = self._last_port
            self._ports[self._last_port] = HostPort(process, domain_id, remote)
            process.ports.add(self._last_port)
            self._raise(self._last_port)  # it has one event pending from the start
            return self._last_port
        (number,) = _PORT.unpack(argument)
        if request == NOTIFY:
            self._notify_zone(number)
        elif request == UNBIND:
            self._unbind(process, number)
        else:
            raise OSError(38, "evtchn")
        return 0

    def _map(self, _process: Process, argument: bytes) -> bytes:
        count = MAP_HEADER.unpack_from(argument)[0]
        pairs = struct.unpack_from(f"={2 * count}I", argument, MAP_HEADER.size)
        frames = self.xen.granted_frames(pairs[0], pairs[1::2])
        if frames[-1] - frames[0] != count - 1:
            raise OSError(22, "map_grant_ref")
        _process.mappings[frames[0] * PAGE_SIZE] = Mapping(pairs[0])
        self.xen.domains[pairs[0]].mapped += 1
        return MAP_HEADER.pack(count, 0, frames[0] * PAGE_SIZE) + argument[MAP_HEADER.size :]

    def _unmap(self, process: Process, argument: bytes) -> bytes:
        self._give_up(process.mappings.pop(UNMAP.unpack(argument)[0]))
        return argument

    def _notify_on_unmap(self, process: Process, argument: bytes) -> bytes:
        byte, _, port = UNMAP_NOTIFY.unpack(argument)
        process.mappings[byte // PAGE_SIZE * PAGE_SIZE].notice = byte, port
        return argument

    def _give_up(self, mapping: Mapping) -> None:
        if mapping.notice is not None:
            byte, port = mapping.notice
            if mapping.domain_id in self.xen.domains:
                page = byte // PAGE_SIZE * PAGE_SIZE
                with mmap.mmap(self.xen.memory, PAGE_SIZE, offset=page) as memory:
                    memory[byte - page] = 0
            self._notify_zone(port)
        self.xen.unmapped(mapping.domain_id)

    def _clear_up(self, process: Process) -> None:
        """It has ended, or was killed: the kernel gives up what it had."""
        for mapping in process.mappings.values():
            self._give_up(mapping)
        for number in list(process.ports):
            self._unbind(process, number)

    def _notify_zone(self, number: int) -> None:
        port = self._ports.get(number)
        domain = self.xen.domains.get(port.domain_id) if port else None
        if port is not None and domain is not None and port.remote in domain.ports:
            domain.ports[port.remote].on_event()

    def _unbind(self, process: Process, number: int) -> None:
        port = self._ports.pop(number)
        process.ports.discard(number)
        domain = self.xen.domains.get(port.domain_id)
        if domain is not None and port.remote in domain.ports:
            domain.ports[port.remote].host = 0

    def _raise(self, number: int) -> None:
        port = self._ports.get(number)
        if port is None:
            return
        if port.masked:
            port.pending = True
            return
        port.masked = True
        with suppress(BrokenPipeError):  # its process is being cleared up
            os.write(port.owner.fired, _PORT.pack(number))

    def _unmask(self, number: int) -> None:
        port = self._ports.get(number)
        if port is None:
            return
        port.masked = False
        if port.pending:
            port.pending = False
            self._raise(number)


def _read(connection: socket.socket) -> bytes:
    try:
        return connection.recv(_READ_SIZE)
    except ConnectionError:
        return b""


def main() -> None:
    """See the module."""
    allow_files()
    # Zones write into their kernel's log; this machine's is not theirs.
    agent_log.__dict__.update(_DEVICE=os.devnull)
    machine = Machine(Path(sys.argv[1]))
    print("ready", flush=True)
    machine.loop.run()


if __name__ == "__main__":
    main()
