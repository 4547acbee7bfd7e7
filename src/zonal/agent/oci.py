"""What the zone adds to the OCI documents that the host sends: users, devices, maps of ids."""

from __future__ import annotations

from zonal.agent.params import CallError
from zonal.agent.users import UserError, resolve_user

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zonal.agent.params import Params
    from zonal.agent.protocol.cbor import Value
    from zonal.agent.user_namespace import IdMaps


def add_devices(config: dict[str, Value], params: Params) -> None:
    """Puts the zone's devices that are wanted into an OCI configuration. Raises ``CallError``."""
    linux = map_in(config, "linux")
    wanted, every = params.list("devices"), params.flag("every_device")
    if not wanted and not every:
        return
    from zonal.agent import devices  # rare, and start-up counts

    nodes, rules = devices.named_nodes(wanted)
    list_in(map_in(linux, "resources"), "devices").extend(rules)
    if has_namespace(linux, "user"):
        # No node can be made there. crun would take them from the zone, but by the path in the container.
        list_in(config, "mounts").extend(devices.bind_mounts(wanted))
        return
    chosen = {str(node["path"]) for node in (*nodes, *list_in(linux, "devices")) if isinstance(node, dict)}
    others = [node for node in devices.all_nodes() if isinstance(node, dict) and node["path"] not in chosen]
    list_in(linux, "devices").extend([*nodes, *(others if every else [])])


def set_user(process: dict[str, Value], root: str, params: Params) -> None:
    """Puts the user's numbers and home directory into an OCI process object."""
    if not params.has("user"):
        return
    try:
        user = resolve_user(root, params.text("user"), [str(group) for group in params.list("groups")])
    except UserError as error:
        raise CallError("no-user", str(error)) from error
    map_in(process, "user").update(uid=user.uid, gid=user.gid, additionalGids=list(user.groups))
    environment = process.setdefault("env", [])
    if not isinstance(environment, list):
        raise CallError("invalid", "env must be an array")
    if not any(isinstance(entry, str) and entry.startswith("HOME=") for entry in environment):
        environment.append(f"HOME={user.home}")


def map_in(values: dict[str, Value], key: str) -> dict[str, Value]:
    """The map at ``key``, made if it is not there. Raises ``CallError`` when it is something else."""
    inner = values.setdefault(key, {})
    if not isinstance(inner, dict):
        raise CallError("invalid", f"{key} must be a map")
    return inner


def list_in(values: dict[str, Value], key: str) -> list[Value]:
    """The array at ``key``, likewise."""
    inner = values.setdefault(key, [])
    if not isinstance(inner, list):
        raise CallError("invalid", f"{key} must be an array")
    return inner


def has_namespace(linux: dict[str, Value], kind: str) -> bool:
    """Whether a container has a namespace of this kind of its own."""
    return kind in [each.get("type") for each in list_in(linux, "namespaces") if isinstance(each, dict)]


def has_own_namespace(linux: dict[str, Value], kind: str) -> bool:
    """The same, and that it does not join another's."""
    spaces = [each for each in list_in(linux, "namespaces") if isinstance(each, dict)]
    return any(each.get("type") == kind and not each.get("path") for each in spaces)


def id_maps(params: Params) -> IdMaps | None:
    """Those that a root is to have, if any. Raises ``CallError`` and ``OSError``."""
    uids, gids = params.list("uids"), params.list("gids")
    if not uids:
        return None
    from zonal.agent.user_namespace import IdMaps, read_maps  # rare, and start-up counts

    return IdMaps(read_maps(uids, "uids"), read_maps(gids, "gids"))
