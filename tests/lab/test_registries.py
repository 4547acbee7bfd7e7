"""How the host is told about registries: mirrors, insecure ones, blocked ones, in /etc/containers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.driver import Host, NamedLab
from tests.unit.images.registry import Registry, registry
from tests.unit.images.tarballs import OciLayout, digest, file, tarball

pytestmark = [pytest.mark.lab, pytest.mark.long]
FOLDER = "/etc/containers/registries.conf.d"
SETTINGS = f"{FOLDER}/zonal-test.conf"
LAYER = tarball(file("app", b"application"))


@pytest.fixture(name="host")
def the_host(lab: NamedLab) -> Iterator[Host]:
    host = Host(lab)
    yield host
    host.shell(f"rm -f {SETTINGS}")
    host.remove_images("images.example/")
    host.remove_images("10.0.2.2:")


@pytest.fixture(name="server")
def a_registry(tmp_path: Path) -> Iterator[Registry]:
    with registry(tmp_path / "open") as running:
        running.put("copies/app", "1", OciLayout().add([LAYER]))
        yield running


def test_mirrors_and_insecure_registries_are_the_host_s_to_name(host: Host, server: Registry) -> None:
    here = f"10.0.2.2:{server.port}"
    mirrored, insecure, new = "images.example/team/app:1", f"{here}/copies/app:1", f"{here}/new:1"
    assert "--tls-verify=false" in host.refused("pull", insecure)
    settings = f"""\
[[registry]]
location = "{here}"
insecure = true

[[registry]]
location = "images.example/team"
[[registry.mirror]]
location = "10.0.2.2:1"
insecure = true
[[registry.mirror]]
location = "{here}/copies"
insecure = true

[[registry]]
location = "blocked.example"
blocked = true
"""
    host.shell(f"mkdir -p {FOLDER}; echo '{settings}' > {SETTINGS}")
    # The first mirror does not answer; the second one has it, under the name that was asked for.
    done = host.zonal("pull", mirrored)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().strip() == mirrored
    assert digest(LAYER) in host.zonal("image", "inspect", mirrored).stdout.decode()
    # --tls-verify=false is not needed any more, in either direction.
    for arguments in (("pull", insecure), ("image", "tag", insecure, new), ("push", new)):
        done = host.zonal(*arguments)
        assert done.returncode == 0, done.stderr
    assert host.zonal("image", "rm", mirrored, insecure, new).returncode == 0
    assert host.zonal("pull", new).returncode == 0
    assert host.zonal("image", "rm", new).returncode == 0
    assert "forbid this registry" in host.refused("pull", "blocked.example/app:1")
    # A file that cannot be read is named.
    host.shell(f"echo '[[registry' > {SETTINGS}")
    said = host.refused("pull", mirrored)
    assert SETTINGS in said
    assert "mend that file" in said
