"""What ``zonal k8s install`` can be told."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network, IPv6Network, ip_network

from zonal.errors import InvalidInputError

DEFAULT_CRI_SOCKET = "/run/zonal/cri.sock"
DEFAULT_POD_RANGES = ("10.186.0.0/16", "fd5a:6f6e:616c:1::/64")
"""For pods where no cluster network says otherwise: apart from zonal's own networks, docker's and podman's."""
DEFAULT_OVERHEAD_MEMORY = "128Mi"
"""What a pod's zone may have beyond its containers' limits: ``zonal.cri.pod_spec.OWN_SHARE``."""
DEFAULT_OVERHEAD_CPU = "50m"
MAX_SOCKET_PATH = 107
"""Bytes: ``sun_path`` of linux/un.h, less the NUL."""

_QUANTITY = re.compile(r"[0-9]{1,12}(\.[0-9]{1,3})?(m|k|M|G|T|Ki|Mi|Gi|Ti)?", re.ASCII)
_SOCKET = re.compile(r"/[A-Za-z0-9._+/@-]+", re.ASCII)
_VERSION = re.compile(r"(?:Kubernetes )?v?(1)\.([0-9]{1,3})(?:[.+-].*)?", re.ASCII)


class KubeletWay(Enum):
    """How a kubelet is told of the socket."""

    AUTO = "auto"
    """By what its version knows."""
    FLAG = "flag"
    """``--container-runtime-endpoint``: every version up to now has it."""
    CONFIG = "config"
    """A file of the folder given by ``--config-dir``: versions from 1.30 on."""


@dataclass(frozen=True)
class NodeOptions:
    """Checked; raises ``InvalidInputError``."""

    cri_socket: str = DEFAULT_CRI_SOCKET
    fallback_socket: str = ""
    """The other runtime's socket, for pods that are not ours; none by default."""
    pod_ranges: tuple[str, ...] = DEFAULT_POD_RANGES
    """CIDR: at most one of each family, for CNI's default configuration."""
    overhead_memory: str = DEFAULT_OVERHEAD_MEMORY
    overhead_cpu: str = DEFAULT_OVERHEAD_CPU
    way: KubeletWay = KubeletWay.AUTO
    kubelet_version: str = ""
    """Such as ``v1.33.2``; empty when it is not known."""

    def __post_init__(self) -> None:
        for name, socket in (("--socket", self.cri_socket), ("--fallback", self.fallback_socket)):
            if (socket or name == "--socket") and not _SOCKET.fullmatch(socket):
                raise InvalidInputError(f"{name} {socket[:200]!r} is not the absolute path of a socket")
            if len(socket) > MAX_SOCKET_PATH:
                raise InvalidInputError(f"{name} has more than {MAX_SOCKET_PATH} bytes: {socket[:200]}")
        if self.cri_socket == self.fallback_socket:
            raise InvalidInputError("--fallback is Zonal's own socket", hint="give the other runtime's")
        for name, quantity in (("--overhead-memory", self.overhead_memory), ("--overhead-cpu", self.overhead_cpu)):
            if not _QUANTITY.fullmatch(quantity):
                raise InvalidInputError(
                    f"{name} {quantity[:80]!r} is not a quantity of Kubernetes", hint="such as 128Mi or 50m"
                )
        families = [network.version for network in self.networks]
        if not 1 <= len(families) <= 2 or len(set(families)) != len(families):
            raise InvalidInputError("--pod-cidr: one range of IPv4, one of IPv6, or one of each")
        if self.kubelet_version and not _VERSION.fullmatch(self.kubelet_version):
            raise InvalidInputError(f"{self.kubelet_version[:80]!r} is not a version of the kubelet", hint="v1.33.2")

    @property
    def networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """``pod_ranges``, read."""
        try:
            return tuple(ip_network(each) for each in self.pod_ranges)
        except ValueError as error:
            raise InvalidInputError(f"--pod-cidr: {error}", hint="such as 10.186.0.0/16") from error

    @property
    def kubelet_minor(self) -> int | None:
        """33 of v1.33.2, or ``None``."""
        match = _VERSION.fullmatch(self.kubelet_version)
        return int(match[2]) if match else None
