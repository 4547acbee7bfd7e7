"""How a container's health is asked for: docker's ``Healthcheck`` in an image's configuration, and in what runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from zonal.images.documents import Node

NONE: Final = "NONE"
COMMAND: Final = "CMD"
SHELL_COMMAND: Final = "CMD-SHELL"
DEFAULT_SHELL: Final = ("/bin/sh", "-c")


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """What is not said is empty or 0; whoever runs it has the defaults."""

    test: tuple[str, ...] = ()
    """``NONE``; ``CMD`` and an argument vector; or ``CMD-SHELL`` and one text for the shell."""
    interval_ns: int = 0
    timeout_ns: int = 0
    start_period_ns: int = 0
    start_interval_ns: int = 0
    retries: int = 0
    shell: tuple[str, ...] = DEFAULT_SHELL
    """The image's, which ``CMD-SHELL`` is for."""

    @property
    def command(self) -> tuple[str, ...]:
        """The argument vector; empty for ``NONE``, and for what docker does not know either."""
        match self.test:
            case (kind, *words) if kind == COMMAND:
                return tuple(words)
            case (kind, text) if kind == SHELL_COMMAND:
                return (*self.shell, text)
            case _:
                return ()


def parse_healthcheck(config: Node) -> HealthCheck | None:
    """That of an image; ``None`` when it has none. Raises ``InvalidInputError`` for a malformed one."""
    if "Healthcheck" not in config:
        return None
    said = config.node("Healthcheck")
    return HealthCheck(
        test=said.texts("Test"),
        interval_ns=said.number("Interval"),
        timeout_ns=said.number("Timeout"),
        start_period_ns=said.number("StartPeriod"),
        start_interval_ns=said.number("StartInterval"),
        retries=said.number("Retries"),
        shell=config.texts("Shell") or DEFAULT_SHELL,
    )
