"""The stand-in for the kubelet does what a kubelet does with values and files."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.kube.documents import Document, Objects, Pod, load
from tests.kube.translate import container_config, sandbox_config
from tests.kube.values import environment, expand, quantity
from tests.kube.volumes import Volumes, write_version
from zonal.cri.api import runtime_pb2 as cri

MANIFESTS = Path(__file__).parents[2] / "manifests"


def a_pod(spec: Document) -> Pod:
    containers: list[Document] = spec.setdefault("containers", [{"name": "main", "image": "image"}])
    assert containers
    return Pod("web-0", "shop", {"app": "web"}, {"owner": "me"}, spec)


def config_of(pod: Pod, folder: Path) -> cri.ContainerConfig:
    container = pod.spec["containers"][0]
    places = {each["name"]: folder / each["name"] for each in pod.spec.get("volumes", [])}
    return container_config(
        Objects(), pod, container, places, folder, image="image", image_id="sha256:i", address="10.0.0.9", attempt=2
    )


def test_quantities() -> None:
    assert [int(quantity(text)) for text in ("1Gi", "64Mi", "5k", 7, "1.5M")] == [1 << 30, 64 << 20, 5000, 7, 1500000]
    assert float(quantity("250m")) == 0.25
    for text in ("", "Mi", "1 Mi", "-1"):
        with pytest.raises(ValueError):
            quantity(text)


def test_variables_are_expanded_as_kubernetes_does() -> None:
    assert expand("$(A) $(B) $$(A) $A", {"A": "1"}) == "1 $(B) $(A) $A"


def test_an_environment() -> None:
    objects = Objects(config_maps={"m": {"x": b"1", "y": b"2"}}, secrets={"s": {"key": b"hidden"}})
    container: Document = {
        "name": "main",
        "envFrom": [{"prefix": "M_", "configMapRef": {"name": "m"}}],
        "env": [
            {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "key"}}},
            {"name": "BOTH", "value": "$(SECRET)-$(M_x)"},
            {"name": "NONE", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "z", "optional": True}}},
            {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
        ],
        "resources": {"limits": {"cpu": "1500m"}},
    }
    found = environment(objects, a_pod({"containers": [container]}), container, "10.0.0.9")
    assert found == {
        "M_x": "1",
        "M_y": "2",
        "SECRET": "hidden",
        "BOTH": "hidden-1",
        "APP": "web",
        "IP": "10.0.0.9",
        "CPU": "1500",
    }


def test_live_files_change_all_at_once(tmp_path: Path) -> None:
    write_version(tmp_path, {"a": (b"0", 0o644), "b": (b"0", 0o644), "deep/c": (b"0", 0o600)})
    assert (tmp_path / "a").is_symlink() and (tmp_path / "deep/c").read_bytes() == b"0"
    torn: list[tuple[bytes, bytes]] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            try:
                version = (tmp_path / "..data").resolve()
                pair = (version / "a").read_bytes(), (version / "b").read_bytes()
            except FileNotFoundError:
                continue  # that version was just taken away
            if pair[0] != pair[1]:
                torn.append(pair)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(1, 200):
        text = str(number).encode()
        write_version(tmp_path, {"a": (text, 0o644), "b": (text, 0o644)})
    stop.set()
    reader.join()
    assert not torn
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("..")) == ["a", "b"]
    assert len([path for path in tmp_path.iterdir() if path.name.startswith("..")]) == 2  # one version, and the link


def test_volumes_of_every_kind_that_needs_no_mount(tmp_path: Path) -> None:
    objects = Objects(config_maps={"m": {"x": b"1", "y": b"2"}})
    pod = a_pod(
        {
            "volumes": [
                {"name": "all", "configMap": {"name": "m", "defaultMode": 0o400}},
                {"name": "some", "configMap": {"name": "m", "items": [{"key": "x", "path": "deep/x"}]}},
                {"name": "down", "downwardAPI": {"items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.name"}}]}},
                {"name": "disk", "emptyDir": {}},
                {"name": "host", "hostPath": {"path": str(tmp_path / "host"), "type": "DirectoryOrCreate"}},
                {"name": "claim", "persistentVolumeClaim": {"claimName": "c"}},
                {"name": "image", "image": {"reference": "debian:13"}},
                {"name": "gone", "configMap": {"name": "none", "optional": True}},
            ]
        }
    )
    pod.claims["claim"] = "c"
    volumes = Volumes(objects, pod, tmp_path / "pod", tmp_path / "claims")
    volumes.set_up()
    places = volumes.places
    assert (places["all"] / "x").read_bytes() == b"1"
    assert (places["all"] / "x").stat().st_mode & 0o777 == 0o400
    assert (places["some"] / "deep/x").read_bytes() == b"1" and not (places["some"] / "y").exists()
    assert (places["down"] / "n").read_text() == "web-0"
    assert places["disk"].stat().st_mode & 0o777 == 0o777
    assert "image" not in places
    (places["claim"] / "kept").touch()
    objects.config_maps["m"] = {"x": b"3"}
    volumes.update()
    assert (places["all"] / "x").read_bytes() == b"3" and not (places["all"] / "y").is_symlink()
    volumes.tear_down()
    assert (tmp_path / "claims/c/kept").exists() and not (tmp_path / "pod").exists()


def test_a_container_as_the_cri_has_it(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    container: Document = {
        "name": "main",
        "image": "image",
        "command": ["run", "$(X)"],
        "env": [{"name": "X", "value": "y"}],
        "resources": {"requests": {"cpu": "250m"}, "limits": {"cpu": "500m", "memory": "64Mi"}},
        "securityContext": {"runAsUser": 7, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "data", "mountPath": "/data", "subPathExpr": "of-$(X)", "readOnly": True}],
        "ports": [{"containerPort": 80, "hostPort": 8080, "protocol": "UDP"}],
    }
    pod = a_pod(
        {
            "containers": [container],
            "volumes": [{"name": "data", "emptyDir": {}}],
            "securityContext": {
                "runAsUser": 5,
                "runAsGroup": 6,
                "fsGroup": 9,
                "sysctls": [{"name": "a", "value": "b"}],
            },
            "shareProcessNamespace": True,
        }
    )
    config = config_of(pod, tmp_path)
    assert list(config.command) == ["run", "y"]
    assert config.mounts[0].host_path == str(tmp_path / "data/of-y") and config.mounts[0].readonly
    assert (tmp_path / "data/of-y").is_dir()
    resources = config.linux.resources
    assert (resources.cpu_quota, resources.cpu_period, resources.cpu_shares) == (50000, 100000, 256)
    assert resources.memory_limit_in_bytes == 64 << 20
    security = config.linux.security_context
    assert (security.run_as_user.value, security.run_as_group.value) == (7, 6)
    assert list(security.supplemental_groups) == [9] and security.no_new_privs
    assert security.namespace_options.pid == cri.POD
    assert (config.log_path, config.metadata.attempt) == ("main/2.log", 2)
    sandbox = sandbox_config(pod, tmp_path)
    port = sandbox.port_mappings[0]
    assert (port.protocol, port.container_port, port.host_port) == (cri.UDP, 80, 8080)
    assert dict(sandbox.linux.sysctls) == {"a": "b"} and sandbox.hostname == "web-0"


def test_a_sub_path_stays_in_its_volume(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/out").symlink_to("/etc")
    mount = {"name": "data", "mountPath": "/data", "subPath": "out"}
    pod = a_pod(
        {
            "containers": [{"name": "main", "image": "image", "volumeMounts": [mount]}],
            "volumes": [{"name": "data", "emptyDir": {}}],
        }
    )
    with pytest.raises(ValueError, match="leads out of its volume"):
        config_of(pod, tmp_path)


def test_the_manifests_pods() -> None:
    objects = load(*sorted(MANIFESTS.glob("*.yaml")))
    assert set(objects.pods) == {"database-0", "web-0", "primes-0", "postgresql-0"}
    member = objects.pods["postgresql-0"]
    assert member.spec["hostname"] == "postgresql-0" and member.claims == {"data": "data-postgresql-0"}
