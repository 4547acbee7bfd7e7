"""Checks of the hypervisor and of the host's ways to it: devices, versions, memory, domains, protections."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from functools import partial

from zonal.daemon.checks.finding import Finding, Place, error, guarded, ok, warning
from zonal.errors import ZonalError
from zonal.xen import domctl
from zonal.xen.abi.privcmd import PAGE_SIZE
from zonal.xen.domain import HOST_ID, domain_path
from zonal.xen.domctl import DomainInfo
from zonal.xen.hypercall import Hypervisor
from zonal.xen.machine import Machine, read_log, read_machine
from zonal.xen.store import Store

STORE_TIMEOUT = 5.0
"""Seconds for xenstored."""
MIN_FREE = 64 << 20
"""Bytes that the smallest zone takes."""
WANTED_FREE = 512 << 20
_DEVICES = {
    "dev/xen/privcmd": "xen-privcmd",
    "dev/xen/hypercall": "xen-privcmd",
    "dev/xen/evtchn": "xen-evtchn",
    "dev/xen/gntdev": "xen-gntdev",
}
_OFF = {"0", "no", "off", "false", "disable"}
_PROTECTIONS = ("xpti", "spec-ctrl", "pv-l1tf", "ibrs", "l1d-flush")
_MOST_NAMED = 8
"""Domains that are named in one finding."""
_NAME_LENGTH = 40


async def examine(place: Place) -> list[Finding]:
    """All of them; what needs the hypervisor is left out where it cannot be reached."""
    findings = guarded(devices, place)
    if not place.has("dev/xen"):
        return findings
    store: Store | None = None
    try:
        async with asyncio.timeout(STORE_TIMEOUT):
            store = await Store.connect()
            await store.list("/local/domain")
        findings.append(ok("xenstored", "it answers"))
    except (ZonalError, OSError, TimeoutError) as failure:
        why = f"not within {STORE_TIMEOUT:g} s" if isinstance(failure, TimeoutError) else str(failure)
        findings.append(error("xenstored", f"it does not answer: {why}", "systemctl restart xenstored, or its log"))
    try:
        with Hypervisor() as hypervisor:
            domctl.check_interface(hypervisor)
            machine = read_machine(hypervisor)
            log = read_log(hypervisor).data.decode("utf-8", "replace")
            domains = domctl.list_domains(hypervisor)
            names = await _names(store, domains) if store is not None else {}
            for check in (
                partial(version, machine),
                partial(memory, machine),
                partial(iommu, machine),
                partial(protections, machine, log),
                partial(foreign, domains, names),
            ):
                findings += guarded(check, place)
    except ZonalError as failure:
        findings.append(error("hypervisor", failure.message, failure.hint or "boot Xen 4.19 or 4.20"))
    finally:
        if store is not None:
            store.close()
    return findings


def devices(place: Place) -> Iterator[Finding]:
    """The host's doors to Xen."""
    capabilities = place.read("proc/xen/capabilities")
    if capabilities is None and not place.has("dev/xen"):
        yield error("xen", "this Linux does not run under Xen", "boot Xen, or use the lab: zonal lab up")
        return
    if capabilities is None:
        yield warning("xen", "/proc/xen is not mounted", "mount -t xenfs xenfs /proc/xen")
    elif "control_d" not in capabilities:
        yield error("xen", "this is a guest of Xen, and not its host (dom0)", "run zonald in the host")
    missing = {path: module for path, module in _DEVICES.items() if not place.has(path)}
    for path, module in missing.items():
        yield error("devices", f"/{path} is missing", f"modprobe {module}")
    if not missing:
        yield ok("devices", "privcmd, hypercall, evtchn and gntdev are there")


def version(machine: Machine, _place: Place) -> Iterator[Finding]:
    """Xen itself, and what it can run."""
    if "PV" not in machine.kinds:
        yield error("xen", f"Xen {machine.version} runs no 64-bit PV domains", "use a Xen that is built with CONFIG_PV")
        return
    yield ok(
        "xen", f"Xen {machine.version}, scheduler {machine.scheduler}, for zones of kind {', '.join(machine.kinds)}"
    )


def memory(machine: Machine, place: Place) -> Iterator[Finding]:
    """What is left for zones."""
    free = machine.free >> 20
    if machine.free < MIN_FREE:
        yield error("memory", f"{free} MiB are free, and the smallest zone takes 64", "stop zones, or shrink the host")
    elif machine.free < WANTED_FREE:
        yield warning("memory", f"only {free} MiB are free for zones", "stop some, or give the host less: dom0_mem=")
    else:
        yield ok("memory", f"{free} MiB of {machine.memory >> 20} are free for zones")
    if not re.search(r"(^|\s)dom0_mem=", machine.command_line):
        yield warning(
            "memory",
            "the host has all the memory that nobody else had at boot, for dom0_mem is not set",
            "add dom0_mem=2G,max:2G or the like to Xen's command line",
        )


