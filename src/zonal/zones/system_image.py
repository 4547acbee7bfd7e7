"""The system image: what every zone runs outside its containers, in one read-only erofs shared by all.

It holds Python with just the modules that the agent imports, crun, busybox and their shared libraries, all taken from
the host, and the agent. The same inputs give the same bytes; an image is built anew only when one of them changes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment

import zonal
from zonal.errors import UnavailableError, ZonalError

PROGRAMS = ("/usr/bin/python3", "/usr/bin/crun", "/usr/bin/busybox")
"""With the Debian packages python3-minimal, crun and busybox-static."""
OPTIONAL_PROGRAMS = ("/usr/bin/tini-static",)
"""The init of containers that are asked to have one; of the Debian package tini. It is in the image if in the host."""
_HINT = "apt-get install python3-minimal crun busybox-static erofs-utils"

_APPLETS = ("cat", "dmesg", "free", "ip", "kill", "ls", "mount", "ps", "sh", "sleep", "top", "umount")
"""For a person who looks into a zone; nothing of ours runs them."""
_DIRECTORIES = ("dev", "etc", "proc", "root", "run", "sys", "tmp", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64")
_LINKS = {"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64", "sbin": "usr/sbin"}
_ETC = {"passwd": "root:x:0:0:root:/root:/bin/sh\n", "group": "root:x:0:\n", "hosts": "127.0.0.1 localhost\n"}
# Imports from one file that is read in one go: some forty small ones, each found and read by itself over the disk's
# ring, would be most of the agent's start-up time.
_INIT = """\
#!/usr/bin/python3 -IS
import marshal
import sys


class Bundle:
    with open(f"{sys.prefix}/lib/python%d.%d/agent.bundle" % sys.version_info[:2], "rb") as file:
        modules = marshal.loads(file.read())

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name in cls.modules:
            return type(sys.__spec__)(name, cls, is_package=cls.modules[name][0])

    @staticmethod
    def create_module(spec):
        return None

    @classmethod
    def exec_module(cls, module):
        exec(cls.modules.pop(module.__name__)[1], module.__dict__)


sys.meta_path.insert(0, Bundle)
from zonal.agent.main import main

main()
"""
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_SEARCH = ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib")
_NO_UUID = "00000000-0000-0000-0000-000000000000"
_MANIFEST = "system.json"

# Runs in the Python that goes into the image, and says which of its files the agent's imports come from. What Python
# imports by itself before it looks at a program is compiled into files; all the rest goes into one, the bundle.
COMPILER = """
import sys
source, target = sys.argv[1:]
sys.path.insert(0, source)
early = set(sys.modules)
import zonal.agent.main, zonal.agent.attachments, zonal.agent.layers, zonal.agent.programs, zonal.agent.kernel_log
import zonal.agent.devices, zonal.agent.user_namespace
import zonal.agent.figures, zonal.agent.memory, zonal.agent.processors
import encodings.ascii, encodings.latin_1
modules = {name: module.__spec__ for name, module in sys.modules.items() if getattr(module, "__spec__", None)}
import importlib.machinery, importlib.util, json, marshal, os
modules["os"] = importlib.machinery.PathFinder.find_spec("os")  # frozen, but Python knows its prefix by this file
files, bundle = [], {}
for name, spec in sorted(modules.items()):
    if not spec.has_location or spec.origin == "frozen":
        continue
    if not spec.origin.endswith(".py"):
        files.append(["extension", spec.origin])
        continue
    files.append(["agent" if name.split(".")[0] == "zonal" else "module", spec.origin])
    package = spec.submodule_search_locations is not None
    place = name.replace(".", "/") + ("/__init__" if package else "")
    # The package above the agent's has nothing to say in a zone.
    text = b"" if name == "zonal" else open(spec.origin, "rb").read()
    code = compile(text, place + ".py", "exec", dont_inherit=True, optimize=0)
    if name in early or name == "os" or name.startswith("encodings"):
        path = os.path.join(target, place + ".pyc")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        flags = (1).to_bytes(4, "little")  # PEP 552: by hash, never checked
        with open(path, "wb") as file:
            file.write(importlib.util.MAGIC_NUMBER + flags + importlib.util.source_hash(text) + marshal.dumps(code))
    else:
        bundle[name] = package, code
with open(os.path.join(target, "agent.bundle"), "wb") as file:
    marshal.dump(bundle, file)
version = "python%d.%d" % sys.version_info[:2]
json.dump({"version": version, "files": files}, sys.stdout)
"""


class SystemImageError(ZonalError):
    """The system image could not be built."""


@dataclass(frozen=True)
class _Input:
    """A file of the host's that went into an image; its size and time of change stand for its contents."""

    path: str
    size: int
    mtime_ns: int


def build_system_image(directory: Path) -> Path:
    """The path of an up-to-date system image below ``directory``, which is made if need be.

    When one is there already, that takes some milliseconds. Older images are removed; zones that have one open keep
    it. Raises ``UnavailableError`` when a program is missing and ``SystemImageError`` when building fails.
    """
    directory.mkdir(parents=True, exist_ok=True)
    present = _present(directory)
    if present:
        return present
    for program in (*PROGRAMS, "mkfs.erofs"):
        if not shutil.which(program):
            raise UnavailableError(f"{program} is missing", hint=_HINT)
    with tempfile.TemporaryDirectory(prefix=".system-", dir=directory) as temporary:
        root, image = Path(temporary, "root"), Path(temporary, "image")
        inputs = [_describe(path) for path in sorted(_populate(root, Path(temporary, "modules")))]
        _open_directories(root)
        _make_erofs(root, image)
        final = directory / f"system-{_digest(inputs)}.erofs"
        manifest = Path(temporary, "manifest")
        manifest.write_text(json.dumps({"inputs": [[entry.path, entry.size, entry.mtime_ns] for entry in inputs]}))
        image.replace(final)
        manifest.replace(directory / _MANIFEST)
    for old in directory.glob("system-*.erofs"):
        if old != final:
            old.unlink(missing_ok=True)
    return final


