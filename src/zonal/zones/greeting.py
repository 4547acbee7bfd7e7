"""What an agent says of itself and its workloads, read out of its messages; none of it is believed unchecked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zonal.agent.protocol.frames import VERSION, ProtocolError
from zonal.agent.protocol.streams import WINDOW, common_window
from zonal.zones.boot_log import parse_steps

if TYPE_CHECKING:
    from zonal.agent.protocol.cbor import Value

MAX_WORKLOADS = 64
_MAX_STREAMS = 3
_MAX_NAME = 64
_MAX_TEXT = 256
_MAX_NUMBER = (1 << 63) - 1
_MAX_STREAM = 0xFFFFFFFF
_MAX_SIGNAL = 64


@dataclass(frozen=True)
class Exit:
    """How a workload ended."""

    status: int | None
    """Exit status, or None after a signal."""
    signal: int | None
    """Linux signal number, or None."""
    out_of_memory: bool
    """The zone's kernel killed a process of the workload's control group for want of memory."""

    @property
    def shell_status(self) -> int:
        """As docker and shells have it: 128 + n after signal n."""
        return 128 + (self.signal or 0) if self.status is None else self.status


@dataclass(frozen=True)
class OutputState:
    """An output stream as the agent knows it; offsets in bytes from its beginning."""

    stream: int
    consumed: int
    """What was consumed for certain: bytes before it are gone."""
    available: int
    """What the workload has written so far, as far as the agent has read it."""
    ended: bool


@dataclass(frozen=True)
class InputState:
    """An input stream as the agent knows it; offsets in bytes from its beginning."""

    stream: int
    consumed: int
    received: int
    """Where the next session goes on."""
    ended: bool


@dataclass(frozen=True)
class WorkloadState:
    """A workload as the agent knows it."""

    name: str
    container: str
    """The container that it runs in: its own name, or for ``exec`` another's."""
    state: str
    """"starting", "running" or "exited"."""
    exit: Exit | None
    outputs: tuple[OutputState, ...]
    inputs: tuple[InputState, ...]


@dataclass(frozen=True)
class Greeting:
    """The agent's HELLO."""

    kernel_release: str
    resident_bytes: int
    """Of the agent."""
    started_ns: int
    """When the agent began, in the zone's CLOCK_BOOTTIME."""
    ready_ns: int
    """When it had its channel, in the same."""
    workloads: tuple[WorkloadState, ...]
    window: int
    """Bytes of a stream that may be under way, as both sides can bear it."""
    steps: tuple[tuple[str, int], ...] = ()
    """What it did in between, by name, and when, in the same."""


def parse_greeting(message: Mapping[str, Value]) -> Greeting:
    """Reads HELLO; raises ``ProtocolError``."""
    version = message.get("version")
    if version != VERSION:
        raise ProtocolError(f"the agent speaks version {version!r:.20} of the protocol, the host {VERSION}")
    workloads = tuple(parse_workload(item) for item in _array(message, "workloads", MAX_WORKLOADS))
    names = {workload.name for workload in workloads}
    numbers = [stream.stream for workload in workloads for stream in (*workload.outputs, *workload.inputs)]
    if len(names) < len(workloads) or len(set(numbers)) < len(numbers):
        raise ProtocolError("a workload or stream twice in HELLO")
    return Greeting(
        kernel_release=_text(message, "kernel", _MAX_TEXT),
        resident_bytes=_number(message, "resident"),
        started_ns=_number(message, "started"),
        ready_ns=_number(message, "ready"),
        workloads=workloads,
        window=common_window(message.get("window")),
        steps=parse_steps(message.get("steps")),
    )


def parse_workload(value: Value) -> WorkloadState:
    """Reads a workload of HELLO or ``list``; raises ``ProtocolError``."""
    if not isinstance(value, dict):
        raise ProtocolError("a workload that is not a map")
    state = _text(value, "state", _MAX_TEXT)
    if state not in ("starting", "running", "exited", "forgotten"):
        raise ProtocolError(f"a workload in state {state!r}")
    outputs: list[OutputState] = []
    inputs: list[InputState] = []
    for item in _array(value, "streams", _MAX_STREAMS):
        if not isinstance(item, dict):
            raise ProtocolError("a stream that is not a map")
        number, consumed, ended = _number(item, "stream", _MAX_STREAM), _number(item, "consumed"), _flag(item, "ended")
        direction = _text(item, "direction", _MAX_TEXT)
        if direction not in ("input", "output") or not number:
            raise ProtocolError(f"stream {number} in direction {direction!r}")
        known = _number(item, "available" if direction == "output" else "received")
        if not 0 <= known - consumed <= WINDOW:
            raise ProtocolError(f"stream {number} at {known} with {consumed} consumed")
        if direction == "output":
            outputs.append(OutputState(number, consumed, known, ended))
        else:
            inputs.append(InputState(number, consumed, known, ended))
    return WorkloadState(
        name=_text(value, "id", _MAX_NAME),
        container=_text(value, "container", _MAX_NAME),
        state=state,
        exit=parse_exit(value) if state == "exited" else None,
        outputs=tuple(outputs),
        inputs=tuple(inputs),
    )


def parse_exit(message: Mapping[str, Value]) -> Exit:
    """Reads the fields of an end; raises ``ProtocolError``."""
    out_of_memory = _flag(message, "oom")
    if "signal" in message:
        return Exit(None, _number(message, "signal", _MAX_SIGNAL), out_of_memory)
    return Exit(_number(message, "status", 255), None, out_of_memory)


def _text(message: Mapping[str, Value], key: str, most: int) -> str:
    value = message.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= most or not value.isprintable():
        raise ProtocolError(f"{key} is not a text of 1 to {most} printable characters")
    return value


def _number(message: Mapping[str, Value], key: str, most: int = _MAX_NUMBER) -> int:
    value = message.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ProtocolError(f"{key} is not a number from 0 to {most}")
    return value


def _flag(message: Mapping[str, Value], key: str) -> bool:
    value = message.get(key)
    if not isinstance(value, bool):
        raise ProtocolError(f"{key} is not true or false")
    return value


def _array(message: Mapping[str, Value], key: str, most: int) -> list[Value]:
    value = message.get(key)
    if not isinstance(value, list) or len(value) > most:
        raise ProtocolError(f"{key} is not an array of at most {most}")
    return value
