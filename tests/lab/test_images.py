"""Images from a registry on this machine's loopback, which the lab reaches as 10.0.2.2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.driver import IMAGE, Host, NamedLab
from tests.unit.images.registry import Registry, registry

pytestmark = pytest.mark.lab


@pytest.fixture(name="server", scope="module")
def a_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(Path(tmp_path_factory.mktemp("registry")) / "open") as running:
        yield running


def test_an_image_goes_to_a_registry_and_comes_back_to_run(lab: NamedLab, server: Registry) -> None:
    host = Host(lab)
    host.run(IMAGE, "true")
    name = f"10.0.2.2:{server.port}/team/debian:13"
    assert host.zonal("image", "tag", IMAGE, name).returncode == 0
    refused = host.zonal("push", name)
    assert refused.returncode == 125
    assert b"--tls-verify=false" in refused.stderr
    pushed = host.zonal("push", "--tls-verify=false", name)
    assert pushed.returncode == 0, pushed.stderr
    assert host.zonal("image", "rm", name).returncode == 0
    assert host.zonal("run", "--pull", "never", name, "true").returncode == 125
    done = host.run("--tls-verify=false", name, "cat", "/etc/debian_version")
    assert done.stdout.startswith(b"13")
    digest = pushed.stdout.decode().strip().rpartition("@")[2]
    assert host.zonal("image", "inspect", f"10.0.2.2:{server.port}/team/debian@{digest}").returncode == 0
    assert host.zonal("image", "rm", name).returncode == 0
    missing = host.zonal("pull", "--tls-verify=false", f"10.0.2.2:{server.port}/none:1")
    assert missing.returncode == 125
    assert b"no such image" in missing.stderr
    assert not host.shell("ls /var/lib/zonal/images/tmp").strip()
