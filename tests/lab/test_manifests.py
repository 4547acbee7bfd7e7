"""Pods of real manifests in zones: the stand-in for a kubelet runs in the lab's host, on zonald's CRI socket."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.conftest import Lab
from tests.lab.driver import Host
from tests.lab.real_images import POSTGRESQL, PYTHON, REDIS, built
from tests.unit.images.registry import registry

pytestmark = [pytest.mark.lab, pytest.mark.long]
SETTINGS = "/etc/containers/registries.conf.d/50-manifests.conf"


def test_pods_of_manifests(lab: Lab, tmp_path: Path) -> None:
    with registry(tmp_path / "registry") as server:
        outside = f"10.0.2.2:{server.port}"
        for image in (PYTHON, REDIS, POSTGRESQL):
            built(image).push(f"{server.host}/{image.name}:1", "--dest-tls-verify=false")
        lab.shell("mkdir -p /etc/containers/registries.conf.d").check()
        lab.shell(f"cat > {SETTINGS}", f'[[registry]]\nlocation = "{outside}"\ninsecure = true\n'.encode()).check()
        images = ",".join(f"{image.name}={outside}/{image.name}:1" for image in (PYTHON, REDIS, POSTGRESQL))
        try:
            done = lab.host_pytest("tests/kube", env={"ZONAL_TEST_IMAGES": images})
        finally:
            lab.shell(f"rm -f {SETTINGS}")
            Host(lab).remove_images("10.0.2.2:")
        assert done.status == 0, done.stdout.decode(errors="replace")[-6000:] + done.err[-2000:]
        assert "skipped" not in done.out, "there is no CRI socket in the lab"
