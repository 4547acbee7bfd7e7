"""The life of zones and of workloads that share one, against a simple model: any order of verbs, and zonald killed.

Hypothesis chooses; each step is real, so there is one walk of ``$ZONAL_MODEL_STEPS`` steps, not many.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tests.lab.driver import IMAGE, Host, NamedLab

pytestmark = [pytest.mark.lab, pytest.mark.long]
STEPS = int(os.environ.get("ZONAL_MODEL_STEPS", "60"))
MOST_ZONES = 4
SERVE = "trap 'exit 3' TERM; echo up; while :; do sleep 0.2; done"


@dataclass
class Thing:
    """What the model knows of a zone or a workload."""

    state: str
    zone: str = ""
    """Of a workload: the zone that it shares."""
    houses: bool = False
    status: int = 0


class Lives(RuleBasedStateMachine):
    """The model, and the verbs on the real ones."""

    host: ClassVar[Host]

    def __init__(self) -> None:
        super().__init__()
        self.things: dict[str, Thing] = {}
        self.made = 0

    def named(self, beginning: str) -> str:
        self.made += 1
        return f"{beginning}{self.made}"

    def pick(self, data: st.DataObject, *states: str, houses: bool | None = None) -> str | None:
        fitting = [
            name
            for name, thing in sorted(self.things.items())
            if thing.state in states and (houses is None or thing.houses == houses) and not self.held(thing)
        ]
        return data.draw(st.sampled_from(fitting)) if fitting else None

    def held(self, thing: Thing) -> bool:
        return bool(thing.zone) and self.things[thing.zone].state == "paused"

    def do(self, *arguments: str) -> str:
        done = self.host.zonal(*arguments)
        assert done.returncode == 0, (arguments, done.stderr.decode(errors="replace"))
        return done.stdout.decode()

    def end_with_zone(self, zone: str, status: int) -> None:
        for thing in self.things.values():
            if thing.zone == zone and thing.state in ("running", "paused"):
                thing.state, thing.status = "exited", status

    @precondition(lambda self: sum(not thing.zone for thing in self.things.values()) < MOST_ZONES)
    @rule(houses=st.booleans())
    def make(self, houses: bool) -> None:
        name = self.named("house" if houses else "zone")
        if houses:
            self.do("zone", "create", "-m", "128M", name)
        else:
            self.do("run", "-d", "-m", "128M", "--name", name, IMAGE, "sh", "-c", SERVE)
        self.things[name] = Thing("running", houses=houses)

    @precondition(lambda self: len(self.things) < 3 * MOST_ZONES)
    @rule(data=st.data(), only_written=st.booleans())
    def put_in(self, data: st.DataObject, only_written: bool) -> None:
        zone = self.pick(data, "running", houses=True)
        if zone is None:
            return
        name = self.named("workload")
        verb = ["create"] if only_written else ["run", "-d"]
        self.do(*verb, "--zone", zone, "--name", name, IMAGE, "sh", "-c", SERVE)
        self.things[name] = Thing("created" if only_written else "running", zone=zone)

    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        name = self.pick(data, "exited", "created")
        if name is None:
            return
        thing = self.things[name]
        if thing.zone and self.things[thing.zone].state != "running":
            assert self.host.zonal("start", name).returncode != 0
            return
        self.do("start", name)
        thing.state, thing.status = "running", 0

    @rule(data=st.data())
    def stop(self, data: st.DataObject) -> None:
        name = self.pick(data, "running")
        if name is None:
            return
        self.do("stop", name)
        thing = self.things[name]
        thing.state, thing.status = "exited", 0 if thing.houses else 3
        self.end_with_zone(name, 3)

    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        name = self.pick(data, "running", houses=False)
        if name is None:
            return
        self.do("kill", name)
        self.do("wait", name)
        self.things[name].state, self.things[name].status = "exited", 137

    @rule(data=st.data())
    def pause(self, data: st.DataObject) -> None:
        if name := self.pick(data, "running"):
            self.do("pause", name)
            self.things[name].state = "paused"

    @rule(data=st.data())
    def unpause(self, data: st.DataObject) -> None:
        if name := self.pick(data, "paused"):
            self.do("unpause", name)
            self.things[name].state = "running"

    @rule(data=st.data())
    def rename(self, data: st.DataObject) -> None:
        if name := self.pick(data, "running", "exited", "created"):
            new = self.named("renamed")
            self.do("rename", name, new)
            self.things[new] = self.things.pop(name)
            for thing in self.things.values():
                thing.zone = new if thing.zone == name else thing.zone

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        if name := self.pick(data, "running", "exited", "created", "paused"):
            self.do("rm", "-f", name)
            self.things = {other: thing for other, thing in self.things.items() if name not in (other, thing.zone)}

    @rule(data=st.data())
    def ask(self, data: st.DataObject) -> None:
        if name := self.pick(data, "running", houses=False):
            assert self.do("exec", name, "echo", "here") == "here\n"
            assert "up" in self.do("logs", name)

    @rule()
    def kill_zonald(self) -> None:
        self.host.shell("systemctl kill -s KILL zonald; sleep 3")
        self.host.until_zonald_answers()

    @invariant()
    def all_is_as_the_model_has_it(self) -> None:
        found: list[dict[str, Any]] = self.host.zones()
        real = {zone["name"]: (zone["state"], zone["zone"] or "", zone["exit_status"]) for zone in found}
        model = {name: (thing.state, thing.zone, thing.status) for name, thing in self.things.items()}
        assert real == model

    def teardown(self) -> None:
        self.host.remove_all()


def test_any_order_of_verbs(lab: NamedLab) -> None:
    Lives.host = Host(lab)
    walk = settings(
        max_examples=1,
        stateful_step_count=STEPS,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.large_base_example],
    )
    run_state_machine_as_test(Lives, settings=walk)  # pyright: ignore[reportUnknownMemberType]