def iommu(machine: Machine, _place: Place) -> Iterator[Finding]:
    """What confines devices that are given to zones."""
    if "iommu" in machine.features:
        yield ok("iommu", "Xen uses one: devices of driver zones are confined")
    else:
        yield warning(
            "iommu",
            "there is none: zones are as safe as ever, but a driver zone could reach all memory with its device",
            "turn VT-d or AMD-Vi on in the firmware, or give no devices to zones that you do not trust",
        )


def protections(machine: Machine, log: str, place: Place) -> Iterator[Finding]:
    """Against what processors leak: page-table isolation of PV domains and the like."""
    off = weakened(machine.command_line)
    if off:
        yield warning(
            "protections",
            f"Xen's command line switches some off: {' '.join(off)}",
            "take that away where zones run code that you do not trust",
        )
    else:
        found = re.search(r"XPTI \(64-bit PV only\): ([^\n]{1,100})", log)
        how = f"XPTI: {found[1].strip()}" if found else "Xen has its defaults"
        yield ok("protections", f"none is switched off; {how}")
    folder = place.root / "sys/devices/system/cpu/vulnerabilities"
    open_ones = [
        path.name for path in sorted(folder.glob("*")) if path.is_file() and path.read_text().startswith("Vulnerable")
    ]
    if open_ones:
        yield warning(
            "protections",
            f"the host's Linux is open to {', '.join(open_ones)}",
            "update the processor's microcode (Xen: ucode=scan) and the host's kernel",
        )


def weakened(command_line: str) -> list[str]:
    """Words of Xen's command line that switch protections off (docs/misc/xen-command-line of Xen)."""
    found: list[str] = []
    for word in command_line.split():
        name, _, value = word.partition("=")
        bare = name.removeprefix("no-")
        if bare in _PROTECTIONS and (bare != name or value.split(",")[0].lower() in _OFF):
            found.append(word)
    return found


def foreign(domains: list[DomainInfo], names: Mapping[int, tuple[str, bool]], place: Place) -> Iterator[Finding]:
    """Domains that are no zone's: other tools', left-over ones, those that cannot die."""
    try:
        handles = {bytes.fromhex(path.name[:32]) for path in (place.state / "zones").iterdir() if len(path.name) == 64}
    except (OSError, ValueError):
        handles = set[bytes]()
    zones = [each for each in domains if each.domain_id != HOST_ID and each.handle in handles]
    others = [each for each in domains if each.domain_id != HOST_ID and each.handle not in handles]
    dying = [each for each in domains if each.dying]
    ours = [each for each in others if not each.dying and names.get(each.domain_id, ("", False))[1]]
    theirs = [each for each in others if not each.dying and each not in ours]
    if dying:
        yield warning(
            "domains",
            f"{_listed(dying, names)}: destroyed, but some of the memory is still in use",
            "a process holds pages of it: systemctl restart zonald, and see `zonal host dmesg`",
        )
    if ours:
        yield warning("domains", f"{_listed(ours, names)}: of Zonal, but of no zone that it knows", "xl destroy DOMAIN")
    size = sum(each.total_pages for each in theirs) * PAGE_SIZE >> 20
    more = f"; of other tools: {_listed(theirs, names)}, with {size} MiB" if theirs else ""
    yield ok("domains", f"of zones: {len(zones)}{more}")


async def _names(store: Store, domains: list[DomainInfo]) -> dict[int, tuple[str, bool]]:
    """Names of domains as the store has them, and whether they have a directory of Zonal's."""
    found: dict[int, tuple[str, bool]] = {}
    for each in domains:
        try:
            path = domain_path(each.domain_id)
            name = (await store.find(f"{path}/name") or b"").decode("utf-8", "replace")
            printable = "".join(c if c.isprintable() else "?" for c in name[:_NAME_LENGTH])
            found[each.domain_id] = printable, await store.exists(f"{path}/zonal")
        except ZonalError:
            continue
    return found


def _listed(domains: list[DomainInfo], names: Mapping[int, tuple[str, bool]]) -> str:
    shown = [f"{each.domain_id} {names.get(each.domain_id, ('', False))[0]}".strip() for each in domains[:_MOST_NAMED]]
    more = f" and {len(domains) - _MOST_NAMED} more" if len(domains) > _MOST_NAMED else ""
    return f"domain{'s' if len(domains) > 1 else ''} {', '.join(shown)}{more}"
