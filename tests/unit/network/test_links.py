from __future__ import annotations

import subprocess
import sys


def test_an_interface_is_waited_for() -> None:
    command = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-m", "tests.unit.network.link_trial"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "found\n"), done.stderr
