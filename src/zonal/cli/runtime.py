"""How a workload is run and confined inside of its zone, as people write it: docker's options, by concept.

``runtime_options`` adds them all to a command, which gets what was given as one argument, ``runtime``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from zonal.cli.hooks import HOOK_OPTIONS, parse_hooks
from zonal.cli.labels import LABEL_OPTIONS, add_labels, parse_pairs
from zonal.cli.limits import LIMIT_OPTIONS, parse_limits, parse_shm
from zonal.cli.namespaces import NAMESPACE_OPTIONS, parse_namespaces
from zonal.cli.security import SECURITY_OPTIONS, parse_security
from zonal.errors import InvalidInputError

if TYPE_CHECKING:
    from zonal.api import control_pb2 as pb

_OPTIONS = (*SECURITY_OPTIONS, *LIMIT_OPTIONS, *NAMESPACE_OPTIONS, *LABEL_OPTIONS, *HOOK_OPTIONS)


def runtime_options(command: Callable[..., int]) -> Callable[..., int]:
    """Adds the options to ``command``; their values come as ``runtime``, for ``add_runtime``."""

    @functools.wraps(command)
    def gathered(**values: Any) -> int:
        others = {name: value for name, value in values.items() if name not in names}
        return command(**others, runtime={name: values[name] for name in names})

    decorated: Callable[..., int] = gathered
    before = len(_parameters(gathered))
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    names = {str(parameter.name) for parameter in _parameters(decorated)[before:]}
    return decorated


def add_runtime(spec: pb.RunSpec, values: Mapping[str, Any]) -> None:
    """Puts what ``runtime_options`` have given into a run's spec. Raises ``InvalidInputError``."""
    given = dict(values)
    for text in _texts(given.values()):
        _check_unicode(text)
    runtime = spec.runtime
    runtime.security.CopyFrom(parse_security(given))
    runtime.limits.CopyFrom(parse_limits(given))
    runtime.namespaces.CopyFrom(parse_namespaces(given))
    runtime.device_rules.extend(given["device_cgroup_rules"])
    runtime.sysctls.update(parse_pairs("--sysctl", given["sysctls"], value_needed=True))
    runtime.annotations.update(parse_pairs("--annotation", given["annotations"]))
    runtime.init = given["init"]
    runtime.domainname = given["domainname"]
    runtime.shm_bytes = parse_shm(given["shm_size"])
    runtime.hooks.extend(parse_hooks(given["hooks_dirs"], spec))
    add_labels(spec, given)


def _parameters(command: Callable[..., object]) -> list[Any]:
    return getattr(command, "__click_params__", [])


def _texts(values: Iterable[object]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, tuple):
            yield from _texts(cast("tuple[object, ...]", value))


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"{text[:80]!r} is not valid UTF-8", hint="use UTF-8") from error
