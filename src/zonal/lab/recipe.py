"""The recipe of the lab's base disk: everything that decides what is on it, and the digest that names it.

Where the packages come from (a mirror) is not part of it, nor is Zonal's own source, which reaches a lab when it boots.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from importlib import metadata, resources

from zonal.errors import UnavailableError
from zonal.lab.wheels import pinned

SUITE = "trixie"
PYTHON = "3.13"
"""The suite's Python, which the wheels must fit."""
FORMAT = 1
"""Raised when the way the disk is made changes in a manner that the recipe's other parts do not show."""

LIB = "/opt/zonal/lib"
SOURCE = "/opt/zonal/src"
TLS = "/etc/zonal/tls"
ZONALD_PORT = 7443
"""Where zonald listens inside the lab, with mutual TLS."""

PACKAGES = (
    *("systemd-sysv", "udev", "kmod", "iproute2", "procps", "openssh-server", "qemu-guest-agent", "ca-certificates"),
    *("xen-hypervisor-4.20-amd64", "xen-utils-4.20", "xenstore-utils"),
    *("linux-image-amd64", "linux-image-cloud-amd64"),
    *("crun", "skopeo", "erofs-utils", "squashfs-tools", "e2fsprogs", "zstd", "busybox-static", "tini", "python3"),
    # Plugins that attach zones to networks, and what filters and translates packets there.
    *("containernetworking-plugins", "nftables", "iptables"),
    # The headers of the hypercalls: for those who study them, and for the test of our layouts.
    "libxen-dev",
)
HOST_MODULES = (
    *("virtio_blk", "virtio_net", "virtio-rng", "crc32c_generic", "ext4"),
    *("xen-evtchn", "xen-gntdev", "xen-gntalloc", "xen-privcmd", "xenfs", "xen-netback", "xen-blkback"),
    *("loop", "erofs", "overlay"),
)
"""Modules that the initrd loads, before those that depend on them; one that the kernel has built in is left out."""

UNWANTED_PATHS = (
    *("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/lintian/*"),
    *("/boot/*.efi", "/usr/lib/modules/*/kernel/sound/*"),
    *(
        f"/usr/lib/modules/*/kernel/drivers/{part}/*"
        for part in ("media", "infiniband", "net/wireless", "isdn", "staging", "iio", "comedi", "accel")
    ),
    *(f"/usr/lib/modules/*/kernel/drivers/gpu/drm/{part}/*" for part in ("amd", "i915", "nouveau", "radeon", "xe")),
)
# Emulation makes every program and every mount dear, so of what Debian starts only that is left which the host needs:
# the journal, udev for what is plugged in later, ssh. All else takes the boot from 20 seconds to 2 minutes.
MASKED_UNITS = (
    *("xen.service", "xendomains.service", "getty.target", "qemu-guest-agent.service", "sshd-keygen.service"),
    *("tmp.mount", "dev-hugepages.mount", "dev-mqueue.mount", "sys-fs-fuse-connections.mount"),
    *("sys-kernel-config.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount"),
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer", "e2scrub_all.timer"),
    *("e2scrub_reap.service", "kmod-static-nodes.service", "procps.service", "proc-sys-fs-binfmt_misc.automount"),
    *(f"modprobe@{name}.service" for name in ("configfs", "dm_mod", "drm", "efi_pstore", "fuse", "loop")),
    *(
        f"systemd-{name}"
        for name in (
            *("binfmt.service", "firstboot.service", "hwdb-update.service", "journal-catalog-update.service"),
            *("journal-flush.service", "machine-id-commit.service", "modules-load.service", "pcrphase.service"),
            *("pcrphase-sysinit.service", "pstore.service", "random-seed.service", "remount-fs.service"),
            *("sysctl.service", "sysusers.service", "tmpfiles-clean.timer", "tmpfiles-setup-dev-early.service"),
            *("tmpfiles-setup-dev.service", "udev-load-credentials.service", "udev-trigger.service"),
            *("update-done.service", "update-utmp.service", "update-utmp-runlevel.service", "user-sessions.service"),
            *("ask-password-console.path", "ask-password-wall.path", "hibernate-clear.service"),
            *("creds.socket", "hostnamed.socket", "journald-audit.socket", "networkd.socket", "networkd.service"),
            *("pcrextend.socket", "pcrlock.socket", "sysext.socket", "mute-console.socket", "bootctl.socket"),
            *("tpm2-setup.service", "tpm2-setup-early.service", "vconsole-setup.service"),
        )
    ),
    *("ldconfig.service", "sshd-unix-local.socket", "sshd-vsock.socket"),
)
MASKED_GENERATORS = (
    *("bless-boot", "cryptsetup", "debug", "factory-reset", "fstab", "getty", "gpt-auto", "hibernate-resume", "import"),
    *("integritysetup", "rc-local", "run", "ssh", "system-update", "sysv", "tpm2", "veritysetup"),
)
"""Of systemd's generators, by what stands before ``-generator``."""
ENABLED_UNITS = ("zonald.service", "zonal-xenstored.service", "zonal-agent.service", "ssh.service")

