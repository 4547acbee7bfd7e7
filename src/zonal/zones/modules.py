"""Modules of a zone's kernel: which are needed in which order, read and decompressed."""

from __future__ import annotations

import gzip
import lzma
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path

from zonal.errors import InvalidInputError, UnavailableError

_ELF = b"\x7fELF"
_SIGNATURE = b"~Module signature appended~\n"
"""Ends a signed module, after the signature and its ``struct module_signature`` (Linux, linux/module_signature.h)."""
_SIGNATURE_STRUCT_SIZE = 12


@dataclass(frozen=True)
class Module:
    """One module: its name, those that it needs, and the ELF file."""

    name: str
    needs: tuple[str, ...]
    data: bytes


def load_order(modules_dir: Path, required: Sequence[str], optional: Sequence[str] = ()) -> list[Module]:
    """The modules to load for these, each after those it needs; what is built into the kernel is none.

    ``modules_dir`` is a kernel's /lib/modules/RELEASE. Raises ``InvalidInputError`` when a required one is missing.
    """
    try:
        dependencies = _read_dependencies(modules_dir / "modules.dep")
        built_in = {_module_name(line) for line in (modules_dir / "modules.builtin").read_text().splitlines()}
    except OSError as error:
        raise InvalidInputError(
            f"cannot read the list of the kernel's modules: {error}",
            hint="give the kernel's whole /lib/modules/RELEASE, as depmod leaves it",
        ) from error
    paths = {_module_name(path): path for path in dependencies}
    for path, wanted in _soft_dependencies(modules_dir, paths, built_in).items():
        dependencies[path] = [*wanted, *dependencies[path]]
    missing = [name for name in map(_module_name, required) if name not in paths and name not in built_in]
    if missing:
        raise InvalidInputError(
            f"the kernel {modules_dir.name} has no {', '.join(missing)}",
            hint="a zone's kernel needs these drivers, built in or as modules",
        )
    order: list[str] = []
    for name in map(_module_name, (*required, *optional)):
        if name in paths:
            _add(paths[name], dependencies, order)
    return [
        Module(
            _module_name(path),
            tuple(_module_name(need) for need in dependencies[path]),
            _read_module(modules_dir / path),
        )
        for path in order
    ]


def modules_for(modules_dir: Path, modalias: str) -> list[str]:
    """Names of the modules that say that they drive a device with this alias (modules.alias, modprobe.d(5))."""
    found: dict[str, None] = {}
    bus = modalias.partition(":")[0]
    if not bus:
        return []
    for _, pattern, name, *_ in _lines(modules_dir / "modules.alias", 3):
        if pattern.startswith(bus) and fnmatchcase(modalias, pattern):
            found.setdefault(_module_name(name))
    return list(found)


def has_modules(modules_dir: Path, names: Sequence[str]) -> bool:
    """Whether a kernel has these, as modules or built in."""
    paths = (modules_dir / "modules.dep", modules_dir / "modules.builtin")
    try:
        states = tuple((status.st_ino, status.st_size, status.st_mtime_ns) for status in map(Path.stat, paths))
        return _lists_have(paths, states, tuple(map(_module_name, names)))
    except OSError:
        return False


@lru_cache(maxsize=64)
def _lists_have(paths: Sequence[Path], states: object, names: Sequence[str]) -> bool:
    """It is asked for every zone, of some ten thousand lines; ``states`` tell when they are others."""
    del states
    known = {_module_name(line.partition(":")[0]) for path in paths for line in path.read_text().splitlines()}
    return known.issuperset(names)


def _add(path: str, dependencies: dict[str, list[str]], order: list[str], above: tuple[str, ...] = ()) -> None:
    if path in order:
        return
    if path in above or path not in dependencies:
        raise InvalidInputError(f"modules.dep: {path} {'depends on itself' if path in above else 'is not listed'}")
    for dependency in dependencies[path]:
        _add(dependency, dependencies, order, (*above, path))
    order.append(path)


def _read_dependencies(path: Path) -> dict[str, list[str]]:
    pairs = (line.partition(":") for line in path.read_text().splitlines())
    return {module: rest.split() for module, _, rest in pairs}


def _soft_dependencies(modules_dir: Path, paths: dict[str, str], built_in: set[str]) -> dict[str, list[str]]:
    """What modules look for when they start, though no symbol of theirs says so (modules.softdep): path to paths."""
    aliases: dict[str, list[str]] = {}
    for _, alias, name, *_ in _lines(modules_dir / "modules.alias", 3):
        aliases.setdefault(alias, []).append(_module_name(name))
    found: dict[str, list[str]] = {}
    for _, module, *rest in _lines(modules_dir / "modules.softdep", 2):
        before = rest[rest.index("pre:") + 1 :] if "pre:" in rest else []
        before = before[: before.index("post:")] if "post:" in before else before
        for wanted in before:
            names = [_module_name(wanted), *aliases.get(wanted, ())]
            loadable = [name for name in names if name in paths]
            if not loadable or built_in.intersection(names) or _module_name(module) not in paths:
                continue
            # Of several that do the same, the one that runs on every processor.
            chosen = next((name for name in loadable if name.endswith("_generic")), loadable[0])
            found.setdefault(paths[_module_name(module)], []).append(paths[chosen])
    return found


def _lines(path: Path, least: int) -> Iterator[list[str]]:
    """The words of each line that has so many, and is no comment; a file that is not there has none."""
    if path.exists():
        for line in path.read_text().splitlines():
            words = line.split()
            if len(words) >= least and not line.startswith("#"):
                yield words


def _module_name(path: str) -> str:
    # The kernel takes "-" and "_" in names for the same.
    return Path(path).name.split(".", 1)[0].replace("-", "_")


def _read_module(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        match path.suffix:
            case ".xz":
                data = lzma.decompress(data)
            case ".gz":
                data = gzip.decompress(data)
            case ".zst":
                data = _unzstd(path)
            case _:
                pass
    except (OSError, EOFError, lzma.LZMAError, subprocess.CalledProcessError) as error:
        raise InvalidInputError(f"cannot read the module {path}: {error}") from error
    if not data.startswith(_ELF):
        raise InvalidInputError(f"the module {path} is not an ELF file")
    return _without_signature(data)


def _without_signature(module: bytes) -> bytes:
    """A zone trusts its initrd as it trusts its kernel, and checking each signature would hold up the start."""
    if not module.endswith(_SIGNATURE):
        return module
    end = len(module) - len(_SIGNATURE)
    length = int.from_bytes(module[end - 4 : end], "big")
    return module[: max(len(_ELF), end - _SIGNATURE_STRUCT_SIZE - length)]


def _unzstd(path: Path) -> bytes:
    if not shutil.which("zstd"):
        raise UnavailableError(f"zstd is missing, and {path.name} is compressed with it", hint="apt-get install zstd")
    return subprocess.run(["zstd", "--decompress", "--stdout", path], check=True, capture_output=True).stdout
