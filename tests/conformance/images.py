"""The images that critest asks for, made of Debian's busybox, under the names that it asks for."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.unit.images.registry import Registry
from tests.unit.images.tarballs import OciLayout, configuration, file, folder, symlink, tarball

BUSYBOX = Path("/bin/busybox")
CRI_TOOLS = "k8s-staging-cri-tools"
HOSTS = ("registry.k8s.io", "k8s.gcr.io", "gcr.io")
"""Whose images these are: all are served by one registry of ours."""
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PASSWD = """\
root:x:0:0:root:/root:/bin/sh
www-data:x:33:33:www-data:/:/bin/sh
default-user:x:1000:1000:default-user:/:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/sh
"""
_GROUP = (
    "root:x:0:\nwww-data:x:33:\ndefault-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\nnogroup:x:65534:\n"
)
_PGREP = """\
#!/bin/sh
for each in /proc/[0-9]*; do
    [ "$(cat $each/comm 2>/dev/null)" = "$1" ] && echo "${each#/proc/}"
done
true
"""
"""Debian's busybox has none."""
_USERS: Mapping[str, str] = {
    "test-image-user-uid": "1002",
    "test-image-user-username": "www-data",
    "test-image-user-uid-group": "1003:1003",
    "test-image-user-username-group": "www-data:100",
    "test-image-predefined-group": "default-user",
}


def publish(registry: Registry) -> None:
    """Puts all of them into the registry."""
    base = _root()
    put(registry, "e2e-test-images/busybox", "1.29-2", base, {"Cmd": ["sh"]})
    server = {"Cmd": ["httpd", "-f", "-p", "80", "-h", "/www"]}
    for name in ("nginx:1.14-2", "nginx:1.14-4", "agnhost:2.40"):
        repository, _, tag = name.partition(":")
        put(registry, f"e2e-test-images/{repository}", tag, base, server)
    # Apache's says its name when it begins.
    named = {"Cmd": ["sh", "-c", "echo httpd; exec httpd -f -p 80 -h /www"]}
    put(registry, "e2e-test-images/httpd", "2.4.39-4", base, named)
    for version in ("3.8", "3.9", "3.10"):
        put(registry, "pause", version, base, {"Cmd": ["sleep", "2147483647"], "Labels": {"version": version}})
    for name, user in _USERS.items():
        put(registry, f"{CRI_TOOLS}/{name}", "latest", base, {"Cmd": ["sh"], "User": user})
    put(registry, f"{CRI_TOOLS}/test-image-latest", "latest", base, {"Cmd": ["sh"], "Labels": {"is": "latest"}})
    for number, tag in enumerate(("test", "all")):
        put(registry, f"{CRI_TOOLS}/test-image-tag", tag, base, {"Cmd": ["sh"], "Labels": {"tag": str(number)}})
    for number in ("1", "2", "3"):
        put(registry, f"{CRI_TOOLS}/test-image-{number}", "latest", base, {"Cmd": ["sh"], "Labels": {"number": number}})
        put(registry, f"{CRI_TOOLS}/test-image-tags", number, base, {"Cmd": ["sh"], "Labels": {"same": "for all"}})


def put(registry: Registry, repository: str, tag: str, layer: bytes, settings: Mapping[str, Any]) -> None:
    """One image of one layer."""
    config = configuration([layer], {"Env": [_PATH], **settings})
    registry.put(repository, tag, OciLayout().add([layer], config))


def registries_conf(place: str) -> str:
    """What tells Zonal that ``place`` has the images of these hosts; containers-registries.conf(5)."""
    parts = [f'[[registry]]\nprefix = "{host}"\nlocation = "{place}"\ninsecure = true\n' for host in HOSTS]
    return "\n".join(parts)


def _root() -> bytes:
    """An uncompressed layer: busybox by all its names, users, and a page for its web server."""
    names = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    entries = [folder(name) for name in ("bin", "etc", "root", "var", "www", "home")]
    entries += [folder("tmp", mode=0o1777), file("bin/busybox", BUSYBOX.read_bytes(), mode=0o755)]
    entries += [symlink(f"bin/{name}", "busybox") for name in names if name != "busybox"]
    entries += [file("bin/pgrep", _PGREP.encode(), mode=0o755)] if "pgrep" not in names else []
    entries += [file("etc/passwd", _PASSWD.encode()), file("etc/group", _GROUP.encode())]
    entries += [file("www/index.html", b"<h1>Welcome</h1>\n")]
    return tarball(*entries)
