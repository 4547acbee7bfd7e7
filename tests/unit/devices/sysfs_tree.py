"""A host's sysfs and proc in a folder: functions, their drivers, what the host does with them."""

from __future__ import annotations

from pathlib import Path

from zonal.devices.usage import HostUsage

MULTIFUNCTION = 0x80


def config_space(
    *, header: int = 0, express: int | None = None, msi: bool = False, msix: bool = False, acs: int | None = None
) -> bytes:
    """4096 bytes with these capabilities; ``express``: the Device/Port Type, ``acs``: what is turned on of it."""
    config = bytearray(4096)
    config[0:4] = b"\x86\x80\xd3\x10"
    config[0x0E] = header
    place, link = 0x40, 0x34
    for number, wanted in ((0x05, msi), (0x11, msix), (0x10, express is not None)):
        if wanted:
            config[0x06] = 0x10
            config[link], link = place, place + 1
            config[place] = number
            config[place + 2] = (express or 0) << 4
            place += 0x18
    if acs is not None:
        config[0x100:0x108] = (0x1000D).to_bytes(4, "little") + (0x1F).to_bytes(2, "little") + acs.to_bytes(2, "little")
    return bytes(config)


class HostTree:
    """See the module."""

    def __init__(self, root: Path) -> None:
        self.sysfs = root / "sys"
        self.proc = root / "proc"
        self.addresses: dict[str, str] = {}
        """IPv4 addresses by interface."""
        for folder in ("bus/pci/devices", "bus/pci/drivers", "class/net", "class/block"):
            (self.sysfs / folder).mkdir(parents=True)
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "net").mkdir()

    @property
    def usage(self) -> HostUsage:
        """Looks into it."""
        return HostUsage(self.sysfs, self.proc, lambda interface: self.addresses.get(interface, ""))

    def add(
        self,
        address: str,
        *,
        class_code: int = 0x020000,
        driver: str = "",
        below: str = "",
        config: bytes = b"",
        resource: str = "",
        reset: str | None = None,
        irq: int = 11,
    ) -> Path:
        """A function; ``below``: the address of the bridge that it is behind."""
        parent = (self.sysfs / "bus/pci/devices" / below).resolve() if below else self.sysfs / "devices/pci0000:00"
        path = parent / address
        path.mkdir(parents=True)
        values = {
            "vendor": "0x8086",
            "device": "0x10d3",
            "class": f"{class_code:#08x}",
            "subsystem_vendor": "0x8086",
            "subsystem_device": "0x0000",
            "irq": str(irq),
            "resource": resource,
            "modalias": "pci:v00008086d000010D3",
        }
        for name, value in values.items():
            (path / name).write_text(f"{value}\n")
        (path / "config").write_bytes(config or config_space())
        if reset is not None:
            (path / "reset").touch()
            (path / "reset_method").write_text(reset)
        if driver:
            (self.sysfs / "bus/pci/drivers" / driver).mkdir(exist_ok=True)
            (path / "driver").symlink_to(self.sysfs / "bus/pci/drivers" / driver)
        (self.sysfs / "bus/pci/devices" / address).symlink_to(path)
        return path

    def interface(self, function: Path, name: str, *, up: bool = True, master: str = "") -> None:
        """Of a function."""
        folder = self._of(function, "net", name)
        (folder / "flags").write_text("0x1003\n" if up else "0x1002\n")
        if master:
            (self.sysfs / "class/net" / master).mkdir(exist_ok=True)
            (self.sysfs / "class/net" / master / "flags").write_text("0x1003\n")
            (folder / "master").symlink_to(self.sysfs / "class/net" / master)

    def disk(self, function: Path, name: str, number: str, holder: str = "") -> None:
        """Of a function."""
        folder = self._of(function, "block", name)
        (folder / "dev").write_text(f"{number}\n")
        (folder / "holders").mkdir()
        if holder:
            (folder / "holders" / holder).touch()

    def _of(self, function: Path, kind: str, name: str) -> Path:
        folder = function / kind / name
        folder.mkdir(parents=True)
        (self.sysfs / "class" / kind / name).symlink_to(folder)
        return folder
