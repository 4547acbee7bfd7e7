"""The network of pods: the cluster's CNI configuration, and what its plugins are told of a pod."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from zonal.api import control_pb2 as control
from zonal.cri.api import runtime_pb2 as pb
from zonal.daemon.services import NetworkService
from zonal.errors import InvalidInputError, WrongStateError, ZonalError
from zonal.network.networks import DEFAULT, Network
from zonal.zones.network_spec import NetworkSpec

log = logging.getLogger(__name__)

AUTO: Final = "auto"
"""The cluster's network, or Zonal's own while there is none."""
OTHERS_CACHE: Final = Path("/var/lib/cni/results")
"""Where libcni, and so other runtimes, write down what they have attached."""
LOST_AFTER: Final = 2
"""Checks one after another that must fail: plugins may be busy, or being replaced."""
_INGRESS, _EGRESS = "kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth"
_BURST = (1 << 32) - 1
"""Bits: the plugin's most, as other runtimes have it."""
_QUANTITY = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?", re.ASCII)
_FACTORS: Mapping[str | None, Decimal] = {
    None: Decimal(1),
    "m": Decimal("0.001"),
    **{letter: Decimal(1000) ** power for power, letter in enumerate("kMGTP", 1)},
    **{f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTP", 1)},
}
_MOST_CACHED = 10_000


class PodNetwork:
    """Chooses it, and watches over it. ``name``: of a network; "" for the cluster's; or ``AUTO``."""

    def __init__(self, networks: NetworkService, name: str = "", others: Path = OTHERS_CACHE) -> None:
        self._networks = networks
        self._name = name
        self._others = others
        self._failures: dict[str, int] = {}

    def find(self) -> Network:
        """The network that the next pod will be on. Raises ``ZonalError``."""
        store = self._networks.networks
        if self._name not in ("", AUTO):
            return store.find(self._name)
        try:
            return store.first()
        except ZonalError:
            if self._name != AUTO:
                raise
            return store.find(DEFAULT)

    async def check(self) -> None:
        """Raises ``ZonalError`` when a pod could not be attached now."""
        await self._networks.status(self.find())

    def describe(self) -> dict[str, object]:
        """For people: which network it is, and what decides."""
        try:
            found = self.find()
        except ZonalError as error:
            return {"error": str(error)}
        return {"name": found.name, "configuration": found.source or "Zonal's own"}

    def choose(self, request: control.RunSpec) -> Network:
        """Puts the network into a request for a pod's zone. Raises ``ZonalError``."""
        chosen = self.find()
        request.network.network = chosen.name
        if request.network.ports and chosen.source:
            configuration = self._networks.networks.configuration(chosen)
            if not configuration.takes("portMappings"):
                # Some networks see to host ports by themselves; so other runtimes say nothing either.
                log.info("the network %s is told of no host ports: it has no plugin for them", chosen.name)
                del request.network.ports[:]
        return chosen

    def for_pod(self, spec: NetworkSpec, pod_id: str, config: pb.PodSandboxConfig, chosen: Network) -> NetworkSpec:
        """With what plugins are told of the pod. Raises ``InvalidInputError``."""
        metadata = config.metadata
        arguments = {
            "K8S_POD_NAMESPACE": metadata.namespace,
            "K8S_POD_NAME": metadata.name,
            "K8S_POD_INFRA_CONTAINER_ID": pod_id,
            "K8S_POD_UID": metadata.uid,
        }
        for name, value in arguments.items():
            if ";" in value or "=" in value:
                raise InvalidInputError(f"{value[:80]!r} cannot be told to network plugins as {name}")
        if not chosen.source:
            return spec
        return replace(spec, arguments=tuple(arguments.items()), capabilities=capabilities(config))

    def is_lost(self, pod_id: str) -> bool:
        """Whether a pod's network is gone, or has not been as it should for a while."""
        return self._failures.get(pod_id, 0) >= LOST_AFTER or not self._networks.is_there(pod_id)

    async def look(self, pod_id: str) -> None:
        """Has plugins check a pod's network."""
        try:
            await self._networks.check(pod_id)
        except ZonalError as error:
            failures = self._failures[pod_id] = self._failures.get(pod_id, 0) + 1
            log.warning("pod %s: its network is not as it was (%d): %s", pod_id[:12], failures, error)
        else:
            self._failures.pop(pod_id, None)

    def forget(self, pod_id: str) -> None:
        """It has been removed."""
        self._failures.pop(pod_id, None)

    async def collect(self) -> None:
        """Has plugins give up what neither we nor another runtime has attached."""
        try:
            network = self.find()
            await self._networks.collect(network, self._of_others(network.name))
        except ZonalError as error:
            log.info("nothing is given up of the pods' network: %s", error)

    def _of_others(self, network: str) -> list[tuple[str, str]]:
        """Raises ``WrongStateError`` when that cannot be known."""
        found: list[tuple[str, str]] = []
        paths = sorted(self._others.iterdir()) if self._others.is_dir() else []
        if len(paths) > _MOST_CACHED:
            raise WrongStateError(f"{self._others} has {len(paths)} files")
        for path in paths:
            with suppress(FileNotFoundError):
                try:
                    document = json.loads(path.read_bytes())
                    if document["networkName"] == network:
                        found.append((str(document["containerId"]), str(document["ifName"])))
                except (ValueError, KeyError, TypeError) as error:
                    raise WrongStateError(f"{path} cannot be read: {error}") from error
        return found


def capabilities(config: pb.PodSandboxConfig) -> dict[str, Any]:
    """What a pod has for plugins that take it, beside its ports. Raises ``InvalidInputError``."""
    found: dict[str, Any] = {"io.kubernetes.cri.pod-annotations": dict(config.annotations)}
    if rates := bandwidth(config.annotations):
        found["bandwidth"] = rates
    if config.HasField("dns_config"):
        dns = config.dns_config
        found["dns"] = {"servers": [*dns.servers], "searches": [*dns.searches], "options": [*dns.options]}
    return found


def bandwidth(annotations: Mapping[str, str]) -> dict[str, int]:
    """Bits a second that a pod may get and send, by its annotations. Raises ``InvalidInputError``."""
    found: dict[str, int] = {}
    for name, key in ((_INGRESS, "ingress"), (_EGRESS, "egress")):
        text = annotations.get(name)
        if text is None:
            continue
        match = _QUANTITY.fullmatch(text)
        rate = int(Decimal(match[1]) * _FACTORS[match[2]]) if match else 0
        if not 1000 <= rate <= 10**15:
            raise InvalidInputError(f"{name} is {text[:40]!r}", hint="from 1k to 1P bits a second, such as 10M")
        found[f"{key}Rate"], found[f"{key}Burst"] = rate, _BURST
    return found
