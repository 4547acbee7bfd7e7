"""Pods of one container, made and removed one after another: what stays of them in a simulated zonald."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.simulation.daemon import IMAGE
from benchmarks.simulation.zonald import Zonald

MIB = 1 << 20


@dataclass(frozen=True)
class PodsPoint:
    """After so many ``pods``, with none alive."""

    pods: int
    each_ms: float
    """For one, from the first call to the last, the mean of those since the point before."""
    resident_mib: float
    descriptors: int
    mappings: int
    threads: int
    files: int
    """In zonald's folder."""


def measure_pods(zonald: Zonald, marks: Sequence[int], tell: Callable[[PodsPoint], None]) -> list[PodsPoint]:
    """Stops to look when there were as many as one of ``marks``."""
    points: list[PodsPoint] = []
    cri = zonald.cri()
    done = 0
    for mark in marks:
        begin, before = time.monotonic(), done
        while done < mark:
            cri.remove_pod(cri.run_pod(f"pod-{done}", IMAGE, ["/work"]).sandbox)
            done += 1
        each = (time.monotonic() - begin) / max(1, done - before)
        points.append(
            PodsPoint(
                pods=mark,
                each_ms=round(1000 * each, 1),
                resident_mib=round(zonald.resident_bytes() / MIB, 1),
                descriptors=zonald.descriptors(),
                mappings=zonald.mappings(),
                threads=zonald.threads(),
                files=zonald.files(),
            )
        )
        tell(points[-1])
    return points
