"""Which capabilities a container has: docker's 14, more, fewer, or all of them (capabilities(7))."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from zonal.errors import InvalidInputError

CAPABILITIES: Final = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)
"""Those that a container has when nothing is said."""
_EVERY = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT "
    "SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP "
    "MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)
ALL_CAPABILITIES: Final = tuple(f"CAP_{name}" for name in _EVERY.split())
"""Those of linux/capability.h, in its order."""
ALL: Final = "ALL"


def parse_capability(text: str) -> str:
    """``net_admin``, ``CAP_NET_ADMIN`` or ``all``, as ``CAP_NET_ADMIN`` or `ALL`. Raises ``InvalidInputError``."""
    name = text.upper()
    if name in (ALL, f"CAP_{ALL}"):
        return ALL
    name = name if name.startswith("CAP_") else f"CAP_{name}"
    if name not in ALL_CAPABILITIES:
        raise InvalidInputError(
            f"there is no capability {text[:64]!r}", hint="a name of capabilities(7), such as NET_ADMIN, or ALL"
        )
    return name


def chosen_capabilities(add: Iterable[str], drop: Iterable[str], *, privileged: bool = False) -> tuple[str, ...]:
    """What a container may have at most, as docker reckons it; ``add`` and ``drop`` as ``parse_capability`` gives them.

    With ALL added, those that are dropped are missing; with ALL dropped, there are just those that are added.
    """
    added, dropped = set(add), set(drop)
    if privileged:
        return ALL_CAPABILITIES
    if ALL in added:
        wanted = set(ALL_CAPABILITIES) - dropped
    elif ALL in dropped:
        wanted = added
    else:
        wanted = (set(CAPABILITIES) - dropped) | added
    return (
        *(n for n in CAPABILITIES if n in wanted),
        *(n for n in ALL_CAPABILITIES if n in wanted - set(CAPABILITIES)),
    )


def process_capabilities(names: Sequence[str], user: str) -> dict[str, list[str]]:
    """``process.capabilities`` of the OCI runtime configuration, for a process of ``user`` ("" is root)."""
    listed = list(names)
    if user.partition(":")[0] in {"", "0", "root"}:
        return {"bounding": listed, "effective": listed, "permitted": listed}
    # crun would keep what is listed across the change of user; docker gives another user than root none of it.
    return {"bounding": listed, "effective": [], "permitted": []}
