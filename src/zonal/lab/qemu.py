"""The lab's virtual machine: QEMU's command line, and starting it so that it outlives the command.

QEMU inherits two open files: its QMP socket, which listens from the start, so that nobody has to wait for it to appear;
and a locked file, which tells whether QEMU lives, however it ends.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from zonal.errors import UnavailableError, WrongStateError
from zonal.lab.commands import environment, run
from zonal.lab.disk import BaseDisk
from zonal.lab.paths import MIB, LabPaths, try_lock
from zonal.lab.recipe import ZONALD_PORT
from zonal.lab.requirements import require
from zonal.lab.shares import netdev_option, write_program
from zonal.lab.spec import Spec
from zonal.shares.socket_path import short_path

OLDEST = (7, 2)
"""The oldest QEMU that the lab is known to work with."""

ALARM = "alarm"
"""QEMU's name for the port that the lab opens when zonald has failed."""
_CRASHES = ("BUG:", "kernel BUG at", "Oops:", "general protection fault", "invalid opcode:", "Kernel panic")
NO_SPACE = "io-error"
"""QEMU's word for a machine that stands still because it could not write to its disk (RunState)."""

# A processor that Xen boots on under emulation: QEMU's richer models make it crash. SVM with nested paging gives PVH
# zones, the rest is what programs built for x86-64-v2 (numpy's wheels among them) need.
_EMULATED_CPU = "qemu64,+svm,+npt,+ssse3,+sse4.1,+sse4.2,+popcnt,+aes,+pclmulqdq,+movbe,+rdrand,+lahf_lm"
# What follows `panic` only makes the boot cheaper.
_KERNEL_ARGUMENTS = (
    "root=/dev/vda rw console=hvc0 quiet net.ifnames=0 panic=1"
    " rcupdate.rcu_expedited=1 audit=0 apparmor=0 selinux=0 cryptomgr.notests nowatchdog nokaslr 8250.nr_uarts=0"
)
# Emulated, the TSC is as steady as this machine's, but Xen measures its rate only to some per mille. Linux would then
# give it up for a clock that needs a system call at each look, which makes all of the host half as fast. The price is
# a clock that may be that much off until it is set again.
_EMULATED_KERNEL_ARGUMENTS = " tsc=reliable"
# Memory that QEMU hands out is zero; were it scrubbed, all of it would be taken from this machine at once.
# Each CPU has a queue of its own to run from: one for all has one lock, and an emulated CPU that waits for a lock takes
# QEMU's at each look, so that whoever lets go of it is seen late (docs/performance.md, "Disks").
_XEN_ARGUMENTS = "com1=115200,8n1 console=com1 loglvl=warning bootscrub=0 credit2_runqueue=cpu"
_DEVICE_OPTIONS = {
    "intel-iommu": ["-device", "intel-iommu,intremap=on,device-iotlb=off"],
    "e1000e": ["-netdev", "user,id=extra", "-device", "e1000e,netdev=extra,romfile="],
    "ahci": [
        *("-blockdev", "driver=qcow2,node-name=ahci,file.driver=file,file.filename=ahci.qcow2"),
        *("-device", "ich9-ahci,id=ahci", "-device", "ide-hd,drive=ahci,bus=ahci.0,serial=zonal-lab"),
    ],
    "bochs-display": ["-device", "bochs-display"],
    "nvme": [
        *("-blockdev", "driver=file,node-name=nvme,filename=nvme.raw"),
        *("-device", "nvme,drive=nvme,serial=zonal-lab"),
    ],
}


@dataclass(frozen=True)
class Machine:
    """A virtual machine, all but where its files and ports are."""

    accelerator: str
    """``kvm`` or ``tcg``."""
    arguments: tuple[str, ...]
    kernel_arguments: str
    """For the host's kernel."""
    digest: str
    """Changes whenever a snapshot of one machine would not fit another."""


@dataclass(frozen=True)
class Ports:
    """Ports on 127.0.0.1 of this machine that lead into the lab."""

    zonald: int
    ssh: int


class HostCrashedError(UnavailableError):
    """The host's kernel has panicked."""


class PortTakenError(UnavailableError):
    """Somebody took a port between its choice and QEMU's start."""


