"""The zone's CPUs: which are online. The host says in the store which there are; bringing them up is ours."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zonal.agent.loop import Loop

CPUS = "/sys/devices/system/cpu"
_TURN_SECONDS = 0.05
_MOST_TURNS = 600


def set_online(loop: Loop, wanted: int, done: Callable[[int], None], *, folder: str = CPUS) -> None:
    """Has the first ``wanted`` CPUs online and no others, and tells how many are, after 30 s in any case.

    Linux takes those away by itself that the store has offline (drivers/xen/cpu_hotplug.c), but adds others only.
    """
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        online = count_online(folder)
        if online < wanted:
            for number in range(1, wanted):
                _write_one(f"{folder}/cpu{number}/online")
            online = count_online(folder)
        if online == wanted or turns >= _MOST_TURNS:
            done(online)
        else:
            loop.after(_TURN_SECONDS, turn)

    turn()


def count_online(folder: str = CPUS) -> int:
    """How many CPUs run."""
    with open(f"{folder}/online") as file:
        text = file.read().strip()
    count = 0
    for part in text.split(","):
        first, _, last = part.partition("-")
        count += int(last or first) - int(first) + 1
    return count


def _write_one(path: str) -> None:
    if not os.path.exists(path):  # it is yet to come
        return
    try:
        with open(path, "r+") as file:
            if file.read().strip() == "0":
                file.seek(0)
                file.write("1")
    except OSError:
        return  # it may have gone again, or be on its way: the next turn sees
