"""Volumes on a node's disk, laid out as a kubelet lays them out.

Files of config maps, secrets and the like are links to ``..data/NAME``, and ``..data`` is a link to a folder of one
version: an update makes another folder and swaps the link, so that a pod sees all of the old files or all of the new.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.kube.documents import Document, Objects, Pod
from tests.kube.values import all_containers, container_resource, pod_field, quantity

Files = dict[str, tuple[bytes, int]]
"""Content and mode by path."""

_LIVE = {
    "configMap": "configmap",
    "secret": "secret",
    "downwardAPI": "downward-api",
    "projected": "projected",
}
"""Kinds whose files follow their objects, with the last part of their plugin's name."""
_IN_MEMORY = ("secret", "projected")


class Volumes:
    """The volumes of one pod, in ``folder``; ``claims`` is the folder of persistent volumes."""

    def __init__(self, objects: Objects, pod: Pod, folder: Path, claims: Path) -> None:
        self._objects = objects
        self._pod = pod
        self._folder = folder
        self._claims = claims
        self._mounted: list[Path] = []
        self.places: dict[str, Path] = {}
        """The path of each volume on the node."""

    def set_up(self, address: str = "") -> None:
        """Makes them all."""
        for volume in self._pod.spec.get("volumes", []):
            if "image" not in volume:
                self.places[volume["name"]] = self._make(volume, address)

    def update(self, address: str = "") -> None:
        """Brings what follows objects to their present state, as a kubelet does from time to time."""
        for volume in self._pod.spec.get("volumes", []):
            kind = next((kind for kind in _LIVE if kind in volume), None)
            if kind is not None:
                write_version(self.places[volume["name"]], self._files(kind, volume[kind], address))
                self._own(self.places[volume["name"]])

    def hold(self, place: Path, name: str) -> Path:
        """A bind mount of a part of a volume: a kubelet makes one for each ``subPath``."""
        target = self._folder / "volume-subpaths" / name
        if target not in self._mounted:
            if place.is_dir():
                target.mkdir(parents=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.touch()
            subprocess.run(["mount", "--bind", place, target], check=True)
            self._mounted.append(target)
        return target

    def tear_down(self) -> None:
        """Takes them away, except for those that outlive a pod."""
        for path in reversed(self._mounted):
            subprocess.run(["umount", path], check=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _make(self, volume: Document, address: str) -> Path:
        name = volume["name"]
        if "hostPath" in volume:
            return _host_path(volume["hostPath"])
        if "persistentVolumeClaim" in volume:
            place = self._claims / self._pod.claims[name]
            place.mkdir(parents=True, exist_ok=True)
            self._own(place)
            return place
        if "emptyDir" in volume:
            place = self._place("empty-dir", name)
            settings: Document = volume["emptyDir"] or {}
            if settings.get("medium") == "Memory":
                size = settings.get("sizeLimit")
                self._mount(place, f"size={int(quantity(size))}" if size else "size=64m")
            place.chmod(0o777)
            self._own(place)
            return place
        kind = next(kind for kind in _LIVE if kind in volume)
        place = self._place(_LIVE[kind], name)
        if kind in _IN_MEMORY:
            self._mount(place, "size=1m")
        write_version(place, self._files(kind, volume[kind], address))
        self._own(place)
        return place

    def _place(self, plugin: str, name: str) -> Path:
        place = self._folder / "volumes" / f"kubernetes.io~{plugin}" / name
        place.mkdir(parents=True)
        return place

    def _mount(self, place: Path, options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True)
        self._mounted.append(place)

    def _own(self, place: Path) -> None:
        """Gives a volume to the pod's ``fsGroup``: its files, and those that are made in it."""
        security: Document = self._pod.spec.get("securityContext", {})
        group: int | None = security.get("fsGroup")
        if group is None:
            return
        root = place.stat()
        if security.get("fsGroupChangePolicy") == "OnRootMismatch" and root.st_gid == group and root.st_mode & 0o2000:
            return
        for path in (place, *place.rglob("*")):
            os.chown(path, -1, group, follow_symlinks=False)
            if path.is_dir() and not path.is_symlink():
                path.chmod(path.stat().st_mode | 0o2770)

    def _files(self, kind: str, source: Document, address: str) -> Files:
        mode = int(source.get("defaultMode", 0o644))
        match kind:
            case "configMap":
                return _chosen(self._objects.config_maps.get(source["name"]), source, mode, source["name"])
            case "secret":
                name = str(source["secretName"] if "secretName" in source else source["name"])
                return _chosen(self._objects.secrets.get(name), source, mode, name)
            case "downwardAPI":
                return {item["path"]: self._downward(item, mode, address) for item in source.get("items", [])}
            case _:
                files: Files = {}
                for part in source["sources"]:
                    part_kind = next(iter(part))
                    if part_kind == "serviceAccountToken":
                        files[part[part_kind]["path"]] = (b"no token: there is no API server\n", 0o600)
                    else:
                        files |= self._files(part_kind, {"defaultMode": mode, **part[part_kind]}, address)
                return files

    def _downward(self, item: Document, mode: int, address: str) -> tuple[bytes, int]:
        if "fieldRef" in item:
            text = pod_field(self._pod, item["fieldRef"]["fieldPath"], address)
        else:
            text = container_resource(self._pod, all_containers(self._pod)[0], item["resourceFieldRef"])
        return text.encode(), int(item.get("mode", mode))


def write_version(place: Path, files: Files) -> None:
    """Makes ``files`` what a pod sees in ``place``, all at once."""
    data = place / "..data"
    if data.is_symlink() and _same(data, files):
        return
    old = data.resolve() if data.is_symlink() else None
    version = Path(tempfile.mkdtemp(prefix="..", dir=place))
    version.chmod(0o755)
    for name, (content, mode) in files.items():
        path = version / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(mode)
    link = place / "..data_tmp"
    link.symlink_to(version.name)
    link.rename(data)
    tops = {Path(name).parts[0] for name in files}
    for top in tops:
        if not (place / top).is_symlink():
            (place / top).symlink_to(f"..data/{top}")
    for path in place.iterdir():
        if not path.name.startswith("..") and path.name not in tops:
            path.unlink()
    if old is not None:
        shutil.rmtree(old)


def _same(data: Path, files: Files) -> bool:
    there = {str(path.relative_to(data.resolve())): path for path in data.resolve().rglob("*") if path.is_file()}
    return there.keys() == files.keys() and all(there[name].read_bytes() == files[name][0] for name in files)


def _chosen(data: Mapping[str, bytes] | None, source: Document, mode: int, name: str) -> Files:
    """All keys of an object, or those of ``items``."""
    if data is None:
        if source.get("optional"):
            return {}
        raise ValueError(f"there is no object {name}")
    if "items" not in source:
        return {key: (value, mode) for key, value in data.items()}
    items: list[dict[str, Any]] = source["items"]
    return {item["path"]: (data[item["key"]], int(item.get("mode", mode))) for item in items}


def _host_path(source: Document) -> Path:
    place = Path(source["path"])
    match source.get("type", ""):
        case "DirectoryOrCreate":
            place.mkdir(parents=True, exist_ok=True)
        case "FileOrCreate":
            place.touch()
        case "Directory":
            assert place.is_dir(), place
        case "File":
            assert place.is_file(), place
        case _:
            pass
    return place
