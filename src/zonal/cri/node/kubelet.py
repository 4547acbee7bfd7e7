"""How this machine's kubelet is started, and how to have it use Zonal's socket.

kubeadm's packages have the unit kubelet.service, and a drop-in 10-kubeadm.conf whose ExecStart ends in variables from
/var/lib/kubelet/kubeadm-flags.env and /etc/default/kubelet; either may name another socket by a flag, and a flag wins
over a configuration file. So the line that is in force is taken as it is, and ours is put at its end, where it wins.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from zonal.cri.node.options import KubeletWay, NodeOptions

UNIT = "kubelet.service"
UNIT_FOLDERS = ("etc/systemd/system", "run/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system")
"""Of systemd, the first first (systemd.unit(5)); /lib is /usr/lib wherever Debian still is supported."""
DROP_IN_NAME = "20-zonal.conf"
DROP_IN = f"/etc/systemd/system/{UNIT}.d/{DROP_IN_NAME}"
CONFIG_FOLDER = "/etc/kubernetes/kubelet.conf.d"
CONFIG = f"{CONFIG_FOLDER}/20-zonal.conf"
ENDPOINT_FLAG = "--container-runtime-endpoint"
FIRST_WITH_FOLDER = 30
"""The minor version from which on ``--config-dir`` needs no feature gate."""
VERSION_TIMEOUT = 20.0
"""Seconds that it may take to tell its version."""
_FLAG_FILES = ("var/lib/kubelet/kubeadm-flags.env", "etc/default/kubelet", "etc/sysconfig/kubelet")
_MAX_FILE = 1 << 20


@dataclass(frozen=True)
class Kubelet:
    """What the files of a machine say of its kubelet."""

    start: str
    """The value of ExecStart in force without us, or nothing when there is no unit."""
    names_endpoint: bool
    """Whether a flag of its start, or of the files that its start reads, names a socket already."""

    @property
    def program(self) -> str:
        """The path of the kubelet, or nothing."""
        return self.start.split()[0].lstrip("-@:+!") if self.start else ""


def find_kubelet(root: Path) -> Kubelet:
    """Reads the units below ``root``, without our own drop-in."""
    start = ""
    for path in _fragments(root):
        for line in _lines(path):
            name, equals, value = line.partition("=")
            if equals and name.strip() == "ExecStart":
                start = value.strip()  # an empty one takes back those before it
    texts = [start, *("\n".join(_lines(root / name)) for name in _FLAG_FILES)]
    return Kubelet(start, any(ENDPOINT_FLAG in text for text in texts))


def ask_version(program: str) -> str:
    """What the kubelet says of its version, such as ``Kubernetes v1.33.2``; nothing when it does not."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, timeout=VERSION_TIMEOUT, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout[:200].decode(errors="replace").strip()


def uses_folder(kubelet: Kubelet, options: NodeOptions) -> bool:
    """Whether its start gets ``--config-dir``."""
    if "--config-dir" in kubelet.start:
        return False  # it has one already, where the operator wanted it
    if options.way is KubeletWay.AUTO:
        return options.kubelet_minor is not None and options.kubelet_minor >= FIRST_WITH_FOLDER
    return options.way is KubeletWay.CONFIG


def uses_flag(kubelet: Kubelet, options: NodeOptions) -> bool:
    """Whether its start gets the flag: where nothing else is known to work, or another flag must be outdone."""
    return options.way is KubeletWay.FLAG or kubelet.names_endpoint or not uses_folder(kubelet, options)


def is_outdone(root: Path) -> bool:
    """Whether a flag that came after the installation, such as kubeadm's, now wins over our configuration."""
    ours = "".join(_lines(root / DROP_IN.lstrip("/")))
    return bool(ours) and find_kubelet(root).names_endpoint and ENDPOINT_FLAG not in ours


def drop_in(kubelet: Kubelet, options: NodeOptions) -> str:
    """The unit's drop-in; without a unit only the order of the services."""
    text = (
        "# Written by `zonal k8s install`: pods run in Zonal's zones. `zonal k8s uninstall` takes it back.\n"
        "[Unit]\nWants=zonald.service\nAfter=zonald.service\n"
    )
    if not kubelet.start:
        return text
    start = kubelet.start
    if uses_folder(kubelet, options):
        start += f" --config-dir={CONFIG_FOLDER}"
    if uses_flag(kubelet, options):
        start += f" {ENDPOINT_FLAG}=unix://{options.cri_socket}"
    return f"{text}\n[Service]\nExecStart=\nExecStart={start}\n"


def configuration(options: NodeOptions) -> str:
    """A KubeletConfiguration with what is ours (kubelet.config.k8s.io/v1beta1), for ``--config-dir``."""
    return (
        "# Written by `zonal k8s install`. A kubelet reads it when it is started with --config-dir.\n"
        "apiVersion: kubelet.config.k8s.io/v1beta1\n"
        "kind: KubeletConfiguration\n"
        f"containerRuntimeEndpoint: unix://{options.cri_socket}\n"
    )


def _fragments(root: Path) -> list[Path]:
    """The unit's file, then its drop-ins in systemd's order: by name, of equal names the first folder's."""
    unit = next((root / each / UNIT for each in UNIT_FOLDERS if (root / each / UNIT).is_file()), None)
    if unit is None:
        return []
    drop_ins: dict[str, Path] = {}
    for folder in UNIT_FOLDERS:
        for path in (root / folder / f"{UNIT}.d").glob("*.conf"):
            if path.name != DROP_IN_NAME:
                drop_ins.setdefault(path.name, path)
    return [unit, *(drop_ins[name] for name in sorted(drop_ins))]


def _lines(path: Path) -> list[str]:
    """A file's lines that are no comments, with continued ones joined; none where there is no file."""
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_FILE).decode(errors="replace")
    except OSError:
        return []
    joined = re.sub(r"\\\n", " ", text)
    return [line for line in joined.splitlines() if line.strip() and line.lstrip()[0] not in "#;"]
