"""The Xen store (xenstored): an asyncio client.

>>> async with await Store.connect() as store:
...     name = await store.read_text("/local/domain/0/name")
"""

from __future__ import annotations

from zonal.xen.store.client import Store, Transaction
from zonal.xen.store.errors import (
    StoreClosedError,
    StoreConflictError,
    StoreError,
    StoreNotFoundError,
    StoreProtocolError,
    StoreRequestError,
    StoreValueError,
)
from zonal.xen.store.nodes import Nodes
from zonal.xen.store.watch import Watch
from zonal.xen.store.wire import Access, Entry, Permission, decode_text, parse_integer

__all__ = [
    "Access",
    "Entry",
    "Nodes",
    "Permission",
    "Store",
    "StoreClosedError",
    "StoreConflictError",
    "StoreError",
    "StoreNotFoundError",
    "StoreProtocolError",
    "StoreRequestError",
    "StoreValueError",
    "Transaction",
    "Watch",
    "decode_text",
    "parse_integer",
]
