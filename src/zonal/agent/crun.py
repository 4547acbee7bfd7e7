"""crun, which makes the containers: command lines, and what its refusals mean."""

from __future__ import annotations

import os

from zonal.agent.processes import SIGKILL, send_signal

CRUN = "/usr/bin/crun"
_MAX_LOG = 4096
_SESSION_LOOKS = 50


def command(log: str, *arguments: str) -> list[str]:
    """A command line of crun that writes its own errors to ``log``, not among the container's."""
    return [CRUN, "--cgroup-manager=cgroupfs", f"--log=file:{log}", "--log-format=text", *arguments]


def refusal(log: str) -> tuple[str, str]:
    """Why crun failed, from its log: a code of docs/protocol.md and crun's own message."""
    try:
        with open(log, "rb") as file:
            text = file.read(_MAX_LOG).decode(errors="replace").strip()
    except FileNotFoundError:
        text = ""
    return _code(text), text or "crun failed and said nothing"


def read_pid(path: str) -> int:
    """The number that crun wrote to its pid file."""
    with open(path) as file:
        return int(file.read())


def oom_kills(cgroup: str) -> int:
    """How many processes of a cgroup, a path under the cgroup mount, the kernel has killed for want of memory."""
    try:
        with open(f"/sys/fs/cgroup{cgroup}/memory.events") as file:
            for line in file:
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    except OSError:  # no memory controller, or gone: then nobody knows
        return 0
    return 0


def process_count(cgroup: str) -> int:
    """How many tasks there are in a cgroup and below it, threads included; 0 when nobody counts them."""
    try:
        with open(f"/sys/fs/cgroup{cgroup}/pids.current") as file:
            return int(file.read())
    except OSError:
        return 0


def signal_cgroup(cgroup: str, number: int) -> None:
    """A signal to every process of a cgroup, never the root, and those below it; raises ``OSError``."""
    if not cgroup.strip("/"):
        raise ValueError("the root cgroup holds the agent itself")
    path = f"/sys/fs/cgroup{cgroup}"
    if number == SIGKILL:
        with open(f"{path}/cgroup.kill", "w") as file:  # the kernel's way leaves out no newborn
            file.write("1")
        return
    for pid in _processes(cgroup):
        send_signal(pid, number)


def signal_session(cgroup: str, leader: int, number: int) -> None:
    """A signal to the processes of a session within a cgroup; crun makes the first process its leader.

    Raises ``OSError``. A process that forks meanwhile may escape a first look, not for ever.
    """
    seen: set[int] = set()
    for _ in range(_SESSION_LOOKS):
        found = {pid for pid in _processes(cgroup) if pid not in seen and _session(pid) == leader}
        if not found:
            return
        for pid in found:
            send_signal(pid, number)
        seen |= found


def _processes(cgroup: str) -> list[int]:
    pids: list[int] = []
    for directory, _, _ in os.walk(f"/sys/fs/cgroup{cgroup}"):
        with open(f"{directory}/cgroup.procs") as file:
            pids += [int(line) for line in file]
    return pids


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def _code(text: str) -> str:
    # The words of crun 1.8 to 1.21; runc's and docker's statuses 126 and 127 are told apart in the same way.
    if "executable file" in text and "not found" in text:
        return "not-found"
    if "is not executable" in text or "not a regular file" in text or "Exec format error" in text:
        return "not-executable"
    if "open executable" in text or "exec container process" in text:
        return "not-found" if "No such file" in text else "not-executable"
    return "runtime"