# Needed only outside: the lab inside the lab is none.
_OUTSIDE_ONLY = frozenset({"qemu-qmp", "cryptography"})

_TEXTS = {
    # The initrd has mounted the disks; nothing is left to do for systemd.
    "etc/fstab": "",
    "etc/systemd/system/proc-xen.mount": """\
[Unit]
DefaultDependencies=no
[Mount]
What=xenfs
Where=/proc/xen
Type=xenfs
""",
    "etc/hosts": "127.0.0.1 localhost lab\n::1 localhost\n",
    "etc/hostname": "lab\n",
    "etc/resolv.conf": "nameserver 10.0.2.3\n",
    "etc/default/locale": "LANG=C.UTF-8\n",
    # The serial console outlives a lab that was killed, so zonald's log goes there too.
    "etc/systemd/system/zonald.service.d/lab.conf": f"""\
[Service]
Environment=PYTHONPATH={SOURCE}:{LIB}
Environment=LANG=C.UTF-8
# What the processor has for virtual machines is emulated as well, and slower than doing without.
Environment=ZONALD_VIRT=pv
# Pods need no network configuration here, and follow one that is put there.
Environment=ZONALD_CRI_NETWORK=auto
ExecStart=
ExecStart=/usr/bin/python3 -m zonal.zonald --listen-tls 0.0.0.0:{ZONALD_PORT} --tls-dir {TLS}
# Opening the second port of the lab's virtio-serial controller raises an event outside.
ExecStopPost=-/bin/sh -c '[ "$$SERVICE_RESULT" = success ] || : > $$(echo /dev/vport*p2)'
StandardOutput=journal+console
StandardError=journal+console
""",
    "etc/systemd/journald.conf.d/lab.conf": "[Journal]\nStorage=volatile\nRuntimeMaxUse=32M\n",
    "etc/ssh/sshd_config.d/lab.conf": """\
HostKey /etc/ssh/lab_host_key
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PrintMotd no
MaxStartups 64:30:128
ClientAliveInterval 60
MaxSessions 64
""",
    "etc/systemd/system/zonal-command.service.d/lab.conf": f"""\
[Service]
Environment=PYTHONPATH={SOURCE}:{LIB}
Environment=LANG=C.UTF-8
ExecStart=
ExecStart=/usr/bin/python3 -m zonal.cli.command_server
""",
    # Isolated and without site: that is a third of what Python takes to start.
    "usr/local/bin/zonal": f"""\
#!/usr/bin/python3 -IS
import sys

sys.path[:0] = ["{SOURCE}", "{LIB}"]
from zonal.cli.start import main

main()
""",
}
_UNITS = ("zonald.service", "zonal-command.service", "zonal-xenstored.service", "zonal-agent.service")


@dataclass(frozen=True)
class Recipe:
    """What decides the content of a base disk."""

    suite: str
    python: str
    packages: tuple[str, ...]
    wheels: tuple[str, ...]
    files: dict[str, str]
    init: str
    modules: tuple[str, ...]
    unwanted_paths: tuple[str, ...]
    masked_units: tuple[str, ...]
    masked_generators: tuple[str, ...]
    enabled_units: tuple[str, ...]
    format: int

    @property
    def digest(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of everything in the recipe."""
        return hashlib.sha256(self.as_json().encode()).hexdigest()[:16]

    def as_json(self) -> str:
        """The recipe as JSON, the same text for the same recipe."""
        return json.dumps(asdict(self), sort_keys=True, indent=1)


def recipe(extra_packages: tuple[str, ...] = ()) -> Recipe:
    """The recipe of this version of Zonal, with ``extra_packages`` on the disk besides."""
    units = {f"etc/systemd/system/{name}": _file(name) for name in _UNITS}
    return Recipe(
        suite=SUITE,
        python=PYTHON,
        packages=(*PACKAGES, *(name for name in extra_packages if name not in PACKAGES)),
        wheels=_wheels(),
        files={**_TEXTS, **units},
        init=_file("init.sh"),
        modules=HOST_MODULES,
        unwanted_paths=UNWANTED_PATHS,
        masked_units=MASKED_UNITS,
        masked_generators=MASKED_GENERATORS,
        enabled_units=ENABLED_UNITS,
        format=FORMAT,
    )


def _wheels() -> tuple[str, ...]:
    """Zonal's run-time dependencies in the versions that are installed here, so that both sides run the same."""
    try:
        requirements = metadata.requires("zonal") or []
    except metadata.PackageNotFoundError as error:
        raise UnavailableError(
            "Zonal's own metadata is missing, which names what it depends on",
            hint="install Zonal as a package: `make setup` in its source, or pip install zonal",
        ) from error
    unconditional = [line for line in requirements if "extra ==" not in line]
    names = (re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in unconditional)
    return tuple(pinned(name for name in names if re.sub(r"[-_.]+", "-", name).lower() not in _OUTSIDE_ONLY))


def _file(name: str) -> str:
    return resources.files("zonal.lab").joinpath("files", name).read_text()
