"""A client of CNI, the Container Network Interface (specification 1.1, and 0.3.1 to 1.0): it runs plugins.

A network is a list of plugins, each a program that is told what to do by environment variables and its configuration
on standard input. ``add`` runs them in order, each with the result of the one before, and ``delete`` backwards. Whoever
calls ``add`` writes down beforehand what he will call it with, so that ``delete`` can be called whatever happens.

Plugins and configurations are the operator's; still, what they print is bounded, and they get a time.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any, Final, cast

from zonal.errors import DeadlineError, InvalidInputError, ResourceExhaustedError, UnavailableError, ZonalError

VERSIONS: Final = ("1.1.0", "1.0.0", "0.4.0", "0.3.1")
"""Of the specification, the newest first."""
PLUGIN_FOLDERS: Final = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
"""Debian's place, and everybody else's."""
PLUGIN_TIMEOUT = 120.0
MAX_OUTPUT = 1 << 20
"""Bytes that a plugin may print."""
_MAX_QUOTED = 200
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_WITH_PREVIOUS_RESULT = ("1.1.0", "1.0.0", "0.4.0")
"""Versions that know CHECK, and give ``prevResult`` to DEL."""
_WITH_STATUS_AND_GC = ("1.1.0",)
_TRY_AGAIN, _BAD_CONFIGURATION = 11, (1, 2, 4, 7)
"""Error codes of the specification: 1 incompatible version, 2 unsupported field, 4 bad environment, 7 bad network."""

Result = dict[str, Any]
"""What plugins say of an attachment: ``interfaces``, ``ips``, ``routes``, ``dns``."""


class PluginError(ZonalError):
    """A plugin refused or failed; the message carries its words."""

    grpc_code = "UNAVAILABLE"


@dataclass(frozen=True)
class Configuration:
    """A network's configuration: what a ``.conflist`` file says."""

    name: str
    version: str
    plugins: tuple[dict[str, Any], ...]
    disable_check: bool = False
    disable_gc: bool = False

    def takes(self, capability: str) -> bool:
        """Whether a plugin of it says that it takes this."""
        offered: list[dict[str, Any]] = [plugin.get("capabilities") or {} for plugin in self.plugins]
        return any(each.get(capability) for each in offered)


@dataclass(frozen=True)
class Target:
    """What is to be attached: the interface ``interface`` of a network namespace, for a container."""

    container: str
    namespace: str
    """Path of the namespace; empty when it is gone, which only ``delete`` takes."""
    interface: str = "eth0"
    arguments: Mapping[str, str] = field(default_factory=dict[str, str])
    """CNI_ARGS."""
    capabilities: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """``portMappings``, ``mac`` and the like: passed to those plugins that say that they take them."""


def parse_configuration(document: object, source: str) -> Configuration:
    """The network of a configuration, a list of plugins or a single one. Raises ``InvalidInputError``."""

    def bad(why: str) -> InvalidInputError:
        return InvalidInputError(f"the network configuration {source} cannot be used: {why}")

    if not isinstance(document, dict):
        raise bad("it is no JSON object")
    values = cast("dict[str, Any]", document)
    name = values.get("name")
    if not isinstance(name, str) or not name or any(not (c.isalnum() or c in "-_.") for c in name):
        raise bad(f"name {name!r}")
    plugins: Any = values.get("plugins") if "plugins" in values else [values]
    if not isinstance(plugins, list) or not plugins:
        raise bad("it has no plugins")
    for plugin in cast("list[Any]", plugins):
        kind = cast("dict[str, Any]", plugin).get("type") if isinstance(plugin, dict) else None
        if not isinstance(kind, str) or not kind or "/" in kind:
            raise bad("a plugin has no type")
    several: list[Any] = values.get("cniVersions") or []
    known = [str(each) for each in several] + [str(values.get("cniVersion", "0.1.0"))]
    version = next((each for each in VERSIONS if each in known), None)
    if version is None:
        raise bad(f"it is of CNI {', '.join(known)}, and this Zonal knows {', '.join(VERSIONS)}")
    return Configuration(
        name,
        version,
        tuple(cast("list[dict[str, Any]]", plugins)),
        disable_check=bool(values.get("disableCheck")),
        disable_gc=bool(values.get("disableGC")),
    )


