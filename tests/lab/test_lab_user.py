"""A lab made and used by a person who is not root: in user namespaces, with the ids that /etc/subuid gives.

Root plays that person, in a mount namespace with an /etc/passwd of its own; nothing of it stays on the machine. Anybody
else is that person.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.lab.conftest import COMMAND_SECONDS, PROJECT

pytestmark = [pytest.mark.lab, pytest.mark.long]

USER, UID, SUBORDINATE = "ordinary", 54321, 700_000
ACCOUNTS = {
    "passwd": f"{USER}:x:{UID}:{UID}::/nowhere:/bin/sh\n",
    "group": f"{USER}:x:{UID}:\n",
    "subuid": f"{USER}:{SUBORDINATE}:65536\n",
    "subgid": f"{USER}:{SUBORDINATE}:65536\n",
}


class Person:
    """Runs ``zonal`` as somebody without rights, who has a home and a cache of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "home").mkdir()
        if os.geteuid() != 0:
            settings = (f"ZONAL_CACHE={folder}/home", "ZONAL_LAB=theirs")
            self._command = ["env", *settings, sys.executable, "-m", "zonal.cli.main"]
            return
        # Where Python and the project are, root alone may be able to look: they are mounted where all can.
        places = {"python": Path(sys.base_prefix), "project": PROJECT, "site": Path(sysconfig.get_path("purelib"))}
        script = ["set -eu"]
        for name, place in places.items():
            (folder / name).mkdir()
            script.append(f"mount --bind -o ro {shlex.quote(str(place))} {folder / name}")
        for name, line in ACCOUNTS.items():
            (folder / name).write_text(Path("/etc", name).read_text() + line)
            (folder / name).chmod(0o644)
            script.append(f"mount --bind {folder / name} /etc/{name}")
        os.chown(folder / "home", UID, UID)
        variables = {
            "HOME": f"{folder}/home",
            "USER": USER,
            "ZONAL_CACHE": f"{folder}/home/cache",
            "ZONAL_LAB": "theirs",
            "LD_LIBRARY_PATH": f"{folder}/python/lib",
            "PYTHONPATH": f"{folder}/project/src:{folder}/site",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        settings = " ".join(f"{name}={value}" for name, value in variables.items())
        become = f"setpriv --reuid={UID} --regid={UID} --clear-groups env --chdir={folder}/home {settings}"
        python = f"{folder}/python/bin/{Path(os.path.realpath(sys.executable)).name}"
        script.append(f'exec {become} {python} -m zonal.cli.main "$@"')
        self._command = ["unshare", "--mount", "--", "sh", "-c", "\n".join(script), "zonal"]

    def zonal(self, *arguments: str) -> str:
        """The command's standard output; it must succeed."""
        inherited = {name: value for name, value in os.environ.items() if name not in ("ZONAL_HOST", "XDG_CACHE_HOME")}
        done = subprocess.run(
            [*self._command, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            text=True,
            timeout=COMMAND_SECONDS,
            env=inherited,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def person() -> Generator[Person]:
    folder = Path(tempfile.mkdtemp(prefix="zonal-user."))
    folder.chmod(0o755)
    made = Person(folder)
    try:
        yield made
    finally:
        try:
            made.zonal("lab", "destroy", "--disks")
        finally:
            shutil.rmtree(folder)


def test_an_ordinary_user_has_a_lab_with_the_owners_and_modes_of_debian(person: Person) -> None:
    paths = ("/usr/bin/passwd", "/usr/bin/chage", "/var/mail")
    look = ("stat", "-c", "%U:%G %a %n", *paths)
    owners = ("root:root 4755", "root:shadow 2755", "root:mail 2775")
    expected = [f"{owner} {path}" for owner, path in zip(owners, paths, strict=True)]
    assert person.zonal("run", "--rm", "-m", "128M", "debian:13", *look).splitlines() == expected
    assert person.zonal("lab", "shell", "--name", "theirs", "--", *look).splitlines() == expected
    assert person.zonal("lab", "shell", "--name", "theirs", "--", "id", "-u") == "0\n"
