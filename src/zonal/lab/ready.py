"""The short way to a lab that is up: nothing is started or locked, and only QEMU is asked."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

from zonal.lab.paths import LabPaths, cache
from zonal.lab.qemu import is_running
from zonal.lab.recipe import recipe
from zonal.lab.state import load
from zonal.shares.socket_path import short_path

if TYPE_CHECKING:
    from zonal.lab.access import Endpoint

_SECONDS = 1.0


def if_ready(name: str, source: str | None) -> Endpoint | None:
    """The endpoint of the lab, if it is up with the current recipe and ``source`` (None: with any) in it."""
    paths = cache().lab(name)
    state = load(paths)
    if state is None or state.run is None or not state.run.ready or not is_running(paths):
        return None
    if source is not None:
        current = state.run.source == source and state.recipe == recipe(state.spec.packages).digest
        if not current or run_state(paths) != "running":
            return None
    from zonal.lab.access import endpoint

    return endpoint(paths, state.run.zonald_port)


def run_state(paths: LabPaths) -> str:
    """QEMU's word for the machine's state (RunState); empty when it has ended, or is at another command's disposal.

    QMP by hand (QEMU's docs/interop/qmp-spec): the library for it takes a fifth of a second to import.
    """
    with short_path(paths.folder) as folder, socket.socket(socket.AF_UNIX) as link:
        link.settimeout(_SECONDS)
        try:
            link.connect(f"{folder}/qmp.sock")
            with link.makefile("rwb") as stream:
                stream.readline()
                for command in ("qmp_capabilities", "query-status"):
                    stream.write(json.dumps({"execute": command, "id": command}).encode() + b"\n")
                stream.flush()
                # Events may come between the answers.
                for line in stream:
                    answer = json.loads(line)
                    if answer.get("id") == "query-status":
                        return str(answer["return"]["status"])
        except (OSError, ValueError, KeyError):
            return ""
    return ""