def accelerator() -> str:
    """``kvm`` where the processor has hardware virtualisation and /dev/kvm is ours to open, else ``tcg``.

    ``$ZONAL_LAB_ACCEL`` overrides. That /dev/kvm opens proves nothing by itself: there are software KVMs on which an
    ordinary kernel does not run.
    """
    chosen = os.environ.get("ZONAL_LAB_ACCEL")
    if chosen in ("kvm", "tcg"):
        return chosen
    if chosen:
        raise WrongStateError(f"ZONAL_LAB_ACCEL is {chosen!r}", hint="set it to kvm or tcg, or unset it")
    flags = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    in_hardware = flags is not None and not {"vmx", "svm"}.isdisjoint(flags[1].split())
    return "kvm" if in_hardware and os.access("/dev/kvm", os.R_OK | os.W_OK) else "tcg"


def version() -> str:
    """QEMU's version, such as ``7.2.22``; raises `UnavailableError` when it is missing or too old."""
    first = run(["qemu-system-x86_64", "--version"], purpose="asking QEMU for its version").splitlines()[0]
    match = re.search(r"version (\d+)\.(\d+)(\S*)", first)
    if match is None:
        raise UnavailableError(f"QEMU says of its version only {first!r}")
    if (int(match[1]), int(match[2])) < OLDEST:
        raise UnavailableError(
            f"QEMU {match[1]}.{match[2]} is too old: the lab needs {OLDEST[0]}.{OLDEST[1]} or later",
            hint="install qemu-system-x86 of Debian 12 or later",
        )
    return f"{match[1]}.{match[2]}{match[3]}"


def machine(spec: Spec, base: BaseDisk) -> Machine:
    """The virtual machine of a lab."""
    kind = accelerator()
    board = "q35,sata=off,smbus=off,vmport=off"
    if "intel-iommu" in spec.devices:
        board += ",kernel-irqchip=split"
    host_memory = f"{spec.host_memory_bytes // MIB}M"
    arguments = (
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-vga", "none"),
        *("-machine", board),
        *(
            ("-accel", "kvm", "-cpu", "host")
            if kind == "kvm"
            else ("-accel", "tcg,thread=multi", "-cpu", _EMULATED_CPU)
        ),
        *("-smp", str(spec.cpus)),
        *("-m", f"{spec.memory_bytes // MIB}M"),
        *("-rtc", "base=utc"),
        *("-append", f"{_XEN_ARGUMENTS} dom0_mem={host_memory},max:{host_memory}"),
        # The IOMMU has to come before the devices behind it.
        *(option for device in sorted(spec.devices, key=_iommu_first) for option in _DEVICE_OPTIONS[device]),
        *("-device", "virtio-blk-pci,drive=root", "-device", "virtio-blk-pci,drive=data"),
        *("-device", "virtio-net-pci,netdev=net,romfile="),
        *("-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng"),
        *("-device", "virtio-serial-pci", "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"),
        # Merely opening this port raises an event in QEMU, which is how the lab says that zonald has failed.
        *("-chardev", "null,id=alarm", "-device", f"virtserialport,chardev=alarm,id={ALARM},name=zonal.alarm"),
        *("-serial", "chardev:console", "-mon", "chardev=qmp,mode=control"),
    )
    kernel_arguments = _KERNEL_ARGUMENTS + (_EMULATED_KERNEL_ARGUMENTS if kind == "tcg" else "")
    digest = hashlib.sha256(json.dumps([version(), base.identity, arguments, kernel_arguments]).encode())
    return Machine(kind, arguments, kernel_arguments, digest.hexdigest()[:16])


def choose_ports() -> Ports:
    """Two ports on 127.0.0.1 that are free now."""
    with ExitStack() as stack:
        chosen: list[int] = []
        for _ in range(2):
            probe = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            probe.bind(("127.0.0.1", 0))
            chosen.append(int(probe.getsockname()[1]))
    return Ports(zonald=chosen[0], ssh=chosen[1])


def start(paths: LabPaths, base: BaseDisk, virtual: Machine, ports: Ports, tag: str | None) -> subprocess.Popen[bytes]:
    """Starts QEMU, from the snapshot ``tag`` or by booting; it runs on when this command ends.

    Raises `WrongStateError` when the lab has a QEMU already.
    """
    with ExitStack() as stack:
        lock = os.open(paths.qemu_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, lock)
        if not try_lock(lock):
            raise WrongStateError(f"the lab {paths.name} runs already")
        qmp = stack.enter_context(_listening(paths.folder, "qmp.sock"))
        _make_pipes(paths)
        write_program(paths)
        for connection in paths.folder.glob("ssh-*"):
            connection.unlink()
        log = stack.enter_context(paths.qemu_log.open("ab" if tag else "wb"))
        argv = [
            *(require("qemu-system-x86_64"), "-name", f"zonal-lab-{paths.name}", "-pidfile", paths.qemu_pid.name),
            *("-chardev", f"socket,id=qmp,fd={qmp.fileno()},server=on,wait=off"),
            *("-chardev", "pipe,id=agent,path=agent"),
            *("-chardev", f"file,id=console,path={paths.console.name},append={'on' if tag else 'off'}"),
            *_files(paths, base, virtual.kernel_arguments),
            *_network(ports),
            *virtual.arguments,
            *(("-loadvm", tag) if tag else ()),
        ]
        return subprocess.Popen(
            argv,
            # Relative paths: QEMU splits some arguments at commas and spaces, which a folder's name may have.
            cwd=paths.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(lock, qmp.fileno()),
            start_new_session=True,
            env=environment(),
        )


