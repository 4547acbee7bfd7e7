"""PostgreSQL with its data on a volume: its zone is destroyed under load, and no committed row is missing."""

from __future__ import annotations

import random
import subprocess
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.driver import TIMEOUT, Host, NamedLab
from tests.lab.real_images import POSTGRESQL, built
from tests.unit.images.registry import registry

pytestmark = [pytest.mark.lab, pytest.mark.long]
CLIENTS = 2
KILLS = 2
ROWS = 60
"""Told as committed before a zone may be destroyed."""


@pytest.fixture(name="host")
def the_host(lab: NamedLab) -> Iterator[Host]:
    host = Host(lab)
    yield host
    host.remove_all()
    host.remove_images("10.0.2.2:")
    host.zonal("volume", "prune", "-a")


class Load:
    """A zone whose clients commit rows, and what they have told so far."""

    def __init__(self, host: Host, image: str, name: str) -> None:
        self.found: dict[int, tuple[int, int, bool]] = {}
        """How many rows there were of each client at the start, the highest, and whether all had their content."""
        self.committed: dict[int, int] = defaultdict(int)
        """The last row of each client that was told as committed."""
        self.told = 0
        self.said = b""
        self.begun, self.loaded = threading.Event(), threading.Event()
        self.name = name
        command = ("run", "--name", name, "-m", "256M", "-v", "rows:/var/lib/postgresql/data", image)
        self._process = host.start(*command, "commits", str(CLIENTS), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self._errors = threading.Thread(target=self._read_errors)
        self._errors.start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            match line.decode().split():
                case ["found", client, count, highest, content]:
                    self.found[int(client)] = int(count), int(highest), content == "t"
                case ["begins"]:
                    self.begun.set()
                case ["committed", client, number] if line.endswith(b"\n"):
                    # The end of a line that is cut off is no promise.
                    self.committed[int(client)] = int(number)
                    self.told += 1
                    if self.told >= ROWS:
                        self.loaded.set()
                case _:
                    pass
        self.begun.set()
        self.loaded.set()

    def _read_errors(self) -> None:
        assert self._process.stderr
        self.said = self._process.stderr.read()

    def end(self) -> None:
        """Waits for the command, whose zone has been destroyed."""
        self._process.wait(TIMEOUT)
        self._reader.join()
        self._errors.join()


def test_every_committed_row_survives_the_loss_of_the_zone(host: Host, tmp_path: Path) -> None:
    with registry(tmp_path / "open") as server:
        built(POSTGRESQL).push(f"{server.host}/debian/postgresql:17", "--dest-tls-verify=false")
        image = f"10.0.2.2:{server.port}/debian/postgresql:17"
        done = host.zonal("pull", "--tls-verify=false", image)
        assert done.returncode == 0, done.stderr
    promised: dict[int, int] = {}
    for kill in range(KILLS + 1):
        load = Load(host, image, f"postgresql{kill}")
        assert load.begun.wait(2 * TIMEOUT)
        print(f"found {load.found}, promised {promised}")
        assert set(load.found) >= set(promised), load.said
        for client, (count, highest, content) in load.found.items():
            # Numbers follow each other, so none is missing where the highest is their count.
            assert count == highest >= promised.get(client, 0)
            assert content
        assert load.loaded.wait(TIMEOUT)
        assert load.told >= ROWS, load.said
        if kill < KILLS:
            # At whatever moment it takes to get there, and a little more.
            host.shell(f"sleep {random.uniform(0, 1):.2f}; xl destroy {load.name}")
        else:
            assert host.zonal("zone", "rm", "-f", load.name).returncode == 0
        load.end()
        promised.update(load.committed)
    assert len(promised) == CLIENTS
