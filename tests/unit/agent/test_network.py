from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.unit.agent.network_trial import MAC


def test_an_interface_gets_what_the_host_says() -> None:
    command = ["unshare", "--map-root-user", "--net", "--mount", sys.executable, "-m", "tests.unit.agent.network_trial"]
    script = f"mount -t sysfs sys /sys && exec {' '.join(command[4:])}"
    project = Path(__file__).parents[3]
    done = subprocess.run([*command[:4], "sh", "-c", script], capture_output=True, text=True, check=False, cwd=project)
    assert done.returncode == 0, done.stderr
    said = done.stdout
    assert MAC in said
    assert "10.9.0.5/24" in said
    assert "fd09::5/64" in said
    assert "fe80::216:3eff:fe01:203/64" in said, "the link-local address that the filter at the host's end knows"
    assert "default via 10.9.0.1 dev eth0" in said
    assert "default via fd09::1 dev eth0" in said
    assert "10.77.0.0/16 dev eth0 scope link" in said
    assert "10.78.0.0/16 via 169.254.1.1 dev eth0 onlink" in said
    assert "1400" in said
    assert said.count("REFUSED") == 2
    assert "tentative" not in said