def is_running(paths: LabPaths) -> bool:
    """Whether the lab's QEMU lives."""
    try:
        descriptor = os.open(paths.qemu_lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not try_lock(descriptor)
    finally:
        os.close(descriptor)


def why_it_ended(paths: LabPaths) -> UnavailableError:
    """The error for a QEMU that ended by itself: what it said, or the end of the console."""
    said = _tail(paths.qemu_log, 6)
    if "warning:" in said:
        said = "\n".join(line for line in said.splitlines() if "warning:" not in line)
    if "Could not set up host forwarding rule" in said:
        return PortTakenError(f"a port of the lab {paths.name} was taken by another program", hint="try again")
    crash = console_tail(paths, 400)
    if not said and "Kernel panic" in crash:
        # What went wrong first says more than the end of the last trace.
        begin = min(crash.find(word) for word in _CRASHES if word in crash)
        lines = crash[crash.rfind("\n", 0, begin) + 1 :].splitlines()[:20]
        return HostCrashedError("\n".join([f"the kernel of the host in the lab {paths.name} crashed:", *lines]))
    if not said:
        said = "the end of its console is\n" + console_tail(paths)
    return UnavailableError(
        f"the virtual machine of the lab {paths.name} ended: {said}",
        hint=f"zonal lab logs --name {paths.name} shows more; zonal lab destroy --name {paths.name} starts afresh",
    )


def console_tail(paths: LabPaths, lines: int = 20) -> str:
    """The end of the lab's serial console."""
    return "".join(c for c in _tail(paths.console, lines) if c.isprintable() or c in "\n\t")


def _tail(path: Path, lines: int) -> str:
    if not path.exists():
        return ""
    return "\n".join(path.read_bytes()[-8192:].decode(errors="replace").splitlines()[-lines:]).strip()


def _iommu_first(device: str) -> tuple[bool, str]:
    return (device != "intel-iommu", device)


def _files(paths: LabPaths, base: BaseDisk, kernel_arguments: str) -> list[str]:
    relative = os.path.relpath(base.folder, paths.folder)
    return [
        *("-kernel", f"{relative}/{base.xen.name}"),
        *("-initrd", f"{relative}/{base.kernel.name} {kernel_arguments},{paths.boot_files.name}"),
        *_disk("root", paths.root_disk),
        *_disk("data", paths.data_disk),
    ]


def _disk(node: str, path: Path) -> list[str]:
    # Flushes wait for nothing: what counts is a QEMU that was killed, which loses nothing that it has written.
    # A full file system stops the machine, so that no write is lost and it can go on once there is space.
    file = f"file.driver=file,file.filename={path.name},file.discard=unmap"
    return ["-blockdev", f"driver=qcow2,node-name={node},{file},discard=unmap,cache.no-flush=on"]


def _network(ports: Ports) -> list[str]:
    forwards = ((ports.zonald, ZONALD_PORT), (ports.ssh, 22))
    rules = ",".join(f"hostfwd=tcp:127.0.0.1:{outside}-:{inside}" for outside, inside in forwards)
    return ["-netdev", f"user,id=net,{rules},{netdev_option()}"]


def _make_pipes(paths: LabPaths) -> None:
    """The guest agent's ways in and out. With a socket, the agent would ask ten times a second whether someone came."""
    for pipe in (paths.agent_in, paths.agent_out):
        pipe.unlink(missing_ok=True)
        os.mkfifo(pipe, 0o600)


def _listening(folder: Path, name: str) -> socket.socket:
    (folder / name).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with short_path(folder) as place:
            listener.bind(f"{place}/{name}")
        listener.listen(1)
    except OSError:
        listener.close()
        raise
    return listener
