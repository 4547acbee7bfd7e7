"""Which devices the host has set aside for zones, written down so that a restart of zonald or of the host keeps it."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zonal.errors import InvalidInputError, UnavailableError
from zonal.xen.pci.address import PciAddress, parse_address

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SetAside:
    """One device; ``vendor`` and ``device`` tell whether the same one is still at that address."""

    address: str
    vendor: int
    device: int
    driver: str = ""
    """The host's, that had it; empty for none."""
    insecure: bool = False
    """Whether zones may have it though no IOMMU confines it."""
    permissive: bool = False
    """Whether they may write to all of its configuration space."""
    lent: bool = False
    """Whether it was taken for one zone, and goes back to the host after it."""


class DeviceRecords:
    """The file with them; one that makes no sense is left as it is. Not for several processes at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._records: dict[str, SetAside] = {}
        self._refusal: UnavailableError | None = None
        try:
            self._records = {record.address: record for record in _load(path)}
        except UnavailableError as error:
            log.error("no device is set aside: %s", error)
            self._refusal = error

    def all(self) -> list[SetAside]:
        """Each of them."""
        return [self._records[address] for address in sorted(self._records)]

    def get(self, address: PciAddress) -> SetAside | None:
        """One of them."""
        return self._records.get(str(address))

    def put(self, record: SetAside) -> None:
        """Writes one down, in place of an older one. Raises ``UnavailableError`` when the file made no sense."""
        self._write({**self._records, record.address: record})

    def remove(self, address: PciAddress) -> None:
        """Forgets one."""
        self._write({name: record for name, record in self._records.items() if name != str(address)})

    def _write(self, records: dict[str, SetAside]) -> None:
        if self._refusal is not None:
            raise self._refusal
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        data = json.dumps([asdict(record) for record in records.values()], indent=1)
        with tempfile.NamedTemporaryFile("w", dir=self._path.parent, prefix=".devices-", delete=False) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).rename(self._path)
        self._records = records


def _load(path: Path) -> list[SetAside]:
    try:
        items: list[dict[str, Any]] = json.loads(path.read_text())
        records = [SetAside(**item) for item in items]
        for record in records:
            parse_address(record.address)
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, InvalidInputError) as error:
        raise UnavailableError(
            f"{path} cannot be read: {error}",
            hint="if a newer Zonal wrote it, use that; else mend the file, or remove it, and restart zonald",
        ) from error
    return records
