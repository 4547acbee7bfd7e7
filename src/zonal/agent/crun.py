"""crun, which makes the containers: command lines, and what its refusals mean."""

from __future__ import annotations

CRUN = "/usr/bin/crun"
_MAX_LOG = 4096


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


def _code(text: str) -> str:
    # The words of crun 1.8 to 1.21; runc's and docker's statuses 126 and 127 are told apart in the same way.
    if "executable file" in text and "not found" in text:
        return "not-found"
    if "is not executable" in text or "not a regular file" in text or "Exec format error" in text:
        return "not-executable"
    if "open executable" in text or "exec container process" in text:
        return "not-found" if "No such file" in text else "not-executable"
    return "runtime"
