"""Runs one after another leave nothing: no domain, store key, loop device, file, descriptor, thread or memory."""

from __future__ import annotations

import os

import pytest

from tests.lab.driver import IMAGE, Host, NamedLab, assert_nothing_left

pytestmark = pytest.mark.lab
RUNS = int(os.environ.get("ZONAL_SOAK", "10"))


def test_runs_leave_nothing(lab: NamedLab) -> None:
    host = Host(lab, network="zonal")
    # The first runs fill caches: the decompressed kernel, the system image, gRPC's and Python's own.
    for _ in range(3):
        host.run(IMAGE, "true")
    before = host.snapshot()
    for number in range(RUNS):
        match number % 5:
            case 0:
                assert host.run("-i", IMAGE, "cat", stdin=b"x" * 100_000).stdout == b"x" * 100_000
            case 1:
                assert host.zonal("run", "--rm", "-m", "96M", IMAGE, "no-such-command").returncode == 127
            case 2:
                assert host.zonal("run", "--rm", "-m", "96M", IMAGE, "sh", "-c", "kill -9 $$; exit 3").returncode == 3
            case 3:
                assert host.zonal("run", "-d", "--name", "one", "-m", "96M", IMAGE, "sleep", "100").returncode == 0
                assert host.zonal("zone", "rm", "-f", "one").returncode == 0
            case _:
                assert len(host.run(IMAGE, "head", "-c", "1000000", "/dev/zero").stdout) == 1_000_000
    assert host.zones() == []
    assert_nothing_left(before, host.snapshot(), growth_kib=4096 + 16 * RUNS)
