"""critest's report is read as it is, and judged by the table in the documents."""

from __future__ import annotations

from pathlib import Path

from tests.conformance.report import judge, read_cases, read_exceptions

JUNIT = b"""<?xml version="1.0" encoding="UTF-8"?>
<testsuites><testsuite name="CRI validation">
<testcase name="[BeforeSuite]" status="passed" time="0.1"></testcase>
<testcase name="[It] [k8s.io] A [Conformance]" status="passed" time="1.5"></testcase>
<testcase name="[It] [k8s.io] B [Conformance]" status="failed" time="2"><failure message="why" type="failed">x</failure>
</testcase>
<testcase name="[It] [k8s.io] C" status="skipped" time="0"><skipped message="skipped"></skipped></testcase>
<testcase name="[It] [k8s.io] D" status="skipped" time="0"><skipped message="skipped - no SELinux"></skipped></testcase>
<testcase name="[It] [k8s.io] E" status="panicked" time="0"><error message="oh" type="panicked">x</error></testcase>
</testsuite></testsuites>
"""
PAGE = """# Kubernetes

## Exceptions

Words.

| case | reason |
|---|---|
| [k8s.io] D | a zone has no SELinux |
| [k8s.io] A [Conformance] | it had a fault |

## Limits

| case | reason |
|---|---|
| [k8s.io] B [Conformance] | in another table |
"""


def test_cases_are_judged_by_the_table() -> None:
    cases = read_cases(JUNIT)
    assert [(each.name, each.state) for each in cases] == [
        ("[k8s.io] A [Conformance]", "passed"),
        ("[k8s.io] B [Conformance]", "failed"),
        ("[k8s.io] D", "skipped"),
        ("[k8s.io] E", "failed"),
    ]
    faults, excused, better = judge(cases, read_exceptions(PAGE))
    assert [each.name for each in faults] == ["[k8s.io] B [Conformance]", "[k8s.io] E"]
    assert [each.name for each in excused] == ["[k8s.io] D"]
    assert [each.name for each in better] == ["[k8s.io] A [Conformance]"]
    assert faults[0].message == "why"


def test_the_documents_table_is_read() -> None:
    page = Path(__file__).parents[3] / "docs/kubernetes.md"
    assert all(reason for reason in read_exceptions(page.read_text()).values())
