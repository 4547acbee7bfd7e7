from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zonal.agent.json_text import to_json

SCALARS = st.none() | st.booleans() | st.integers() | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@given(VALUES)
def test_what_is_written_is_what_json_reads(value: Any) -> None:
    assert json.loads(to_json(value)) == value


def test_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match="byte"):
        to_json({"key": [b"bytes"]})
