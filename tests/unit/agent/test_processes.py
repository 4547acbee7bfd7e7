from __future__ import annotations

import os

import pytest

from zonal.agent.processes import send_signal


@pytest.mark.parametrize("pid", [0, -1, -2])
def test_no_signal_goes_to_a_group_or_to_everybody(pid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []

    def kill(target: int, _number: int) -> None:
        sent.append(target)

    monkeypatch.setattr(os, "kill", kill)
    with pytest.raises(ValueError, match="not the number of one process"):
        send_signal(pid, 9)
    assert sent == []
