"""Measures images and storage inside the lab's host: one line of JSON at the end, progress on stderr.

Standard library only. Zone and container take turns. I/O is fio's, direct, from the
same image; rates are MiB/s, of random reads operations a second, and pulls and ``git status`` are seconds.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import random
import shutil
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measuring import Samples, import_debian, note, output, run, timed

WORK = Path("/var/lib/zonal/bench")
REGISTRY = "127.0.0.1:5055"  # Debian's own service has 5000, and wants a password
LAYER = 60 << 20
FILE = 128
"""MiB that fio works on."""
FILES = 20_000
IMAGE = "bench:1"
MEMORY = "512M"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("pulls", "disks", "directories"))
    given = parser.parse_args()
    rounds = given.rounds
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    samples: Samples = {}
    try:
        if given.only in (None, "pulls"):
            measure_pulls(samples, rounds)
        if given.only != "pulls":
            make_image()
        if given.only in (None, "disks"):
            measure_disks(samples, rounds)
        if given.only in (None, "directories"):
            measure_directory(samples, rounds)
    finally:
        subprocess.run("zonal zone ls -aq | xargs -r zonal zone rm -f; zonal volume rm bench", shell=True, check=False)
        shutil.rmtree(WORK, ignore_errors=True)
    print(json.dumps(samples))


def measure_pulls(samples: Samples, rounds: int) -> None:
    """300 MiB in five layers, and another image with four of them, from a registry on the loopback."""
    configuration = WORK / "registry.yml"
    configuration.write_text(
        "version: 0.1\nlog: {level: error}\n"
        f"storage: {{filesystem: {{rootdirectory: {WORK}/registry}}}}\nhttp: {{addr: {REGISTRY}}}\n"
    )
    server = subprocess.Popen(["docker-registry", "serve", str(configuration)], stderr=subprocess.DEVNULL)
    try:
        time.sleep(3)
        layers = [make_layer(number) for number in range(6)]
        for tag, chosen in (("1", layers[:5]), ("2", [*layers[:4], layers[5]])):
            push(tag, chosen)
        name = f"{REGISTRY}/bench/layers"
        for _ in range(rounds):
            for who, pull, remove in (
                ("zonal", ["zonal", "pull", "-q", "--tls-verify=false"], ["zonal", "image", "rm"]),
                ("docker", ["docker", "pull", "-q"], ["docker", "rmi"]),
            ):
                for key, tag in (("pull", "1"), ("pull again", "2")):
                    note(samples, key, who, timed([*pull, f"{name}:{tag}"]))
                for tag in ("1", "2"):
                    run([*remove, f"{name}:{tag}"])
    finally:
        server.kill()
        server.wait()


def make_layer(number: int) -> Path:
    """Files of all sizes, half of it random, gzipped as registries have it."""
    path = WORK / f"layer-{number}.tar"
    source = random.Random(number)
    with tarfile.open(path, "w") as archive:
        done = 0
        while done < LAYER:
            size = min(LAYER - done, source.choice([2_000, 20_000, 200_000, 4_000_000]))
            data = source.randbytes(size // 2) + bytes(size - size // 2)
            member = tarfile.TarInfo(f"layer{number}/{done:09}")
            member.size = size
            archive.addfile(member, io.BytesIO(data))
            done += size
    return path


def push(tag: str, layers: list[Path]) -> None:
    """By an OCI layout, which skopeo sends."""
    layout = WORK / f"layout-{tag}"
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def blob(data: bytes, kind: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    descriptors: list[dict[str, Any]] = []
    diff_ids: list[str] = []
    for path in layers:
        packed = path.with_suffix(".tar.gz")
        if not packed.exists():
            run(["gzip", "-1", "-k", str(path)])
        diff_ids.append("sha256:" + hashlib.sha256(path.read_bytes()).hexdigest())
        descriptors.append(blob(packed.read_bytes(), "layer.v1.tar+gzip"))
    config: dict[str, Any] = {"architecture": "amd64", "os": "linux", "config": {"Cmd": ["true"]}}
    config["rootfs"] = {"type": "layers", "diff_ids": diff_ids}
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(json.dumps(config).encode(), "config.v1+json"),
        "layers": descriptors,
    }
    index = {"schemaVersion": 2, "manifests": [blob(json.dumps(manifest).encode(), "manifest.v1+json")]}
    (layout / "index.json").write_text(json.dumps(index))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    target = f"docker://{REGISTRY}/bench/layers:{tag}"
    run(["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}", target])


def make_image() -> None:
    """Debian with fio, git and a large file, for both."""
    run(["dd", "if=/dev/urandom", "of=/data.bin", "bs=1M", f"count={FILE}", "status=none"])
    import_debian(IMAGE, WORK, ["/usr/bin/fio", "/usr/bin/git"], ["/data.bin"])
    Path("/data.bin").unlink()


def measure_disks(samples: Samples, rounds: int) -> None:
    """fio on a file of the image, and on a volume."""
    run(["zonal", "volume", "create", "bench", "--size", "2G"])
    run(["docker", "volume", "create", "bench"])
    jobs = {
        "image read": fio("read", "1M", "/data.bin", "--readonly"),
        "volume write": fio("write", "1M", "/v/file", "--end_fsync=1"),
        "volume read": fio("read", "1M", "/v/file"),
        "volume random": fio("randread", "4k", "/v/file", "--ioengine=libaio", "--iodepth=16", "--runtime=10"),
    }
    for _ in range(rounds):
        for key, job in jobs.items():
            for who, command in sides("-v", "bench:/v"):
                note(samples, key, who, rate([*command, *job], operations=key == "volume random"))


def measure_directory(samples: Samples, rounds: int) -> None:
    """A directory of the host, by 9p and by a bind mount."""
    shared = WORK / "shared"
    shared.mkdir()
    run(["dd", "if=/dev/urandom", f"of={shared}/file", "bs=1M", f"count={FILE}", "status=none"])
    tree = shared / "tree"
    for number in range(FILES):
        folder = tree / f"{number // 1000:02}" / f"{number // 50:04}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}").write_text(f"{number}\n")
    git = ["git", "-C", str(tree), "-c", "user.name=b", "-c", "user.email=b@localhost", "-c", "gc.auto=0"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        run([*git, *arguments])
    status = "export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*' GIT_OPTIONAL_LOCKS=0; "
    status += "date +%s.%N; git -C /d/tree status --porcelain; date +%s.%N"
    for turn in range(rounds):
        for who, command in sides("-v", f"{shared}:/d"):
            note(samples, "directory read", who, rate([*command, *fio("read", "1M", "/d/file")], operations=False))
        if turn > 0:
            continue
        for word in ("consistent", "cached", "delegated"):
            for who, command in sides("-v", f"{shared}:/d:{word}"):
                if who == "docker" and word != "consistent":
                    continue  # to docker they are all the same on Linux
                lines = output([*command, "timeout", "900", "sh", "-c", status]).split()
                note(samples, f"git status of 20,000 files, {word}", who, float(lines[-1]) - float(lines[0]))


def sides(*options: str) -> list[tuple[str, list[str]]]:
    """The same for both."""
    return [
        ("zonal", ["zonal", "run", "--rm", "-m", MEMORY, "--network", "none", *options, IMAGE]),
        ("docker", ["docker", "run", "--rm", "-m", MEMORY, "--network", "none", *options, IMAGE]),
    ]


def fio(kind: str, block: str, path: str, *options: str) -> list[str]:
    """One job."""
    size = f"--size={FILE}M"
    job = ["fio", "--name=x", f"--rw={kind}", f"--bs={block}", f"--filename={path}", size, "--direct=1"]
    return [*job, *options, "--output-format=json"]


def rate(command: list[str], *, operations: bool) -> float:
    """What fio reports."""
    text = output(command)
    (job,) = json.loads(text[text.index("{") :])["jobs"]
    side = job["read"] if job["read"]["total_ios"] else job["write"]
    return float(side["iops"]) if operations else float(side["bw_bytes"]) / (1 << 20)


if __name__ == "__main__":
    main()
