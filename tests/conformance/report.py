"""critest's report, and the cases that are known not to pass."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass

_ROW = re.compile(r"^\|\s*(?P<case>[^|]+?)\s*\|\s*(?P<reason>[^|]+?)\s*\|$")


@dataclass(frozen=True)
class Case:
    """One case that was run; ``state`` is "passed", "failed" or "skipped"."""

    name: str
    state: str
    seconds: float
    message: str = ""

    @property
    def conformance(self) -> bool:
        """Whether every runtime has to pass it."""
        return "[Conformance]" in self.name


def read_cases(junit: bytes) -> list[Case]:
    """Of a report in JUnit's form, as Ginkgo writes it; what was left out by a filter is not told."""
    cases: list[Case] = []
    for each in ElementTree.fromstring(junit).iter("testcase"):
        # Whether a case may run beside others is no part of its name.
        name = each.attrib["name"].removeprefix("[It] ").removesuffix(" [Serial]")
        if not name.startswith("[k8s.io]"):
            continue
        found = next((kind for kind in ("failure", "error", "skipped") if each.find(kind) is not None), None)
        element = each.find(found) if found else None
        message = (element.attrib.get("message") or element.text or "").strip() if element is not None else ""
        if found == "skipped" and message in ("skipped", ""):
            continue
        state = {None: "passed", "skipped": "skipped"}.get(found, "failed")
        cases.append(Case(name, state, float(each.attrib.get("time", 0)), message))
    return cases


def read_exceptions(page: str) -> dict[str, str]:
    """The table below "## Exceptions" of docs/kubernetes.md: case → reason."""
    section = page.partition("\n## Exceptions\n")[2].partition("\n## ")[0]
    rows = [match for line in section.splitlines() if (match := _ROW.match(line))]
    return {row["case"]: row["reason"] for row in rows if row["case"] != "case" and not row["case"].startswith("---")}


def judge(cases: list[Case], exceptions: dict[str, str]) -> tuple[list[Case], list[Case], list[Case]]:
    """Those that should have passed and have not, those that are excused, and excused ones that have passed."""
    missed = [each for each in cases if each.state != "passed"]
    faults = [each for each in missed if each.name not in exceptions]
    excused = [each for each in missed if each.name in exceptions]
    better = [each for each in cases if each.state == "passed" and each.name in exceptions]
    return faults, excused, better
