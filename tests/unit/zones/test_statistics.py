"""What the host's kernel counts of a zone's disks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from zonal.network.links import Traffic
from zonal.xen import domctl
from zonal.xen.devices.vbd import disk_number
from zonal.xen.domctl import DomainInfo
from zonal.zones import statistics
from zonal.zones.statistics import read_statistics


class Host:
    hypervisor = None


async def test_all_of_a_zones_disks_are_counted_and_nobody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for domain_id, name, read, written in (
        (7, "xvda", 2, 0),
        (7, "xvdz", 3, 5),
        (7, "xvdab", 1, 1),
        (77, "xvda", 100, 100),
    ):
        folder = tmp_path / f"vbd-{domain_id}-{disk_number(name)}" / "statistics"
        folder.mkdir(parents=True)
        (folder / "rd_sect").write_text(f"{read}\n")
        (folder / "wr_sect").write_text(f"{written}\n")

    def info(_: Any, domain_id: int) -> DomainInfo:
        return DomainInfo(domain_id, bytes(16), 0, 10, 10, 0, 1, 1, 0)

    monkeypatch.setattr(domctl, "domain_info", info)
    monkeypatch.setattr(statistics, "_BACKENDS", tmp_path)
    used = await read_statistics(
        cast("Any", Host), 7, None, "workload", ceiling=0, network=lambda _: Traffic(), shared_disks=["xvdab"]
    )
    assert (used.block_read_bytes, used.block_written_bytes) == (6 * 512, 6 * 512)
