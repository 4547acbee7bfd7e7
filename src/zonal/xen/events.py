"""Event channels: Xen's interrupts between domains, through ``/dev/xen/evtchn``.

One open file serves all channels of the process, so that a thousand zones cost the host one descriptor and the event
loop one registration; the kernel tells in one read which ports have fired. A port that has fired stays masked in the
kernel until its number is written back, which is done only when somebody waits for the next event. A zone that raises
events without end therefore costs no more than its consumer is willing to take.

Request numbers and structures: ``linux/include/uapi/xen/evtchn.h``.
"""

from __future__ import annotations

import array
import asyncio
import errno
import fcntl
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from zonal.errors import UnavailableError, WrongStateError, ZonalError

DEVICE = Path("/dev/xen/evtchn")

# _IOC(_IOC_NONE, 'E', number, size): the size in bits 16 and up, the letter in bits 8 to 15.
BIND_VIRQ = 4 << 16 | ord("E") << 8 | 0
BIND_INTERDOMAIN = 8 << 16 | ord("E") << 8 | 1
BIND_UNBOUND_PORT = 4 << 16 | ord("E") << 8 | 2
UNBIND = 4 << 16 | ord("E") << 8 | 3
NOTIFY = 4 << 16 | ord("E") << 8 | 4
RESET = 0 << 16 | ord("E") << 8 | 5
RESTRICT_DOMID = 2 << 16 | ord("E") << 8 | 6

VIRQ_DOM_EXC = 3
"""``xen.h``: a domain has died or shut down; xenstored holds it in an ordinary host."""

_PORT = struct.Struct("=I")
_TWO = struct.Struct("=2I")
_DOMAIN = struct.Struct("=H")
_READ_SIZE = 4096


class EventChannelError(ZonalError):
    """Binding or notifying failed; the message names the call, the port and the reason."""

    grpc_code = "INTERNAL"


class EventChannelClosedError(EventChannelError, WrongStateError):
    """The channel was closed while it was being waited for, or before."""

    grpc_code = "FAILED_PRECONDITION"


class EventChannel:
    """One local port. A context manager: leaving it unbinds the port."""

    def __init__(self, device: EventDevice, port: int) -> None:
        self.port = port
        self.count = 0
        """Deliveries so far; events that come before somebody waits again are delivered as one."""
        self._device = device
        self._taken = 0
        self._masked = False
        self._closed = False
        self._waiters: set[asyncio.Future[None]] = set()

    async def wait(self, since: int | None = None) -> int:
        """Returns when there has been a delivery later than ``since``, a former :attr:`count`; gives the new one.

        Without ``since``: later than the last wait without it. Read :attr:`count`, look at what the event is about,
        and wait with that number if there is nothing to do: then no event is lost, with any number of waiters.
        Raises :class:`EventChannelClosedError` when the channel is closed.
        """
        reference = self._taken if since is None else since
        while self.count <= reference:
            if self._closed:
                raise EventChannelClosedError(f"event channel {self.port} is closed")
            if self._masked:
                self._masked = False
                self._device.unmask(self.port)
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
        if since is None:
            self._taken = self.count
        return self.count

    def notify(self) -> None:
        """Raises an event at the other end; raises :class:`EventChannelError` if the kernel refuses."""
        if self._closed:
            raise EventChannelClosedError(f"event channel {self.port} is closed")
        self._device.call(NOTIFY, _PORT.pack(self.port), f"notifying port {self.port}")

    def wake(self) -> None:
        """Counts a delivery without an event, so that waiters look again."""
        self.count += 1
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def close(self) -> None:
        """Unbinds the port and ends every wait. May be called again."""
        if self._closed:
            return
        self._closed = True
        self._device.forget(self)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def deliver(self) -> None:
        """Takes in an event, after which the kernel keeps the port masked; for the device."""
        self._masked = True
        self.wake()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def bind_for_process(domain_id: int, remote_ports: Sequence[int]) -> tuple[int, list[int]]:
    """A descriptor of the device for another process, and its ports, each bound to one that ``domain_id`` offers.

    The descriptor is good for this domain's ports only. Raises :class:`EventChannelError`.
    """
    descriptor = _open()
    try:
        ports = [
            _call(
                descriptor, BIND_INTERDOMAIN, _TWO.pack(domain_id, port), f"binding port {port} of domain {domain_id}"
            )
            for port in remote_ports
        ]
        _call(descriptor, RESTRICT_DOMID, _DOMAIN.pack(domain_id), f"restricting a process to domain {domain_id}")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, ports


