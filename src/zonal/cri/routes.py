"""Which of two runtimes a pod belongs to, and what is remembered of that."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from zonal.cri.api import runtime_pb2 as cri
from zonal.errors import InvalidInputError

OUR_HANDLERS = frozenset({"", "zonal", "edera"})
"""The handlers of RuntimeClasses that mean a zone; ``""`` is that of pods which name no RuntimeClass."""
MAX_REMEMBERED = 65536
"""Ids and pods of ours that are remembered; one that is forgotten is looked up again."""
_HANDLER = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)

Key = TypeVar("Key")
Value = TypeVar("Value")


class PodKey(NamedTuple):
    """What tells pods apart before they have a sandbox's id: ``PodSandboxMetadata`` without the attempt."""

    uid: str
    namespace: str
    name: str


def pod_key(metadata: cri.PodSandboxMetadata) -> PodKey:
    """Of a sandbox's metadata."""
    return PodKey(metadata.uid, metadata.namespace, metadata.name)


@dataclass(frozen=True)
class RoutingRule:
    """Which pods are ours."""

    handlers: frozenset[str] = OUR_HANDLERS

    def is_ours(self, handler: str, config: cri.PodSandboxConfig) -> bool:
        """Whether the pod gets a zone.

        One that shares the host's namespaces can't, and goes to the other runtime, but not if it names a RuntimeClass
        of ours: whoever asked for a kernel of its own must not silently get the host's. Our own runtime refuses it.
        """
        if handler not in self.handlers:
            return False
        return bool(handler) or not shares_host(config)


def parse_handlers(text: str) -> frozenset[str]:
    """Handlers of ours as an option names them: ``zonal,edera``, with ``,`` alone or an empty one for ``""``.

    Raises ``InvalidInputError`` for what is no name of a handler (a DNS label, RuntimeClass's ``handler``).
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name and not _HANDLER.fullmatch(name):
            raise InvalidInputError(
                f"{name!r} is not a RuntimeClass's handler", hint="lower-case letters, digits and -, at most 63"
            )
    return frozenset(names)


def shares_host(config: cri.PodSandboxConfig) -> bool:
    """Whether the pod is to have the host's network, process ids, or interprocess communication."""
    namespaces = config.linux.security_context.namespace_options
    return cri.NODE in (namespaces.network, namespaces.pid, namespaces.ipc)


class Recent(Generic[Key, Value]):
    """A mapping that forgets what was not used for longest."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._items: OrderedDict[Key, Value] = OrderedDict()

    def __setitem__(self, key: Key, value: Value) -> None:
        self._items[key] = value
        self._items.move_to_end(key)
        if len(self._items) > self._most:
            self._items.popitem(last=False)

    def get(self, key: Key) -> Value | None:
        """The value, used now, or ``None``."""
        if key not in self._items:
            return None
        self._items.move_to_end(key)
        return self._items[key]


class Routes:
    """Ours, by id and by pod; what the other runtime has is known from its lists."""

    def __init__(self) -> None:
        self.ids: Recent[str, bool] = Recent(MAX_REMEMBERED)
        """Ids that are ours, or were: none of ours is ever another's."""
        self.pods: Recent[PodKey, bool] = Recent(MAX_REMEMBERED)
        """Whether a pod is ours."""

    def learn(self, sandboxes: Iterable[cri.PodSandbox], ours: bool) -> None:
        """Takes in a list of sandboxes."""
        for sandbox in sandboxes:
            if ours:
                self.ids[sandbox.id] = True
            self.pods[pod_key(sandbox.metadata)] = ours
