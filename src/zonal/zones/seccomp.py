"""The seccomp filter of a container: ours, a user's profile in docker's format, or none.

Docker's format is the OCI runtime configuration's ``linux.seccomp`` with ``archMap`` for ``architectures``, and with
``includes`` and ``excludes`` that choose entries by capability and architecture. It is compiled here, in the host,
where what is wrong with it can be said before a zone is made, and once for all zones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any, Final, cast

from zonal.errors import InvalidInputError
from zonal.zones.bpf import (
    ALLOW,
    ERRNO,
    KILL_PROCESS,
    KILL_THREAD,
    LOG,
    TRACE,
    TRAP,
    Condition,
    Verdict,
    compile_filter,
)
from zonal.zones.capabilities import parse_capability
from zonal.zones.seccomp_default import EPERM, default_verdicts
from zonal.zones.system_calls import CALLS_32, CALLS_64

UNCONFINED: Final = "unconfined"
MAX_PROFILE: Final = 1 << 20
"""Bytes of a user's profile."""

_ACTIONS: Final = {
    "SCMP_ACT_ALLOW": ALLOW,
    "SCMP_ACT_ERRNO": ERRNO,
    "SCMP_ACT_KILL": KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": KILL_PROCESS,
    "SCMP_ACT_LOG": LOG,
    "SCMP_ACT_TRACE": TRACE,
    "SCMP_ACT_TRAP": TRAP,
}
_OPERATORS: Final = frozenset({"EQ", "NE", "GT", "GE", "LT", "LE", "MASKED_EQ"})
_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,63}")
_MAX_ERRNO: Final = 4095
_MAX_ARGUMENT: Final = (1 << 64) - 1
_MAX_NAMES: Final = 100_000


def seccomp_program(profile: str, capabilities: Collection[str], *, privileged: bool = False) -> bytes | None:
    """The filter as the kernel takes it, or ``None`` for none; see ``zonal.zones.bpf``.

    ``profile`` is empty for ours (which a privileged container does without), `UNCONFINED`, or a JSON document. Raises
    ``InvalidInputError``.
    """
    if profile == UNCONFINED or (privileged and not profile):
        return None
    return _program(profile, frozenset(capabilities))


@lru_cache(maxsize=64)
def _program(profile: str, capabilities: frozenset[str]) -> bytes:
    wide, narrow, default = _Profile(profile, capabilities).verdicts if profile else default_verdicts(capabilities)
    try:
        return compile_filter(wide, narrow, default)
    except OverflowError as error:
        raise _wrong(f"is too long: {error}") from error


class _Profile:
    """A user's profile, read."""

    def __init__(self, text: str, capabilities: frozenset[str]) -> None:
        self._capabilities = capabilities
        if len(text) > MAX_PROFILE:
            raise _wrong(f"has more than {MAX_PROFILE} bytes")
        try:
            document: Any = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _wrong(f"is not JSON: {error}") from error
        root = _object(document, "the whole")
        default = _action(root.get("defaultAction"), root.get("defaultErrnoRet"), "defaultAction")
        if "listenerPath" in root:
            raise _wrong("asks for a listener, and nobody listens in a zone", hint="leave out listenerPath")
        narrow = "SCMP_ARCH_X86" in _architectures(root)
        rules: dict[str, list[tuple[tuple[Condition, ...], int]]] = {}
        last: dict[str, int] = {}
        names = 0
        for position, entry in enumerate(_list(root.get("syscalls"), "syscalls")):
            label = f"syscalls[{position}]"
            rule = _object(entry, label)
            listed = [*_list(rule.get("names"), f"{label}.names"), *([rule["name"]] if rule.get("name") else [])]
            names += len(listed)
            if names > _MAX_NAMES:
                raise _wrong(f"has more than {_MAX_NAMES} names of calls")
            action = _action(rule.get("action"), rule.get("errnoRet"), f"{label}.action")
            alternatives = _conditions(rule, label)
            if not self._meant(rule, label):
                continue
            for name in listed:
                if not isinstance(name, str) or not _NAME.fullmatch(name):
                    raise _wrong(f"has {name!r} at {label}, which is no name of a call")
                if alternatives:
                    rules.setdefault(name, []).extend((conditions, action) for conditions in alternatives)
                else:
                    last.setdefault(name, action)
        verdicts = {name: Verdict(last.get(name, default), tuple(rules.get(name, ()))) for name in {*rules, *last}}
        self.verdicts = (
            _by_number(verdicts, CALLS_64),
            _by_number(verdicts, CALLS_32) if narrow else None,
            default,
        )
        """As ``compile_filter`` takes them. A name that no kernel has says nothing, as docker has it."""

    def _meant(self, rule: Mapping[str, Any], label: str) -> bool:
        """Whether an entry holds for this container; every kernel of a zone is new enough for ``minKernel``."""
        includes = _object(rule.get("includes") or {}, f"{label}.includes")
        excludes = _object(rule.get("excludes") or {}, f"{label}.excludes")
        for where, filters in (("includes", includes), ("excludes", excludes)):
            if unknown := set(filters) - {"caps", "arches", "minKernel"}:
                raise _wrong(f"has {min(unknown)!r} at {label}.{where}", hint="caps, arches and minKernel are known")
        wanted = [parse_capability(str(each)) for each in _list(includes.get("caps"), f"{label}.includes.caps")]
        unwanted = [parse_capability(str(each)) for each in _list(excludes.get("caps"), f"{label}.excludes.caps")]
        arches = _list(includes.get("arches"), f"{label}.includes.arches")
        return (
            all(each in self._capabilities for each in wanted)
            and not any(each in self._capabilities for each in unwanted)
            and (not arches or "amd64" in arches)
            and "amd64" not in _list(excludes.get("arches"), f"{label}.excludes.arches")
            and "minKernel" not in excludes
        )


