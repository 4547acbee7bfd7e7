"""The store's nodes for a zone's first console, which Xen's own tools know where to look for."""

from __future__ import annotations

from zonal.xen.store import Access, Entry, Permission


def plan_console(domain_id: int, *, frame: int, port: int) -> list[Entry]:
    """All nodes: ``frame`` is the machine frame of the console's page, ``port`` the zone's end of its event channel.

    A zone's kernel finds both in its start info; these are for people and tools. The type is not ``xenconsoled``, so
    that Xen's console daemon, should it run, leaves the ring alone: it has one reader, Zonal.
    """
    directory = f"/local/domain/{domain_id}/console"
    zone_may_read = (Permission(0), Permission(domain_id, Access.READ))
    values = {"ring-ref": frame, "port": port, "type": "zonal", "limit": 1 << 20, "output": "pty"}
    return [
        Entry(directory, b"", zone_may_read),
        *(Entry(f"{directory}/{name}", str(value), zone_may_read) for name, value in values.items()),
    ]
