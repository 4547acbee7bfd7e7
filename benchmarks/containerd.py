"""A containerd of the benchmark's own inside the lab's host, with runc, for pods beside those in zones."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.cri import Cri
from benchmarks.measuring import run

STATE = Path("/run/bench-containerd")
SOCKET = STATE / "containerd.sock"
PAUSE = "bench/pause:1"
SECONDS = 60
_CONFIG = """\
version = 2
root = "{root}"
state = "{state}"
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # Debian's AppArmor profiles are not there in the lab.
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{network}"
"""


@contextmanager
def containerd(work: Path, network: Path) -> Generator[Cri]:
    """It serves within the block, and keeps its images; ``network``: the folder with CNI's configuration."""
    shutil.rmtree(STATE, ignore_errors=True)
    STATE.mkdir()
    settings = work / "containerd.toml"
    settings.write_text(
        _CONFIG.format(root=work / "containerd", state=STATE, socket=SOCKET, pause=full_name(PAUSE), network=network)
    )
    with (work / "containerd.log").open("wb") as log:
        process = subprocess.Popen(
            ["containerd", "--config", str(settings)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    cri = Cri("containerd", SOCKET)
    try:
        until_ready(cri)
        if not cri.has_image(PAUSE):
            import_image(work, PAUSE, pause_root(work))
        yield cri
        cri.remove_all()
    except BaseException:
        print((work / "containerd.log").read_text()[-3000:], file=sys.stderr)
        raise
    finally:
        process.terminate()
        process.wait()


def until_ready(cri: Cri) -> None:
    """Raises ``TimeoutError`` when it does not come to serve pods."""
    deadline = time.monotonic() + SECONDS
    while why := cri.ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{cri.who} is not ready: {why}")
        time.sleep(0.5)


def full_name(image: str) -> str:
    """As containerd has it."""
    return f"docker.io/{image if '/' in image else f'library/{image}'}"


def pause_root(work: Path) -> Path:
    """What holds a pod's namespaces there: upstream's does nothing but wait, as this does."""
    path = work / "pause.tar"
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("sleep")
        member.mode = 0o755
        data = Path("/usr/bin/busybox").read_bytes()
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return path


def import_image(work: Path, name: str, root: Path) -> None:
    """``root``, a tar of a root filesystem, as an image of one layer."""
    folder = work / "image"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    layer = hashlib.sha256()
    with root.open("rb") as file:
        while data := file.read(1 << 20):
            layer.update(data)
    config: dict[str, Any] = {"architecture": "amd64", "os": "linux"}
    config["config"] = {"Entrypoint": ["/sleep", "2147483647"]} if name == PAUSE else {"Cmd": ["bash"]}
    config["rootfs"] = {"type": "layers", "diff_ids": [f"sha256:{layer.hexdigest()}"]}
    (folder / "config.json").write_text(json.dumps(config))
    manifest = [{"Config": "config.json", "RepoTags": [full_name(name)], "Layers": ["layer.tar"]}]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    root.rename(folder / "layer.tar")
    archive = work / "image.tar"
    run(["tar", "-C", str(folder), "-cf", str(archive), "manifest.json", "config.json", "layer.tar"])
    shutil.rmtree(folder)
    run(["ctr", "-a", str(SOCKET), "-n", "k8s.io", "images", "import", str(archive)])
    archive.unlink()
