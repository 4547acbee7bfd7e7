"""Pulls, runs and prunes at once: whatever the order, no image is lost that somebody has, and nothing is left over.

For 45 seconds, or as many as ``ZONAL_RACE`` says.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.driver import IMAGE, Host, NamedLab
from tests.lab.small_images import SmallImages, is_whole, put
from tests.lab.store_check import checked
from tests.unit.images.registry import Registry, registry

pytestmark = [pytest.mark.lab, pytest.mark.long]
SECONDS = int(os.environ.get("ZONAL_RACE", "45"))
STABLE = ("one", "two", "three")
MOVING = ("old", "new")

_LOOP = """
errors=$(mktemp); end=$((SECONDS + {seconds})); turn=0
# One line a turn: what was done, its status, and what came of it.
tell() {{
    what=$1; shift
    if said=$("$@" 2>"$errors"); then echo "$what" 0 $said; else echo "$what" $? $(tail -n 5 "$errors"); fi
}}
while [ $SECONDS -lt $end ]; do turn=$((turn + 1)); {body}; done
"""


@pytest.fixture(name="host")
def the_host(lab: NamedLab) -> Iterator[Host]:
    host = Host(lab)
    yield host
    host.remove_all()
    host.remove_images("10.0.2.2:")


@pytest.fixture(name="server")
def a_registry(tmp_path: Path) -> Iterator[Registry]:
    with registry(tmp_path / "open") as running:
        yield running


class Worker:
    """A loop in the host's shell; the commands in it have no lab to keep, and so are quick."""

    def __init__(self, host: Host, body: str) -> None:
        script = _LOOP.format(seconds=SECONDS, body=body)
        arguments = ("lab", "shell", "--name", host.lab, "--", "bash", "-c", script)
        self._output = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = host.start(*arguments, stdin=subprocess.DEVNULL, stdout=self._output)

    def lines(self) -> list[tuple[str, int, str]]:
        """What was done, the status, and what was said, of each turn; waits for the end."""
        assert self._process.wait(SECONDS + 300) == 0
        self._output.seek(0)
        output = self._output.read().decode(errors="replace")
        found: list[tuple[str, int, str]] = []
        for line in output.splitlines():
            what, status, *said = line.split(" ", 2)
            found.append((what, int(status), "".join(said)))
        return found


def test_pull_run_and_prune_race_and_no_image_is_lost(host: Host, server: Registry) -> None:
    host.run(IMAGE, "true")
    host.remove_images("10.0.2.2:")  # of a test that was ended before it could
    before = checked(host)
    images = SmallImages.of(host)
    names = {version: put(server, images, version, 3) for version in STABLE}
    moving = put(server, images, MOVING[0], 3, repository="moving")
    held = host.zonal("run", "-d", "-m", "96M", "--name", "held", "--tls-verify=false", names["one"], "sleep", "100000")
    assert held.returncode == 0, held.stderr
    # The Debian image is not fetched again if it is pruned, so it is in use as well.
    done = host.zonal("run", "-d", "-m", "96M", "--name", "keeps", IMAGE, "sleep", "100000")
    assert done.returncode == 0, done.stderr

    run = "zonal run --rm -m 96M --tls-verify=false"
    each = f"set -- {' '.join(names.values())}; shift $((turn % {len(names)}))"
    workers = [
        Worker(host, f"{each}; tell pull zonal pull -q --tls-verify=false $1"),
        Worker(host, f"tell pull zonal pull -q --tls-verify=false {moving}"),
        Worker(host, f"{each}; tell run {run} $1"),
        Worker(host, f"tell moving {run} --pull always {moving}"),
        Worker(host, "tell prune zonal image prune; sleep 0.3; tell prune zonal image prune -a; sleep 1"),
    ]
    over = threading.Event()

    def move() -> None:
        turn = 0
        while not over.wait(2):
            turn += 1
            put(server, images, MOVING[turn % 2], 3, repository="moving")

    mover = threading.Thread(target=move)
    mover.start()
    try:
        lines = [line for worker in workers for line in worker.lines()]
    finally:
        over.set()
        mover.join()
    done_of = Counter(what for what, _, _ in lines)
    print("turns:", dict(done_of))
    assert all(done_of[what] for what in ("pull", "run", "moving", "prune"))
    wrong = [line for line in lines if line[1] != 0]
    wrong += [line for line in lines if line[0] == "run" and not is_whole(line[2], *STABLE)]
    wrong += [line for line in lines if line[0] == "moving" and not is_whole(line[2], *MOVING)]
    assert not wrong, wrong[:10]

    # What is in use was never taken away; what is not can be had again; and nothing else is there.
    assert "held" in host.refused("image", "rm", names["one"])
    for version, name in names.items():
        assert is_whole(host.run("--tls-verify=false", name).stdout.decode(), version)
    checked(host)
    host.remove_all()
    host.remove_images("10.0.2.2:")
    assert checked(host) == before