class EventDevice:
    """``/dev/xen/evtchn`` in the running event loop. A context manager: leaving it closes every channel.

    Raises :class:`UnavailableError` where there is no such device.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._channels: dict[int, EventChannel] = {}
        self._descriptor = _open()
        self._loop.add_reader(self._descriptor, self._dispatch)

    def bind_unbound(self, domain_id: int) -> EventChannel:
        """A new port to which ``domain_id`` may bind."""
        return self._bind(BIND_UNBOUND_PORT, _PORT.pack(domain_id), f"a port for domain {domain_id}")

    def bind_interdomain(self, domain_id: int, remote_port: int) -> EventChannel:
        """A new port, connected to a port that ``domain_id`` holds unbound for this domain.

        It has one event pending from the start, since some may have been raised before.
        """
        request = _TWO.pack(domain_id, remote_port)
        return self._bind(BIND_INTERDOMAIN, request, f"port {remote_port} of domain {domain_id}")

    def bind_virq(self, virq: int) -> EventChannel:
        """A new port for a virtual interrupt of Xen; each can have one holder in the domain."""
        return self._bind(BIND_VIRQ, _PORT.pack(virq), f"virtual interrupt {virq}")

    def close(self) -> None:
        """Closes every channel and the device. May be called again."""
        if self._descriptor < 0:
            return
        for channel in list(self._channels.values()):
            channel.close()
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def call(self, request: int, argument: bytes, what: str) -> int:
        """One ioctl; for the channels."""
        if self._descriptor < 0:
            raise EventChannelClosedError(f"{what}: {DEVICE} is closed")
        return _call(self._descriptor, request, argument, what)

    def unmask(self, port: int) -> None:
        """Lets the port fire again; for the channels."""
        os.write(self._descriptor, _PORT.pack(port))

    def forget(self, channel: EventChannel) -> None:
        """Unbinds a port; for the channels."""
        del self._channels[channel.port]
        self.call(UNBIND, _PORT.pack(channel.port), f"unbinding port {channel.port}")

    def _bind(self, request: int, argument: bytes, what: str) -> EventChannel:
        port = self.call(request, argument, f"binding {what}")
        channel = self._channels[port] = EventChannel(self, port)
        return channel

    def _dispatch(self) -> None:
        try:
            ports = array.array("I", os.read(self._descriptor, _READ_SIZE))
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.EFBIG:
                raise
            # The kernel's list of fired ports overflowed and some are lost: begin it anew, and let everyone look.
            self.call(RESET, b"", "resetting the event buffer")
            ports = array.array("I", list(self._channels))
        for port in ports:
            channel = self._channels.get(port)
            if channel is not None:  # else it fired just before it was unbound
                channel.deliver()


def _open() -> int:
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UnavailableError(
            f"{DEVICE} cannot be opened: {error.strerror}",
            hint="Zonal must run as root in the host of a Xen machine, with the kernel module xen-evtchn loaded",
        ) from None


def _call(descriptor: int, request: int, argument: bytes, what: str) -> int:
    try:
        return fcntl.ioctl(descriptor, request, bytearray(argument), True)
    except OSError as error:
        raise EventChannelError(f"{what} failed: {error.strerror} ({DEVICE})") from error
