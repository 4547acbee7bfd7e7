"""Debian's nginx, redis and a Python application, pulled from real registries and run; what is pushed is what was
pulled."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.driver import Host, NamedLab
from tests.lab.real_images import NGINX, PYTHON, REDIS, built
from tests.unit.images.registry import PASSWORD, USER, Registry, make_authority, registry

pytestmark = [pytest.mark.lab, pytest.mark.long]
CERTIFICATES = "/etc/containers/certs.d"


@pytest.fixture(name="host", scope="module")
def the_host(lab: NamedLab) -> Iterator[Host]:
    host = Host(lab)
    yield host
    host.remove_all()
    host.remove_images("10.0.2.2:")
    host.zonal("volume", "prune", "-a")
    host.shell(f"rm -rf {CERTIFICATES}")


@pytest.fixture(name="server", scope="module")
def an_open_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("registry") / "open") as running:
        for image in (NGINX, REDIS):
            built(image).push(f"{running.host}/debian/{image.name}:12", "--dest-tls-verify=false")
        yield running


def pulled(host: Host, *arguments: str) -> str:
    """What was said of a pull that succeeded."""
    done = host.zonal("pull", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().strip() == arguments[-1]
    return done.stderr.decode()


def test_nginx_and_redis_share_their_base_and_serve(host: Host, server: Registry) -> None:
    nginx, redis = (f"10.0.2.2:{server.port}/debian/{name}:12" for name in ("nginx", "redis"))
    said = pulled(host, "--tls-verify=false", nginx)
    assert said.count(": fetched") == 3
    said = pulled(host, "--tls-verify=false", redis)
    assert said.count(": here already") == 1
    assert said.count(": fetched") == 2

    # Removed files are gone, and a folder that was made anew has nothing of the old one.
    script = (
        "nginx -g 'daemon off;' & get 80 /; get 80 /none; ls /etc/nginx/sites-enabled /var/www/html /usr/share/nginx; "
        "cat /etc/debian_version"
    )
    out = host.run(nginx, "sh", "-c", script).stdout.decode()
    assert "200 OK" in out
    assert "Served from a zone" in out
    assert "404 Not Found" in out
    assert "/etc/nginx/sites-enabled:\n\n/usr/share/nginx:\n" in out
    assert "/var/www/html:\nindex.html\n" in out
    assert "\nhtml\n" not in out
    assert out.splitlines()[-1].startswith("12.")


def test_redis_keeps_its_data_on_a_volume_when_its_zone_begins_again(host: Host, server: Registry) -> None:
    redis = f"10.0.2.2:{server.port}/debian/redis:12"
    # The image's own command, as its own user; its client is a second program beside it.
    serve = (
        "redis-server /etc/redis/zone.conf > /dev/null & until redis-cli ping 2>&1 | grep -q PONG; do sleep 0.2; done;"
    )
    options = ("--tls-verify=false", "-v", "redis:/data", redis, "sh", "-c")
    first = f"{serve} redis-cli set greeting hello; redis-cli incr count; redis-cli get greeting; id -un"
    lines = host.run(*options, first).stdout.decode().splitlines()
    assert lines[-4:] == ["OK", "1", "hello", "redis"]
    lines = host.run(*options, f"{serve} redis-cli get greeting; redis-cli incr count").stdout.decode().splitlines()
    assert lines[-2:] == ["hello", "2"]


def test_an_application_from_a_registry_with_tls_and_a_password(host: Host, tmp_path: Path) -> None:
    authority, certificate = make_authority(tmp_path / "authority", "127.0.0.1", "10.0.2.2")
    with registry(tmp_path / "closed", password=True, certificate=certificate) as server:
        certificates = tmp_path / "certificates"
        certificates.mkdir()
        (certificates / "ca.crt").write_bytes(authority.read_bytes())
        built(PYTHON).push(
            f"{server.host}/team/app:13", f"--dest-cert-dir={certificates}", f"--dest-creds={USER}:{PASSWORD}"
        )
        there = f"10.0.2.2:{server.port}"
        name = f"{there}/team/app:13"
        mine = Host(host)
        mine.environment["REGISTRY_AUTH_FILE"] = str(tmp_path / "auth.json")
        log_in = ("login", "-u", USER, "--password-stdin", there)

        assert "certificate" in mine.refused("pull", name)
        folder = f"{CERTIFICATES}/{there}"
        mine.shell(f"mkdir -p {folder}; echo '{authority.read_text()}' > {folder}/ca.crt")
        assert f"zonal login {there}" in mine.refused("pull", name)
        assert "refuses" in mine.refused(*log_in, stdin=b"wrong")
        assert f"zonal login {there}" in mine.refused("pull", name)
        done = mine.zonal(*log_in, stdin=PASSWORD.encode())
        assert done.returncode == 0, done.stderr
        assert pulled(mine, name).count(": fetched") == 3

        script = "python3 app.py 8000 & get 8000 /square/111; echo; id -un"
        done = mine.zonal("run", "--rm", "-e", "GREETING=Good day", "--entrypoint", "sh", name, "-c", script)
        assert done.returncode == 0, done.stderr
        head, _, body = done.stdout.decode().partition("\r\n\r\n")
        assert "200 OK" in head
        answer, user = body.splitlines()
        assert json.loads(answer) == {"greeting": "Good day", "square": 12321, "user": True}
        assert user == "application"

        # What is pushed is what was pulled, under the same digest, and is there for others.
        copy = f"{there}/other/copy:1"
        assert mine.zonal("image", "tag", name, copy).returncode == 0
        pushed = mine.zonal("push", copy)
        assert pushed.returncode == 0, pushed.stderr
        look = ["skopeo", "inspect", "--format={{.Digest}}", f"--cert-dir={certificates}", f"--creds={USER}:{PASSWORD}"]
        digests = {
            subprocess.run([*look, f"docker://{server.host}/{path}"], check=True, capture_output=True).stdout.strip()
            for path in ("team/app:13", "other/copy:1")
        }
        assert digests == {pushed.stdout.strip().rpartition(b"@")[2]}
        assert mine.zonal("logout", there).returncode == 0
        assert f"zonal login {there}" in mine.refused("push", copy)
        assert not mine.shell("find /var/lib/zonal/images/tmp -mindepth 1; find / -xdev -name auth.json").strip()
