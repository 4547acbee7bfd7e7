from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from zonal.daemon.checks import Finding, Level, Place, examine, linux, network, xen
from zonal.daemon.checks.finding import guarded
from zonal.errors import UnavailableError
from zonal.xen.abi.domctl import XEN_DOMINF_DYING
from zonal.xen.domctl import DomainInfo
from zonal.xen.machine import Machine

MIB = 1 << 20
MACHINE = Machine(
    version="4.20.4",
    capabilities="xen-3.0-x86_64 hvm-3.0-x86_64",
    command_line="dom0_mem=1G,max:1G loglvl=error",
    scheduler="credit2",
    features=("pv", "hvm", "hap", "iommu"),
    cpus=2,
    threads_per_core=1,
    cores_per_socket=2,
    nodes=1,
    cpu_khz=2_000_000,
    memory=4096 * MIB,
    free=2048 * MIB,
    scrubbing=0,
)


def levels(findings: list[Finding]) -> list[Level]:
    return [each.level for each in findings]


def put(root: Path, *files: str, text: str = "") -> None:
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_the_doors_to_xen(tmp_path: Path) -> None:
    place = Place(tmp_path)
    (finding,) = xen.devices(place)
    assert finding.level is Level.ERROR
    assert "does not run under Xen" in finding.text
    put(tmp_path, *(f"dev/xen/{name}" for name in ("privcmd", "hypercall", "evtchn", "gntdev")))
    put(tmp_path, "proc/xen/capabilities", text="control_d\n")
    assert levels(list(xen.devices(place))) == [Level.OK]
    (tmp_path / "dev/xen/gntdev").unlink()
    (missing,) = xen.devices(place)
    assert (missing.level, missing.advice) == (Level.ERROR, "modprobe xen-gntdev")
    put(tmp_path, "proc/xen/capabilities", text="\n")
    assert levels(list(xen.devices(place))) == [Level.ERROR, Level.ERROR]


def test_what_the_hypervisor_says(tmp_path: Path) -> None:
    place = Place(tmp_path)
    for check in (xen.version, xen.memory, xen.iommu):
        assert levels(list(check(MACHINE, place))) == [Level.OK], check
    assert MACHINE.kinds == ("PV", "PVH")
    assert replace(MACHINE, features=("pv", "hvm")).kinds == ("PV",)
    assert levels(list(xen.version(replace(MACHINE, features=("hvm", "hap")), place))) == [Level.ERROR]
    assert levels(list(xen.memory(replace(MACHINE, free=63 * MIB), place))) == [Level.ERROR]
    assert levels(list(xen.memory(replace(MACHINE, free=100 * MIB), place))) == [Level.WARNING]
    assert levels(list(xen.memory(replace(MACHINE, command_line="dom0_max_vcpus=1"), place))) == [
        Level.OK,
        Level.WARNING,
    ]
    assert levels(list(xen.iommu(replace(MACHINE, features=("pv",)), place))) == [Level.WARNING]


def test_protections_that_are_switched_off_are_named(tmp_path: Path) -> None:
    assert xen.weakened("xpti=dom0=false spec-ctrl=no-xen no-xpti loglvl=all xpti=off,domu spec-ctrl=0") == [
        "no-xpti",
        "xpti=off,domu",
        "spec-ctrl=0",
    ]
    place = Place(tmp_path)
    log = "(XEN)   XPTI (64-bit PV only): Dom0 enabled, DomU enabled (with PCID)\n(XEN) more\n"
    (finding,) = xen.protections(MACHINE, log, place)
    assert finding.level is Level.OK
    assert "DomU enabled (with PCID)" in finding.text
    put(tmp_path, "sys/devices/system/cpu/vulnerabilities/mds", text="Vulnerable: no microcode\n")
    put(tmp_path, "sys/devices/system/cpu/vulnerabilities/l1tf", text="Not affected\n")
    found = list(xen.protections(replace(MACHINE, command_line="spec-ctrl=no"), "", place))
    assert levels(found) == [Level.WARNING, Level.WARNING]
    assert "spec-ctrl=no" in found[0].text
    assert "open to mds" in found[1].text