class Client:
    """Runs plugins. Its methods raise ``PluginError``, and ``UnavailableError`` for a plugin that is not installed."""

    def __init__(self, folders: Sequence[Path] = PLUGIN_FOLDERS, *, timeout: float = PLUGIN_TIMEOUT) -> None:
        self._folders = folders
        self._timeout = timeout

    async def add(self, network: Configuration, target: Target) -> Result:
        """Attaches; the result of the last plugin. When one fails the caller deletes what the ones before have made.

        Raises ``ResourceExhaustedError`` when there are no addresses left.
        """
        result: Result | None = None
        for plugin in network.plugins:
            printed = await self._run("ADD", network, plugin, target, result)
            result = _parse_result(printed, plugin)
        assert result is not None
        return result

    async def check(self, network: Configuration, target: Target, result: Result) -> None:
        """Raises when the attachment is not as ``add`` left it; a network that knows no checks is fine."""
        if network.version not in _WITH_PREVIOUS_RESULT or network.disable_check:
            return
        for plugin in network.plugins:
            await self._run("CHECK", network, plugin, target, result)

    async def delete(self, network: Configuration, target: Target, result: Result | None) -> None:
        """Undoes ``add``, also one that came to nothing; as often as wanted. Every plugin is run, and then the first
        one's failure raised."""
        failure: ZonalError | None = None
        for plugin in reversed(network.plugins):
            try:
                await self._run("DEL", network, plugin, target, result)
            except ZonalError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    async def status(self, network: Configuration) -> None:
        """Raises when the network is not ready for ``add``; a network that knows no such question is fine."""
        if network.version in _WITH_STATUS_AND_GC:
            for plugin in network.plugins:
                await self._run("STATUS", network, plugin, None, None)

    async def collect(self, network: Configuration, valid: Sequence[tuple[str, str]]) -> None:
        """Has plugins give up all that is of no attachment in ``valid``, pairs of container and interface."""
        if network.version not in _WITH_STATUS_AND_GC or network.disable_gc:
            return
        attachments = [{"containerID": container, "ifname": interface} for container, interface in valid]
        for plugin in network.plugins:
            await self._run("GC", network, plugin, None, None, {"cni.dev/valid-attachments": attachments})

    async def versions(self, plugin: str) -> tuple[str, ...]:
        """Which versions of the specification a plugin knows."""
        network = Configuration("versions", VERSIONS[1], ({"type": plugin},))
        printed = await self._run("VERSION", network, network.plugins[0], None, None)
        try:
            return tuple(str(each) for each in json.loads(printed)["supportedVersions"])
        except (ValueError, KeyError, TypeError) as error:
            raise PluginError(f"the network plugin {plugin} says nothing usable of its versions") from error

    async def _run(
        self,
        command: str,
        network: Configuration,
        plugin: Mapping[str, Any],
        target: Target | None,
        result: Result | None,
        more: Mapping[str, Any] | None = None,
    ) -> bytes:
        kind = str(plugin["type"])
        program = self._find(kind)
        environment = {"CNI_COMMAND": command, "CNI_PATH": ":".join(map(str, self._folders)), "PATH": _PATH}
        configuration = {**plugin, "name": network.name, "cniVersion": network.version, **(more or {})}
        if target is not None:
            environment |= {
                "CNI_CONTAINERID": target.container,
                "CNI_NETNS": target.namespace,
                "CNI_IFNAME": target.interface,
                "CNI_ARGS": ";".join(f"{name}={value}" for name, value in target.arguments.items()),
            }
            offered: dict[str, Any] = plugin.get("capabilities") or {}
            taken = {name for name, wanted in offered.items() if wanted}
            configuration.pop("capabilities", None)
            if chosen := {name: value for name, value in target.capabilities.items() if name in taken}:
                configuration["runtimeConfig"] = chosen
        if result is not None and (command != "DEL" or network.version in _WITH_PREVIOUS_RESULT):
            configuration["prevResult"] = result
        status, printed, said = await _execute(
            program, environment, json.dumps(configuration).encode(), self._timeout, f"the network plugin {kind}"
        )
        if status:
            raise _failure(kind, command, printed, said)
        return printed

    def find_all(self, network: Configuration) -> None:
        """Raises ``UnavailableError`` for a plugin that is not installed."""
        for plugin in network.plugins:
            self._find(str(plugin["type"]))

    def _find(self, kind: str) -> Path:
        for folder in self._folders:
            path = folder / kind
            if os.access(path, os.X_OK):
                return path
        raise UnavailableError(
            f"the network plugin {kind} is not installed in {' or '.join(map(str, self._folders))}",
            hint="apt-get install containernetworking-plugins",
        )


