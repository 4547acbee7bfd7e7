"""Images of a few MiB that can be run, for tests that need many of them: the host's busybox, content, and a version."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.lab.driver import Host
from tests.unit.images.registry import Registry
from tests.unit.images.tarballs import OciLayout, configuration, digest, file, folder, symlink, tarball

MIB = 1 << 20


@dataclass(frozen=True)
class SmallImages:
    """Makes them upon one shared layer."""

    base: bytes

    @classmethod
    def of(cls, host: Host) -> SmallImages:
        """With the busybox that the host has."""
        program = host.zonal("lab", "shell", "--name", host.lab, "--", "cat /bin/busybox").stdout
        assert program[:4] == b"\x7fELF"
        names = ("sh", "cat", "sha256sum", "sleep", "true")
        links = (symlink(f"bin/{name}", "busybox") for name in names)
        folders = map(folder, ("bin", "dev", "etc", "proc", "sys", "tmp"))
        return cls(tarball(*folders, file("bin/busybox", program, mode=0o755), *links))

    def layout(self, version: str, mebibytes: int, *, files: int = 1) -> OciLayout:
        """An image of three layers; ``/version`` and ``/content*`` are its own."""
        source = random.Random(version)
        data = [source.randbytes(mebibytes * MIB // files) for _ in range(files)]
        content = tarball(*(file(f"content{number}", piece) for number, piece in enumerate(data)))
        layers = [self.base, content, tarball(file("version", f"{version} {digest(data[0])[7:]}\n".encode()))]
        settings = {"Env": ["PATH=/bin"], "Cmd": ["sh", "-c", "cat /version; sha256sum < /content0"]}
        return OciLayout().add(layers, configuration(layers, settings))


def is_whole(output: str, *versions: str) -> bool:
    """Whether this is what an image of one of these versions says when it is run."""
    words = output.split()
    return len(words) == 4 and words[0] in versions and words[1] == words[2]


def put(
    server: Registry, images: SmallImages, version: str, mebibytes: int, *, repository: str = "", tag: str = "1"
) -> str:
    """Puts one into a registry; its name in the host."""
    name = server.put(f"small/{repository or version}", tag, images.layout(version, mebibytes))
    return name.replace("127.0.0.1", "10.0.2.2")