def domain(number: int, handle: bytes = bytes(16), flags: int = 0) -> DomainInfo:
    return DomainInfo(number, handle, flags, 25600, 25600, 0, 0, 1)


def test_domains_that_are_no_zones(tmp_path: Path) -> None:
    zone_id = "ab" * 32
    (tmp_path / "zones" / zone_id).mkdir(parents=True)
    place = Place(tmp_path, state=tmp_path)
    mine = domain(1, bytes.fromhex(zone_id[:32]))
    (fine,) = xen.foreign([domain(0), mine], {}, place)
    assert (fine.level, fine.text) == (Level.OK, "of zones: 1")
    others = [domain(0), mine, domain(2), domain(3, flags=XEN_DOMINF_DYING), domain(4)]
    names = {2: ("other", False), 4: ("lost", True)}
    dying, lost, told = xen.foreign(others, names, place)
    assert dying.text.startswith("domain 3: destroyed")
    assert lost.text.startswith("domain 4 lost: of Zonal")
    assert told.text == "of zones: 1; of other tools: domain 2 other, with 100 MiB"
    (many,) = xen.foreign([domain(number) for number in range(1, 30)], {}, place)
    assert "and 21 more" in many.text


def test_drivers_kernels_and_plugins(tmp_path: Path) -> None:
    place = Place(tmp_path, state=tmp_path / "state", release="6.12.1")
    assert levels(list(linux.drivers(place))) == [Level.ERROR] * 3
    put(tmp_path, "dev/loop-control", *(f"sys/bus/xen-backend/drivers/{name}/bind" for name in ("vbd", "vif")))
    assert levels(list(linux.drivers(place))) == [Level.OK]
    assert levels(list(linux.kernel(place))) == [Level.WARNING]
    assert levels(list(linux.zone_kernels(place))) == [Level.ERROR]
    put(tmp_path, "boot/vmlinuz-6.12.1", "lib/modules/6.12.1/modules.dep")
    assert levels(list(linux.kernel(place))) == levels(list(linux.zone_kernels(place))) == [Level.OK]
    assert levels(list(network.plugins(place))) == [Level.ERROR]
    put(tmp_path, "usr/lib/cni/bridge", "opt/cni/bin/host-local")
    (finding,) = network.plugins(place)
    assert (finding.level, finding.text) == (Level.WARNING, "pods need more of CNI's plugins: loopback, portmap")
    assert levels(list(network.forwarding(place))) == [Level.OK]
    put(tmp_path, "sys/class/net/zn-abc/address")
    assert levels(list(network.forwarding(place))) == [Level.ERROR]
    put(tmp_path, "proc/sys/net/ipv4/ip_forward", text="1\n")
    assert levels(list(network.forwarding(place))) == [Level.OK]
    put(tmp_path, "sys/devices/system/clocksource/clocksource0/current_clocksource", text="hpet\n")
    assert levels(list(linux.clock(place))) == [Level.WARNING]


def test_a_check_that_cannot_look_says_so(tmp_path: Path) -> None:
    def broken(_place: Place) -> list[Finding]:
        raise PermissionError(13, "Permission denied")

    def refused(_place: Place) -> list[Finding]:
        raise UnavailableError("gone", hint="come back")

    (finding,) = guarded(broken, Place(tmp_path))
    assert (finding.check, finding.level) == ("broken", Level.ERROR)
    (finding,) = guarded(refused, Place(tmp_path))
    assert (finding.text, finding.advice) == ("gone", "come back")
    assert guarded(partial(xen.iommu, MACHINE), Place(tmp_path))[0].level is Level.OK


async def test_all_of_them_on_this_machine(tmp_path: Path) -> None:
    found = await examine(Place(state=tmp_path))
    assert {"room", "programs", "clock", "plugins", "filters", "forwarding"} <= {each.check for each in found}
    assert all(each.advice for each in found if each.level is not Level.OK)
    assert not any(each.advice for each in found if each.level is Level.OK)
