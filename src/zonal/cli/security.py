"""``--cap-add``, ``--security-opt``, ``--privileged`` and the like: what a workload may do, with docker's syntax."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zonal.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from zonal.api import control_pb2 as pb

SECURITY_OPTIONS = (
    click.option("--cap-add", "cap_add", multiple=True, metavar="CAPABILITY", help="Such as NET_ADMIN, or ALL."),
    click.option("--cap-drop", "cap_drop", multiple=True, metavar="CAPABILITY", help="Likewise."),
    click.option("--privileged", is_flag=True, help="Everything in the zone: capabilities, devices, /sys."),
    click.option(
        *("--security-opt", "security_opts"),
        multiple=True,
        metavar="OPTION",
        help="no-new-privileges, seccomp=unconfined, seccomp=FILE, systempaths=unconfined.",
    ),
    click.option("--group-add", "groups", multiple=True, metavar="GROUP", help="A further group, by name or number."),
    click.option(
        *("--device-cgroup-rule", "device_cgroup_rules"),
        multiple=True,
        metavar="RULE",
        help="Devices that may be opened, such as 'c 10:200 rwm'.",
    ),
)

_MAX_PROFILE = 1 << 20
_HINT = "no-new-privileges, seccomp=unconfined, seccomp=FILE, systempaths=unconfined or writable-cgroups=true"


def parse_security(values: Mapping[str, Any]) -> pb.Security:
    """What `SECURITY_OPTIONS` have given. Raises ``InvalidInputError`` and ``NotFoundError``."""
    from zonal.api import control_pb2 as pb

    security = pb.Security(
        # Also several at once, with commas, as podman has it.
        cap_add=[name for text in values["cap_add"] for name in text.split(",")],
        cap_drop=[name for text in values["cap_drop"] for name in text.split(",")],
        privileged=values["privileged"],
        groups=values["groups"],
    )
    for text in values["security_opts"]:
        _apply(security, text)
    return security


def _apply(security: pb.Security, text: str) -> None:
    # An equals sign or, as docker wrote it once, a colon.
    place = min((at for at in (text.find("="), text.find(":")) if at >= 0), default=len(text))
    name, value = text[:place], text[place + 1 :]
    match name:
        case "no-new-privileges":
            security.no_new_privileges = _truth(value, text) if place < len(text) else True
        case "seccomp":
            security.seccomp = _profile(value)
        case "systempaths" if value == "unconfined":
            security.unmasked = True
        case "writable-cgroups":
            security.writable_cgroups = _truth(value, text) if place < len(text) else True
        case "apparmor" | "label":
            # What they would switch off is off.
            if value not in ("unconfined", "disable"):
                module = "AppArmor" if name == "apparmor" else "SELinux"
                raise InvalidInputError(
                    f"--security-opt {text}: a zone's kernel has no {module}",
                    hint="leave it out: the border is the zone",
                )
        case _:
            raise InvalidInputError(f"--security-opt {text[:80]!r} is unknown", hint=_HINT)


def _profile(value: str) -> str:
    if value in ("unconfined", "builtin", "default", ""):
        return "unconfined" if value == "unconfined" else ""
    try:
        with Path(value).expanduser().open("rb") as file:
            data = file.read(_MAX_PROFILE + 1)
    except FileNotFoundError as error:
        raise NotFoundError(
            f"there is no seccomp profile {value}", hint="give the path of a file, or unconfined"
        ) from error
    except OSError as error:
        raise InvalidInputError(f"the seccomp profile {value} cannot be read: {error.strerror}") from error
    if len(data) > _MAX_PROFILE:
        raise InvalidInputError(f"the seccomp profile {value} has more than {_MAX_PROFILE} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"the seccomp profile {value} is not UTF-8", hint="JSON is wanted") from error


def _truth(value: str, text: str) -> bool:
    if value.lower() in ("true", "1", "false", "0"):
        return value.lower() in ("true", "1")
    raise InvalidInputError(f"--security-opt {text[:80]}: {value[:32]!r} is neither true nor false")