def _parse_result(printed: bytes, plugin: Mapping[str, Any]) -> Result:
    try:
        document: object = json.loads(printed)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        quoted = printed[:_MAX_QUOTED].decode(errors="replace")
        raise PluginError(f"the network plugin {plugin['type']} gave no result, but {quoted!r}")
    result = cast("Result", document)
    try:
        _check_result(result)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PluginError(f"the network plugin {plugin['type']} gave a result that cannot be: {error}") from error
    return result


def _check_result(result: Result) -> None:
    """Raises one of several for what later code could not read."""
    for each in result.get("ips") or ():
        ip_interface(str(each["address"]))
        if each.get("gateway"):
            ip_address(str(each["gateway"]))
    for each in result.get("routes") or ():
        ip_interface(str(each["dst"]))
        if each.get("gw"):
            ip_address(str(each["gw"]))
    dns: dict[str, Any] = result.get("dns") or {}
    for key in ("nameservers", "search", "options"):
        if not isinstance(dns.get(key) or [], list):
            raise ValueError(f"dns {key} is no list")


def _failure(kind: str, command: str, printed: bytes, said: bytes) -> ZonalError:
    code, message = 0, ""
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        document = json.loads(printed)
        code = int(document.get("code", 0))
        message = ": ".join(str(document[key]) for key in ("msg", "details") if document.get(key))
    message = message or said.decode(errors="replace").strip()[-1000:] or "it gave no reason"
    what = f"the network plugin {kind} could not do {command}: {message}"
    if "no IP addresses available" in message:
        return ResourceExhaustedError(what, hint="remove zones of this network, or make one with a larger --subnet")
    if code in _BAD_CONFIGURATION:
        return InvalidInputError(what)
    return PluginError(what, hint="try again in a moment" if code == _TRY_AGAIN else None)


async def _execute(
    program: Path, environment: Mapping[str, str], data: bytes, timeout: float, name: str
) -> tuple[int, bytes, bytes]:
    """Exit status, standard output and the end of standard error; the process has ended, whatever happens."""
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            program, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, start_new_session=True, limit=MAX_OUTPUT
        )
    except OSError as error:
        raise UnavailableError(f"{name} cannot be run: {error}", hint=f"is {program} a program?") from error
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(timeout):
            with suppress(BrokenPipeError, ConnectionResetError):
                process.stdin.write(data)
                await process.stdin.drain()
            process.stdin.close()
            printed, said = await asyncio.gather(_read(process.stdout), _read(process.stderr))
            return await process.wait(), printed, said
    except TimeoutError as error:
        raise DeadlineError(f"{name} did not end within {timeout:g} s", hint="see the host's log") from error
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            await process.wait()


async def _read(stream: asyncio.StreamReader) -> bytes:
    """To the end, of which no more than `MAX_OUTPUT` bytes are kept."""
    kept = bytearray()
    while chunk := await stream.read(1 << 16):
        kept += chunk[: MAX_OUTPUT - len(kept)]
    return bytes(kept)