def shared_libraries(programs: Iterable[Path]) -> dict[str, Path]:
    """What ``programs`` (ELF files) need at run time, directly or not: name as it is looked up -> file.

    The dynamic loader is there under its whole path. Raises ``SystemImageError`` for a library that is not found.
    """
    found: dict[str, Path] = {}
    to_do = list(programs)
    while to_do:
        program = to_do.pop()
        interpreter, needed = _elf_needs(program)
        if interpreter:
            found[interpreter] = Path(interpreter).resolve()
        for name in needed:
            if name not in found and not any(PurePosixPath(key).name == name for key in found):
                found[name] = _find_library(name, program)
                to_do.append(found[name])
    return found


def _present(directory: Path) -> Path | None:
    """The image that is there, if nothing that went into it has changed."""
    try:
        manifest: dict[str, Any] = json.loads((directory / _MANIFEST).read_text())
        inputs = [_Input(*entry) for entry in manifest["inputs"]]
        if any(_describe(entry.path) != entry for entry in inputs):
            return None
        used = {entry.path for entry in inputs}
        if any(os.path.realpath(program) not in used for program in OPTIONAL_PROGRAMS if Path(program).exists()):
            return None  # one that has come since
    except (OSError, ValueError, KeyError, TypeError):
        return None  # none there, or one of another version: it is built
    image = directory / f"system-{_digest(inputs)}.erofs"
    return image if image.exists() else None


def _describe(path: str) -> _Input:
    status = Path(path).stat()
    return _Input(path, status.st_size, status.st_mtime_ns)


def _digest(inputs: list[_Input]) -> str:
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for path in sorted(_agent_directory().rglob("*.py")):
        digest.update(f"{path.relative_to(_agent_directory())}\0".encode() + path.read_bytes())
    digest.update(repr(inputs).encode())
    return digest.hexdigest()[:32]


def _agent_directory() -> Path:
    return Path(zonal.__file__).parent / "agent"


def _populate(root: Path, modules: Path) -> Iterator[str]:
    """Fills ``root``; gives the host's files that were used, the agent's own excepted."""
    for name in _DIRECTORIES:
        (root / name).mkdir(parents=True)
    for name, target in _LINKS.items():
        (root / name).symlink_to(target)
    for name, text in _ETC.items():
        (root / "etc" / name).write_text(text)
    (root / "usr/sbin/init").write_text(_INIT)
    (root / "usr/sbin/init").chmod(0o755)
    for applet in _APPLETS:
        (root / "usr/bin" / applet).symlink_to("busybox")

    compiled = _compile(modules)
    library = root / "usr/lib" / compiled["version"]
    shutil.copytree(modules, library)
    (library / "lib-dynload").mkdir()
    programs = [Path(program) for program in (*PROGRAMS, *OPTIONAL_PROGRAMS) if Path(program).exists()]
    for program in programs:
        _copy(program, root / "usr/bin" / program.name, 0o755)
        yield os.path.realpath(program)
    for kind, path in compiled["files"]:
        if kind == "extension":
            _copy(Path(path), library / "lib-dynload" / Path(path).name, 0o644)
            programs.append(Path(path))
        if kind != "agent":
            yield path
    for name, path in shared_libraries(programs).items():
        _copy(path, root / _in_image(name), 0o755)
        yield str(path)


def _open_directories(root: Path) -> None:
    """Whatever our umask is: crun also goes there as root of a container's user namespace, who is nobody there."""
    root.chmod(0o755)
    for path in root.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)


def _in_image(library: str) -> str:
    # The loader's path goes through /lib64, which is a link here too.
    return library.lstrip("/").replace("lib64/", "usr/lib64/", 1) if "/" in library else f"{_LIBRARIES}/{library}"


def _copy(source: Path, target: Path, mode: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(mode)


def _compile(target: Path) -> dict[str, Any]:
    source = str(Path(zonal.__file__).parent.parent)
    # -B: nothing is written beside the sources.
    output = _run([PROGRAMS[0], "-I", "-S", "-B", "-c", COMPILER, source, str(target)])
    return json.loads(output)


def _make_erofs(root: Path, image: Path) -> None:
    command = ["mkfs.erofs", "--quiet", "-T", "0", "-U", _NO_UUID, "-x", "-1", "--all-root", str(image), str(root)]
    _run(command)


def _run(command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        last = (result.stderr.strip() or result.stdout.strip() or f"status {result.returncode}").splitlines()[-1]
        raise SystemImageError(f"cannot build the system image: {command[0]}: {last}")
    return result.stdout


def _elf_needs(path: Path) -> tuple[str | None, list[str]]:
    """PT_INTERP and the DT_NEEDED entries of an ELF file."""
    interpreter: str | None = None
    needed: list[str] = []
    with path.open("rb") as file:
        elf = ELFFile(file)
        for segment in elf.iter_segments():
            if isinstance(segment, InterpSegment):
                interpreter = str(segment.get_interp_name())
        section = elf.get_section_by_name(".dynamic")
        if isinstance(section, DynamicSection):
            tags: list[Any] = list(section.iter_tags("DT_NEEDED"))
            needed = [tag.needed for tag in tags]
    return interpreter, needed


def _find_library(name: str, user: Path) -> Path:
    for directory in _SEARCH:
        path = Path(directory, name)
        if path.exists():
            return path.resolve()
    raise SystemImageError(f"{user} needs the library {name}, which is not in {', '.join(_SEARCH)}", hint=_HINT)
