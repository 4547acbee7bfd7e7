"""The Debian packages that the lab needs on the machine it runs on.

``python -m zonal.lab.requirements`` says what is missing; with ``--install`` it installs it, as root or by sudo; with
``--tests`` what the tests need is meant, too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from zonal.errors import UnavailableError, ZonalError

_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True)
class Requirement:
    """A Debian package, and what of it shows that it is there: the name of a program, or the path of a file."""

    package: str
    shown_by: str

    @property
    def met(self) -> bool:
        """Whether this machine has it."""
        return Path(self.shown_by).exists() if self.shown_by.startswith("/") else find(self.shown_by) is not None


REQUIREMENTS = (
    Requirement("qemu-system-x86", "qemu-system-x86_64"),
    Requirement("qemu-utils", "qemu-img"),
    Requirement("mmdebstrap", "mmdebstrap"),
    Requirement("e2fsprogs", "mke2fs"),
    Requirement("openssh-client", "ssh"),
    Requirement("util-linux", "unshare"),
    Requirement("tar", "tar"),
    Requirement("ca-certificates", "/etc/ssl/certs/ca-certificates.crt"),
    Requirement("debian-archive-keyring", "/usr/share/keyrings/debian-archive-keyring.gpg"),
)
FOR_ORDINARY_USERS = (Requirement("uidmap", "newuidmap"),)
"""Needed besides to build a disk without being root."""

FOR_TESTS = (
    Requirement("gcc", "gcc"),
    Requirement("libc6-dev", "/usr/include/stdio.h"),
    Requirement("linux-libc-dev", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    Requirement("libxen-dev", "/usr/include/xen/domctl.h"),
    Requirement("erofs-utils", "mkfs.erofs"),
    Requirement("skopeo", "skopeo"),
    Requirement("zstd", "zstd"),
    Requirement("docker-registry", "docker-registry"),
    Requirement("apache2-utils", "htpasswd"),
    Requirement("uidmap", "newuidmap"),
    Requirement("containernetworking-plugins", "/usr/lib/cni/bridge"),
    Requirement("iproute2", "ip"),
    Requirement("iptables", "iptables"),
    Requirement("nftables", "nft"),
    Requirement("containerd", "containerd"),
    Requirement("busybox-static", "/bin/busybox"),
)
"""Needed besides by the tests: peers to compare with, and the headers that layouts are checked against."""


def find(program: str) -> str | None:
    """The path of ``program``, looked for also where only root's PATH goes; None when it is not installed."""
    return shutil.which(program) or shutil.which(program, path=_SYSTEM_PATH)


def require(program: str) -> str:
    """The path of ``program``; raises `UnavailableError` naming the Debian package when it is not installed."""
    path = find(program)
    if path is None:
        packages = [need.package for need in (*REQUIREMENTS, *FOR_ORDINARY_USERS) if need.shown_by == program]
        raise UnavailableError(
            f"{program} is not installed, and the lab needs it", hint=_advice(packages or missing() or [program])
        )
    return path


def missing(*, tests: bool = False) -> list[str]:
    """The Debian packages that this machine lacks, in order; with ``tests``, also those of the tests."""
    needs = REQUIREMENTS if os.geteuid() == 0 else (*REQUIREMENTS, *FOR_ORDINARY_USERS)
    if tests:
        needs = (*needs, *FOR_TESTS)
    return [need.package for need in needs if not need.met]


def install(*, tests: bool = False) -> list[str]:
    """Installs what is missing with apt, and gives it back; raises when apt, or the right to use it, is missing."""
    packages = missing(tests=tests)
    if not packages:
        return []
    if find("apt-get") is None:
        raise UnavailableError(
            f"this machine lacks {', '.join(packages)} and has no apt-get",
            hint="install what these Debian packages hold by the means of this system",
        )
    prefix = _become_root(packages)
    environment = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet", "--assume-yes"]
    command = [*environment, "install", "--no-install-recommends", *packages]
    # A fresh container image has no package lists, or old ones: only then are they worth their time.
    first = subprocess.run([*prefix, *command], check=False, stdout=sys.stderr)
    if first.returncode:
        subprocess.run([*prefix, *environment, "update"], check=False, stdout=sys.stderr)
        subprocess.run([*prefix, *command], check=False, stdout=sys.stderr)
    lacking = missing(tests=tests)
    if lacking:
        raise UnavailableError(f"apt-get did not install {', '.join(lacking)}", hint="see apt's messages above")
    return packages


def main(arguments: list[str]) -> int:
    """The command; gives its exit status."""
    tests = "--tests" in arguments
    try:
        if "--install" in arguments:
            done = install(tests=tests)
            if done:
                print(f"installed {', '.join(done)}", file=sys.stderr)
            return 0
        lacking = missing(tests=tests)
    except ZonalError as error:
        print(f"zonal: {error}", file=sys.stderr)
        return error.exit_status
    if lacking:
        print(f"missing: {' '.join(lacking)}; {_advice(lacking)}", file=sys.stderr)
    return 1 if lacking else 0


def _become_root(packages: list[str]) -> list[str]:
    if os.geteuid() == 0:
        return []
    sudo = find("sudo")
    if sudo and subprocess.run([sudo, "--non-interactive", "true"], check=False, capture_output=True).returncode == 0:
        return [sudo, "--non-interactive"]
    raise UnavailableError(
        f"this machine lacks {', '.join(packages)}; installing needs root, and sudo does not work without a password",
        hint=_advice(packages),
    )


def _advice(packages: list[str]) -> str:
    root = "" if os.geteuid() == 0 else "sudo "
    return f"{root}apt-get install --no-install-recommends {' '.join(packages)}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
