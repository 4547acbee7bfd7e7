"""Zones beside others' containers in one host: the lab they share, the program that measures there, and the report.

The program is sent into the lab with ``benchmarks.measuring``, takes zone and container in turns, and ends with one
line of JSON: for each thing that is measured, and each of ``zonal`` and the other, the samples.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import subprocess
import zipfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from benchmarks.measuring import Samples
from benchmarks.run import MEMORY, ROOT, ZONAL, print_summary, run
from zonal.lab.recipe import LIB, SOURCE

Row = dict[str, Any]
SENT = "/var/tmp/zonal-bench.pyz"
"""Where the program is in the lab's host."""


def options(description: str | None, lab: str, parts: Sequence[str] = ()) -> argparse.Namespace:
    """What such a benchmark is told: ``--rounds``, ``--lab``, and ``--only`` one of ``parts``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lab", default=lab)
    parser.add_argument("--only", choices=parts, default=None)
    return parser.parse_args()


def measure(
    name: str,
    given: argparse.Namespace,
    packages: Sequence[str],
    summary: Callable[[Samples], list[Row]],
    *,
    memory: str = MEMORY,
    modules: Sequence[str] = (),
) -> None:
    """Brings the lab up with ``packages``, runs ``benchmarks/NAME_in_host.py`` in it, prints, and writes.

    ``modules``: others of ``benchmarks`` that it needs there; it may import Zonal's own too.
    """
    chosen = [option for package in packages for option in ("--package", package)]
    run([ZONAL, "lab", "up", "--name", given.lab, "--memory", memory, *chosen])
    run([ZONAL, "run", "--rm", "--lab", given.lab, "debian:13", "true"])
    passed_on = f"--rounds {given.rounds}" + (f" --only {given.only}" if given.only else "")
    start = f"PYTHONPATH={SOURCE}:{LIB} python3"
    done = subprocess.run(
        [ZONAL, "lab", "shell", "--name", given.lab, "--", f"cat > {SENT} && {start} {SENT} {passed_on}"],
        input=program(f"{name}_in_host", modules),
        stdout=subprocess.PIPE,
        check=True,
    )
    samples: Samples = json.loads(done.stdout.splitlines()[-1])
    rows = summary(samples)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    folder = ROOT / "bench-results"
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{when.replace(':', '')}.json"
    path.write_text(json.dumps({"when": when, "samples": samples, "summary": rows}, indent=1))
    print_summary(rows)
    print(f"\nall samples: {path.relative_to(ROOT)}")
    run([ZONAL, "lab", "down", "--name", given.lab])


def program(module: str, modules: Sequence[str] = ()) -> bytes:
    """A module of ``benchmarks``, with others that it needs, as a zip archive that Python takes for a program."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("__main__.py", f"from benchmarks.{module} import main\n\nmain()\n")
        for name in ("__init__", "measuring", *modules, module):
            archive.write(ROOT / "benchmarks" / f"{name}.py", f"benchmarks/{name}.py")
    return data.getvalue()


def promise(what: str, ratio: float, least: float) -> Row:
    """A row that says whether ``ratio`` is what was promised."""
    return {"what": what, "value": ratio, "unit": "×", "limit": least, "least": True, "met": ratio >= least}


def least(what: str, value: float, limit: float) -> Row:
    """A row of what must be no less."""
    return {"what": what, "value": value, "unit": "", "limit": limit, "least": True, "met": value >= limit}


def most(what: str, value: float, limit: float) -> Row:
    """A row of what must be no more."""
    return {"what": what, "value": value, "unit": "", "limit": limit, "least": False, "met": value <= limit}


def medians(samples: Samples, unit: str = "") -> list[Row]:
    """A row for everything that was measured."""
    return [
        {
            "what": f"  {key}, {who}",
            "value": statistics.median(values),
            "unit": unit,
            "limit": float("inf"),
            "least": False,
            "met": True,
        }
        for key, sides in samples.items()
        for who, values in sides.items()
    ]
