"""What zones boot, made once and kept: kernels ready to be built into domains, their initrds, the system image."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from zonal.errors import InvalidInputError, UnavailableError
from zonal.images.files import write_file
from zonal.images.kernels import Kernel, KernelStore
from zonal.xen.build.kernel import KernelImage, load_kernel
from zonal.xen.domain import finish_in_thread
from zonal.xen.virt import Virt
from zonal.zones import initrd, system_image
from zonal.zones import modules as kernel_modules
from zonal.zones.modules import has_modules, modules_for

BUSYBOX = Path("/usr/bin/busybox")

# Start-up work of general-purpose kernels that no zone has a use for. It is named here by initcall, so that Debian's
# kernel runs unchanged: the jitter entropy source tests itself for 0.4 s (emulated), and only FIPS mode asks it; the
# certificates are for modules' signatures, which a zone does not check.
SKIPPED_INITCALLS = ("jent_mod_init", "load_system_certificate_list")

COMMAND_LINE = " ".join(
    (
        "console=hvc0",
        "quiet",
        # A panic ends the domain at once, and the host reports it.
        "panic=-1",
        # The kernel's tests of its own ciphers, at every start.
        "cryptomgr.notests",
        # Whoever waits for readers of kernel data, as mounts and namespaces do, waits no ticks for them.
        "rcupdate.rcu_expedited=1",
        # A zone has no such hardware to look for.
        "8250.nr_uarts=0",
        f"initcall_blacklist={','.join(SKIPPED_INITCALLS)}",
    )
)


@dataclass(frozen=True)
class BootFiles:
    """What a zone boots: the kernel, its initrd, and the read-only system image with the agent."""

    kernel: KernelImage
    initrd: Path
    system_image: Path
    command_line: str
    virt: Virt = Virt.PV


@dataclass(frozen=True)
class _Prepared:
    state: tuple[int, int]
    files: BootFiles


class BootFileStore:
    """Prepares what zones boot; see ``zonal.zones.sources.BootSource``."""

    def __init__(self, kernels: KernelStore, folder: Path, kinds: Sequence[Virt] = (Virt.PV,)) -> None:
        """``folder``: where system images are kept; ``kinds``: what this machine runs, the default first."""
        self._kinds = kinds
        self._kernels = kernels
        self._folder = folder
        self._prepared: dict[Path, _Prepared] = {}
        self._lock = asyncio.Lock()

    async def boot_files(
        self, kernel: str, drivers: Sequence[str] = (), virt: str = "", modaliases: Sequence[str] = ()
    ) -> BootFiles:
        """See ``BootSource``; what takes long is done once for each kernel."""
        found = self._kernels.resolve(kernel)

        def has_all(each: Kernel) -> bool:
            return (
                each.modules is not None
                and has_modules(each.modules, drivers)
                and all(modules_for(each.modules, alias) for alias in modaliases)
            )

        if (drivers or modaliases) and not kernel and found.modules and not has_all(found):
            # Debian's kernel for clouds lacks some; the other one that is there has all.
            found = next((each for each in self._kernels.list() if has_all(each)), found)
        status = found.path.stat()
        state = (status.st_size, status.st_mtime_ns)
        async with self._lock:
            prepared = self._prepared.get(found.path)
            if prepared is None or prepared.state != state or not prepared.files.system_image.exists():
                prepared = _Prepared(state, await finish_in_thread(self._prepare, found))
                self._prepared[found.path] = prepared
        return replace(prepared.files, virt=self._kind(prepared.files.kernel, virt))

    def _kind(self, kernel: KernelImage, wanted: str) -> Virt:
        """What is wanted, or the first that both the machine and the kernel can."""
        able = [kind for kind, entry in ((Virt.PV, kernel.pv), (Virt.PVH, kernel.pvh)) if entry is not None]
        if wanted:
            if wanted not in self._kinds:
                raise UnavailableError(
                    f"this machine runs no {wanted} zones",
                    hint=f"leave out --virt, or take {' or '.join(self._kinds)}; `zonal host info` shows what it has",
                )
            if wanted not in able:
                raise InvalidInputError(
                    f"the kernel {kernel.path.name} cannot run as {wanted}", hint=f"it can as {' or '.join(able)}"
                )
            return Virt(wanted)
        for kind in self._kinds:
            if kind in able:
                return kind
        raise UnavailableError(
            f"the kernel {kernel.path.name} runs as {' or '.join(able)} only, and this machine has "
            f"{' or '.join(self._kinds)} zones",
            hint="take another kernel: `zonal kernel ls`",
        )

    def modules(self, release: str) -> Path | None:
        """See ``BootSource``."""
        return next((each.modules for each in self._kernels.list() if each.release == release and each.modules), None)

    def _prepare(self, kernel: Kernel) -> BootFiles:
        if not BUSYBOX.exists():
            raise UnavailableError(f"{BUSYBOX} is missing in the host", hint="apt-get install busybox-static")
        cache = self._kernels.cache_folder(kernel)
        image = load_kernel(kernel.path, cache)
        return BootFiles(
            kernel=image,
            initrd=_cached_initrd(cache, kernel.modules),
            system_image=system_image.build_system_image(self._folder),
            command_line=COMMAND_LINE,
        )


def _cached_initrd(cache: Path, modules: Path | None) -> Path:
    code = [Path(str(module.__file__)) for module in (initrd, kernel_modules)]
    inputs = [*code, BUSYBOX, *([modules / "modules.dep"] if modules else [])]
    state = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in inputs]
    path = cache / f"initrd-{hashlib.sha256(repr(state).encode()).hexdigest()[:16]}"
    if not path.exists():
        for old in cache.glob("initrd-*"):
            old.unlink()
        write_file(path, initrd.build_initrd(modules, BUSYBOX), cache)
    return path
