"""What a zone has changed, as an image; and the files of zones that have ended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.driver import IMAGE, Host, NamedLab, assert_nothing_left

pytestmark = pytest.mark.lab

CHANGES = """set -e
    mkdir /srv/app; echo one > /srv/app/file; ln /srv/app/file /srv/app/again; ln -s file /srv/app/link
    chown 77:88 /srv/app/file; chmod 4750 /srv/app/file; mkfifo /srv/app/pipe
    rm /etc/issue; rm -r /etc/cron.daily; mkdir /etc/cron.daily; echo new > /etc/cron.daily/new
    echo volume > /data/here; mkdir /srv/$(printf 'd%.0s' $(seq 200))
    echo ready
"""
LOOK = """
    cat /srv/app/again; stat -c '%u %g %a %h' /srv/app/file; readlink /srv/app/link; test -p /srv/app/pipe && echo pipe
    ls -A /etc/cron.daily; test -e /etc/issue || echo gone; ls /data /srv | wc -l; echo $COLOUR
"""
SEEN = ["one", "77 88 4750 2", "file", "pipe", "new", "gone", "3", "blue"]


@pytest.fixture(name="host")
def the_host(lab: NamedLab) -> Iterator[Host]:
    host = Host(lab)
    yield host
    host.remove_all()
    host.zonal("image", "rm", "committed:1", "committed:2")
    host.zonal("volume", "prune", "-a")


def committed(host: Host, name: str) -> None:
    done = host.zonal(
        *["commit", "-a", "me", "-m", "first", "-c", "ENV COLOUR=blue", "-c", "USER www-data", "changed", name]
    )
    assert done.returncode == 0, done.stderr
    assert host.run("-u", "0", name, "sh", "-c", LOOK).stdout.decode().split("\n")[:-1] == SEEN
    inspected = json.loads(host.zonal("image", "inspect", name).stdout)[0]
    assert inspected["id"] == done.stdout.decode().strip()


def test_a_zone_becomes_an_image_while_it_runs_and_after(host: Host, tmp_path: Path) -> None:
    host.run(IMAGE, "true")
    before = host.snapshot()
    done = host.zonal(
        *["run", "-d", "-m", "128M", "--name", "changed", "-v", "kept:/data", IMAGE],
        *["sh", "-c", f"{CHANGES}\nwhile ! [ -e /stop ]; do sleep 0.1; done"],
    )
    assert done.returncode == 0, done.stderr
    host.until_logged("changed", "ready")
    committed(host, "committed:1")
    assert host.run("committed:1", "id", "-un").stdout == b"www-data\n"
    (tmp_path / "stop").touch()
    assert host.zonal("cp", str(tmp_path / "stop"), "changed:/stop").returncode == 0
    assert host.zonal("zone", "wait", "changed").stdout == b"0\n"

    # It has ended: the same, by another zone with its disk.
    changes = host.zonal("diff", "changed").stdout.decode().splitlines()
    assert {"A /srv/app/file", "D /etc/issue", "A /stop"} <= set(changes)
    assert host.zonal("cp", "changed:/srv/app/file", str(tmp_path)).returncode == 0
    assert (tmp_path / "file").read_text() == "one\n"
    (tmp_path / "put").write_text("put later\n")
    assert host.zonal("cp", str(tmp_path / "put"), "changed:/srv/app/").returncode == 0
    committed(host, "committed:2")
    assert host.run("committed:2", "cat", "/srv/app/put").stdout == b"put later\n"
    assert host.zonal("zone", "rm", "changed").returncode == 0
    assert host.zonal("volume", "rm", "kept").returncode == 0
    assert host.zonal("image", "rm", "committed:1", "committed:2").returncode == 0
    assert_nothing_left(before, host.snapshot(), growth_kib=16384)
    for arguments, words in (
        (("commit", "nobody", "x:1"), "no zone"),
        (("commit", "nobody"), "no zone"),
    ):
        refused = host.zonal(*arguments)
        assert (refused.returncode, words in refused.stderr.decode()) == (125, True), refused.stderr
