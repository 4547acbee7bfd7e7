"""The files of a node: what each says, and where it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zonal.cri.node import kubelet as kubelets
from zonal.cri.node.options import NodeOptions

CNI_FOLDER = "/etc/cni/net.d"
CNI_FILE = f"{CNI_FOLDER}/10-zonal-pods.conflist"
CNI_VERSION = "1.0.0"
RUNTIME_CLASSES = "/etc/zonal/kubernetes/runtime-classes.yaml"
CRICTL = "/etc/crictl.yaml"
SERVICE_DROP_IN = "/etc/systemd/system/zonald.service.d/20-kubernetes.conf"
CRI_VARIABLE = "ZONALD_CRI_SOCKET"
FALLBACK_VARIABLE = "ZONALD_CRI_FALLBACK"
HANDLERS = ("zonal", "edera")


@dataclass(frozen=True)
class NodeFile:
    """One file; ``path`` is absolute, and below ``--root``."""

    path: str
    content: str
    purpose: str


def node_files(root: Path, options: NodeOptions, units: Mapping[str, str], kept: frozenset[str]) -> list[NodeFile]:
    """What a node has of ours.

    ``units`` are zonald's own, by name; each is only for machines that have none from a package. ``kept`` are paths
    that we have written before: what is there "where none is" stays, though it is there now.
    """
    kubelet = kubelets.find_kubelet(root)
    files = [
        NodeFile(kubelets.CONFIG, kubelets.configuration(options), "the kubelet's configuration, for --config-dir"),
        NodeFile(kubelets.DROP_IN, kubelets.drop_in(kubelet, options), "how the kubelet is started"),
        NodeFile(RUNTIME_CLASSES, runtime_classes(options), "RuntimeClasses, for kubectl apply"),
        NodeFile(SERVICE_DROP_IN, service_drop_in(options), "zonald's socket for the kubelet"),
    ]
    for name, content in units.items():
        path = f"/etc/systemd/system/{name}"
        if path in kept or not any((root / each / name).exists() for each in kubelets.UNIT_FOLDERS):
            files.append(NodeFile(path, content, "a service of Zonal's"))
    if CNI_FILE in kept or not _has_network(root):
        files.append(NodeFile(CNI_FILE, pod_network(options), "the pods' network"))
    if CRICTL in kept or not (root / CRICTL.lstrip("/")).exists():
        files.append(NodeFile(CRICTL, crictl(options), "crictl's settings"))
    return files


def pod_network(options: NodeOptions) -> str:
    """CNI's configuration of a node by itself: a bridge, with addresses and a way out of each family."""
    ranges = [[{"subnet": str(network)}] for network in options.networks]
    routes = [{"dst": "0.0.0.0/0" if network.version == 4 else "::/0"} for network in options.networks]
    document: dict[str, Any] = {
        "cniVersion": CNI_VERSION,
        "name": "zonal-pods",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "zonal-pods0",
                "isGateway": True,
                "ipMasq": True,
                "hairpinMode": True,
                "ipam": {"type": "host-local", "ranges": ranges, "routes": routes},
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
            {"type": "firewall"},
        ],
    }
    return json.dumps(document, indent=2) + "\n"


def runtime_classes(options: NodeOptions) -> str:
    """``zonal``, and ``edera`` for manifests that were written for it (node.k8s.io/v1)."""
    return "---\n".join(
        "apiVersion: node.k8s.io/v1\n"
        "kind: RuntimeClass\n"
        "metadata:\n"
        f"  name: {name}\n"
        f"handler: {name}\n"
        "overhead:\n"
        "  podFixed:\n"
        f'    memory: "{options.overhead_memory}"\n'
        f'    cpu: "{options.overhead_cpu}"\n'
        for name in HANDLERS
    )


def crictl(options: NodeOptions) -> str:
    """crictl's own file of settings. A zone may take longer to boot than crictl by itself waits."""
    endpoint = f"unix://{options.cri_socket}"
    return f"runtime-endpoint: {endpoint}\nimage-endpoint: {endpoint}\ntimeout: 60\n"


def service_drop_in(options: NodeOptions) -> str:
    """zonald's settings for Kubernetes."""
    lines = [f"Environment={CRI_VARIABLE}={options.cri_socket}"]
    if options.fallback_socket:
        lines.append(f"Environment={FALLBACK_VARIABLE}={options.fallback_socket}")
    return "# Written by `zonal k8s install`.\n[Service]\n" + "".join(f"{line}\n" for line in lines)


def _has_network(root: Path) -> bool:
    folder = root / CNI_FOLDER.lstrip("/")
    return folder.is_dir() and any(path.suffix in (".conf", ".conflist", ".json") for path in folder.iterdir())
