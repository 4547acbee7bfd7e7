"""Sets up an interface as the agent does, in a network namespace of its own; run by test_network.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from zonal.agent.network import configure

MAC = "00:16:3e:01:02:03"

if __name__ == "__main__":
    subprocess.run(["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "far"], check=True)
    subprocess.run(["ip", "link", "set", "far", "up"], check=True)
    routes = [("0.0.0.0/0", "10.9.0.1"), ("::/0", "fd09::1"), ("10.77.0.0/16", ""), ("10.78.0.0/16", "169.254.1.1")]
    for _ in range(2):  # a second time changes nothing
        subprocess.run(["ip", "link", "set", "eth0", "down"], check=True)
        configure("eth0", MAC, 1400, ["10.9.0.5/24", "fd09::5/64"], routes)
    for bad in (["10.9.0.5/99"], ["10.9.0/24"]):
        try:
            configure("eth0", MAC, 1400, bad, [])
        except (OSError, ValueError) as error:
            print("REFUSED", error)
    for command in ("-br link show dev eth0", "-br address show dev eth0", "route show", "-6 route show default"):
        sys.stdout.flush()
        subprocess.run(["ip", *command.split()], check=True)
    print(Path("/sys/class/net/eth0/mtu").read_text())
