"""The simulation's machine, with agents that lie: ``python -m tests.hostile.machine FOLDER``.

``FOLDER/lies`` has the table, as CBOR; the longest honest message of each kind goes to ``FOLDER/said``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

from benchmarks.simulation import machine, zone

from tests.hostile import lying_link
from tests.hostile.lying_link import LyingLink
from zonal.agent.agent import Agent
from zonal.agent.params import Params
from zonal.agent.protocol import cbor

_FIGURES = 1 << 20


class RecordingLink(LyingLink):
    """A liar that lets be seen what it would have said."""

    folder = Path()

    def said(self, name: str, kind: int, message: Any, honest: bytes | memoryview) -> None:
        """See ``LyingLink``."""
        path = self.folder / "said" / name.replace("/", "_")
        whole = cbor.encode(message)
        if not path.exists() or path.stat().st_size < len(whole):
            path.write_bytes(whole)
        super().said(name, kind, message, honest)


class TalkativeAgent(zone.ZoneAgent):
    """Says all that a real one says."""

    def adopt_streams(self, workload: Any) -> None:
        """See ``Agent``; tells of its memory too, as one does whose memory changes."""
        Agent.adopt_streams(self, workload)
        if self._link is not None:
            self._link.event("memory", available=32 << 20, stalled=0, pressed=False)

    def _do(self, call: Any, method: str, params: Params) -> None:
        if method != "statistics":
            super()._do(call, method, params)
            return
        numbers = dict.fromkeys(_names(), _FIGURES)
        pressure = {of: {kind: [1, 2, 3, 4] for kind in ("some", "full")} for of in ("cpu", "memory", "io")}
        said: dict[str, Any] = {"resident": 4 << 20, "memory_total": 64 << 20, "memory_available": 32 << 20}
        said |= {"processes": 1, "cpu_ns": 5, "memory": 6, "figures": {**numbers, "pressure": pressure}}
        call.reply(said)


def _names() -> list[str]:
    from dataclasses import fields

    from zonal.zones.figures import ContainerFigures

    return [each.name for each in fields(ContainerFigures) if each.name != "pressure"]


def main() -> None:
    """See the module."""
    folder = Path(sys.argv[1])
    (folder / "said").mkdir()
    RecordingLink.folder = folder
    lying_link.TABLE[:] = cast("Any", cbor.decode((folder / "lies").read_bytes()))
    zone.__dict__.update(Link=RecordingLink, ZoneAgent=TalkativeAgent)
    machine.main()


if __name__ == "__main__":
    main()
