"""Quantities, the downward API, and environments: the values in a pod that are not written in it."""

from __future__ import annotations

import math
import os
import re
from fractions import Fraction
from typing import Any

from tests.kube.documents import Document, Objects, Pod

_SUFFIXES: dict[str, Fraction] = {
    "": Fraction(1),
    "m": Fraction(1, 1000),
    **{letter: Fraction(1000**power) for power, letter in enumerate("kMGTPE", 1)},
    **{f"{letter}i": Fraction(1024**power) for power, letter in enumerate("KMGTPE", 1)},
}
_QUANTITY = re.compile(r"([0-9.]+)([a-zA-Z]*)")
_VARIABLE = re.compile(r"\$(\$|\(([-._a-zA-Z0-9]+)\))")


def quantity(value: str | int | float) -> Fraction:
    """``500m``, ``64Mi`` or ``2`` as a number."""
    match = _QUANTITY.fullmatch(str(value))
    if match is None:
        raise ValueError(f"{value!r} is not a quantity")
    return Fraction(match[1]) * _SUFFIXES[match[2]]


def expand(text: str, values: dict[str, str]) -> str:
    """``$(NAME)`` replaced by its value; what is not known, and ``$$``, as Kubernetes has them."""

    def value(match: re.Match[str]) -> str:
        if match[1] == "$":
            return "$"
        return values.get(match[2], match[0])

    return _VARIABLE.sub(value, text)


def pod_field(pod: Pod, path: str, address: str) -> str:
    """A field of the downward API; ``address`` is the pod's."""
    match = re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path)
    if match:
        return (pod.labels if match[1] == "labels" else pod.annotations).get(match[2], "")
    host = os.uname().nodename
    values = {
        "metadata.name": pod.name,
        "metadata.namespace": pod.namespace,
        "metadata.uid": pod.uid,
        "spec.nodeName": host,
        "spec.serviceAccountName": pod.spec.get("serviceAccountName", "default"),
        "status.hostIP": "127.0.0.1",
        "status.podIP": address,
        "status.podIPs": address,
    }
    if path in ("metadata.labels", "metadata.annotations"):
        pairs = pod.labels if path.endswith("labels") else pod.annotations
        return "\n".join(f'{key}="{value}"' for key, value in sorted(pairs.items()))
    return values[path]


def container_resource(pod: Pod, container: Document, source: Document) -> str:
    """A ``resourceFieldRef``: rounded up to its divisor."""
    name = source.get("containerName")
    if name:
        container = next(each for each in all_containers(pod) if each["name"] == name)
    kind, resource = source["resource"].split(".")
    amount = container.get("resources", {}).get(kind, {}).get(resource, 0)
    return str(math.ceil(quantity(amount) / (quantity(source.get("divisor", 1)) or 1)))


def all_containers(pod: Pod) -> list[Document]:
    """Init containers, then the others."""
    return [*pod.spec.get("initContainers", []), *pod.spec["containers"]]


def environment(objects: Objects, pod: Pod, container: Document, address: str) -> dict[str, str]:
    """The variables of a container, in their order, each of which may use those before it."""
    values: dict[str, str] = {}
    for source in container.get("envFrom", []):
        for kind, known in (("configMapRef", objects.config_maps), ("secretRef", objects.secrets)):
            if kind in source:
                prefix = source.get("prefix", "")
                values |= {f"{prefix}{key}": value.decode() for key, value in known[source[kind]["name"]].items()}
    for variable in container.get("env", []):
        if "valueFrom" in variable:
            value = _value_from(objects, pod, container, variable["valueFrom"], address)
            if value is not None:
                values[variable["name"]] = value
        else:
            values[variable["name"]] = expand(variable.get("value", ""), values)
    return values


def _value_from(objects: Objects, pod: Pod, container: Document, source: Document, address: str) -> str | None:
    if "fieldRef" in source:
        return pod_field(pod, source["fieldRef"]["fieldPath"], address)
    if "resourceFieldRef" in source:
        return container_resource(pod, container, source["resourceFieldRef"])
    key: dict[str, Any]
    if "configMapKeyRef" in source:
        key, known = source["configMapKeyRef"], objects.config_maps
    else:
        key, known = source["secretKeyRef"], objects.secrets
    found = known.get(key["name"], {}).get(key["key"])
    if found is None and not key.get("optional"):
        raise ValueError(f"there is no key {key['key']} in {key['name']}")
    return None if found is None else found.decode()
