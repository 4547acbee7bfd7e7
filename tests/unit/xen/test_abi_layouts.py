"""Structures and numbers of the hypercalls' stable part, against the installed public headers."""

from __future__ import annotations

from tests.layout_table import STABLE, STABLE_HEADERS, STABLE_NUMBERS, expressions
from tests.unit.xen.c_layout import c_values


def test_layouts_and_numbers_are_those_of_the_headers() -> None:
    expected = expressions(STABLE) | STABLE_NUMBERS
    assert c_values(STABLE_HEADERS, list(expected)) == expected
