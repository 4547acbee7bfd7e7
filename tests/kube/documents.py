"""Manifests as files: their objects, and the pods that their workloads stand for."""

from __future__ import annotations

import base64
import copy
import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Document = dict[str, Any]


@dataclass
class Pod:
    """A pod as a kubelet gets it. ``claims`` are the claims of its volumes by the volumes' names."""

    name: str
    namespace: str
    labels: dict[str, str]
    annotations: dict[str, str]
    spec: Document
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))
    claims: dict[str, str] = field(default_factory=dict[str, str])


@dataclass
class Objects:
    """All of some manifests. What config maps and secrets hold can be replaced while pods use it."""

    config_maps: dict[str, dict[str, bytes]] = field(default_factory=dict[str, dict[str, bytes]])
    secrets: dict[str, dict[str, bytes]] = field(default_factory=dict[str, dict[str, bytes]])
    pods: dict[str, Pod] = field(default_factory=dict[str, Pod])
    """By name."""

    def add(self, document: Document) -> None:
        """Takes one object in."""
        kind, metadata = document["kind"], document["metadata"]
        name, namespace = metadata["name"], metadata.get("namespace", "default")
        match kind:
            case "ConfigMap":
                texts = {key: value.encode() for key, value in document.get("data", {}).items()}
                binary = {key: base64.b64decode(value) for key, value in document.get("binaryData", {}).items()}
                self.config_maps[name] = {**texts, **binary}
            case "Secret":
                encoded = {key: base64.b64decode(value) for key, value in document.get("data", {}).items()}
                self.secrets[name] = {**encoded, **{k: v.encode() for k, v in document.get("stringData", {}).items()}}
            case "Pod":
                self._add_pod(name, namespace, document)
            case "Deployment":
                for number in range(document["spec"].get("replicas", 1)):
                    self._add_pod(f"{name}-{number}", namespace, document["spec"]["template"])
            case "Job":
                for number in range(document["spec"].get("parallelism", 1)):
                    self._add_pod(f"{name}-{number}", namespace, document["spec"]["template"])
            case "StatefulSet":
                for number in range(document["spec"].get("replicas", 1)):
                    self._add_member(f"{name}-{number}", namespace, document["spec"])
            case "Service" | "PersistentVolumeClaim" | "Namespace":
                pass  # nothing that a node does
            case _:
                raise ValueError(f"a manifest has a {kind}, which this stand-in does not know")

    def _add_pod(self, name: str, namespace: str, template: Document) -> Pod:
        metadata = template.get("metadata", {})
        pod = Pod(
            name=name,
            namespace=namespace,
            labels=dict(metadata.get("labels", {})),
            annotations=dict(metadata.get("annotations", {})),
            spec=copy.deepcopy(template["spec"]),
        )
        for volume in pod.spec.get("volumes", []):
            if claim := volume.get("persistentVolumeClaim"):
                pod.claims[volume["name"]] = claim["claimName"]
        self.pods[name] = pod
        return pod

    def _add_member(self, name: str, namespace: str, spec: Document) -> None:
        """A StatefulSet's pod: named by its ordinal, as its host and its claims are."""
        pod = self._add_pod(name, namespace, spec["template"])
        pod.spec.setdefault("hostname", name)
        pod.spec.setdefault("subdomain", spec.get("serviceName", ""))
        for template in spec.get("volumeClaimTemplates", []):
            volume = template["metadata"]["name"]
            pod.claims[volume] = f"{volume}-{name}"
            claim = {"name": volume, "persistentVolumeClaim": {"claimName": pod.claims[volume]}}
            pod.spec.setdefault("volumes", []).append(claim)


def load(*paths: Path) -> Objects:
    """Reads manifests, as YAML or, by their suffix, as JSON."""
    objects = Objects()
    for path in paths:
        for document in _documents(path):
            objects.add(document)
    return objects


def _documents(path: Path) -> Iterable[Document]:
    text = path.read_text()
    if path.suffix == ".json":
        return [json.loads(text)]
    import yaml

    return [document for document in yaml.safe_load_all(text) if document]