def _architectures(root: Mapping[str, Any]) -> set[object]:
    found: set[object] = {"SCMP_ARCH_X86_64"}
    maps = _list(root.get("archMap"), "archMap")
    plain = _list(root.get("architectures"), "architectures")
    if maps and plain:
        raise _wrong("has both archMap and architectures", hint="leave out one of them")
    for position, entry in enumerate(maps):
        each = _object(entry, f"archMap[{position}]")
        if each.get("architecture") == "SCMP_ARCH_X86_64":
            found.update(map(str, _list(each.get("subArchitectures"), f"archMap[{position}].subArchitectures")))
    found.update(map(str, plain))
    return found


def _conditions(rule: Mapping[str, Any], label: str) -> list[tuple[Condition, ...]]:
    """The alternatives under which a rule holds; none when it has no conditions."""
    conditions: list[Condition] = []
    for position, entry in enumerate(_list(rule.get("args"), f"{label}.args")):
        where = f"{label}.args[{position}]"
        each = _object(entry, where)
        operator = str(each.get("op", "")).removeprefix("SCMP_CMP_")
        if operator not in _OPERATORS:
            raise _wrong(f"has no operator that is known at {where}: {each.get('op')!r}", hint="such as SCMP_CMP_EQ")
        index = _number(each.get("index", 0), 5, f"{where}.index")
        value = _number(each.get("value", 0), _MAX_ARGUMENT, f"{where}.value")
        other = _number(each.get("valueTwo", 0), _MAX_ARGUMENT, f"{where}.valueTwo")
        conditions.append(Condition(index, operator, value, other))
    if len(conditions) > 6:
        raise _wrong(f"has {len(conditions)} conditions at {label}", hint="6 at most")
    if len({condition.index for condition in conditions}) < len(conditions):
        # runc and crun take several conditions on one argument for alternatives.
        return [(condition,) for condition in conditions]
    return [tuple(conditions)] if conditions else []


def _action(value: Any, errno: Any, label: str) -> int:
    if value == "SCMP_ACT_NOTIFY":
        raise _wrong(f"asks at {label} to be told, and nobody listens in a zone", hint="such as SCMP_ACT_ERRNO")
    if value not in _ACTIONS:
        raise _wrong(f"has no action that is known at {label}: {value!r}", hint=f"one of {', '.join(_ACTIONS)}")
    action = _ACTIONS[value]
    if action not in (ERRNO, TRACE):
        return action
    return action | (EPERM if errno is None else _number(errno, _MAX_ERRNO, label))


def _by_number(verdicts: Mapping[str, Verdict], calls: Mapping[str, int]) -> dict[int, Verdict]:
    return {calls[name]: verdict for name, verdict in verdicts.items() if name in calls}


def _number(value: Any, most: int, label: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise _wrong(f"has {value!r} at {label}", hint=f"a number up to {most}")
    return value


def _object(value: Any, label: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(f"has something else than an object at {label}")
    return cast("dict[str, Any]", value)


def _list(value: Any, label: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise _wrong(f"has something else than an array at {label}")
    return cast("list[Any]", value)


def _wrong(what: str, hint: str = "docker's documentation on seccomp has the format") -> InvalidInputError:
    return InvalidInputError(f"the seccomp profile {what}", hint=hint)
