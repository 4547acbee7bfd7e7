"""Attachments with the real plugins, in namespaces; what is seen there is in trial.py."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.network.unshared import run_trial
from zonal.errors import InvalidInputError
from zonal.network.cni import parse_configuration


@pytest.fixture(scope="module", name="seen")
def a_trial() -> dict[str, Any]:
    return run_trial("trial")


def test_a_zone_gets_the_address_and_the_ways_that_the_plugins_give(seen: dict[str, Any]) -> None:
    v4, v6 = seen["addresses"]
    assert v4 == "10.187.0.2/22"
    assert v6.startswith("fd")
    assert v6.endswith("::2/64")
    assert seen["mac"] == "00:16:3e:00:00:01"
    assert seen["mtu"] == 1500
    assert seen["routes"] == [["0.0.0.0/0", seen["gateways"][0]], ["::/0", seen["gateways"][1]]]


def test_check_tells_whether_it_still_is_as_it_was(seen: dict[str, Any]) -> None:
    assert seen["check after a change"].startswith("UNAVAILABLE: the network plugin bridge could not do CHECK")
    assert "1.0.0" in seen["versions"]


def test_zones_of_a_network_are_known_by_name_there_and_nowhere_else(seen: dict[str, Any]) -> None:
    v4, v6 = seen["address of two"]
    assert seen["dns"]["a"] == [0, 1, v4]
    assert seen["dns"]["by id"] == [0, 1, v4]
    assert seen["dns"]["aaaa over v6"] == [0, 1, v6]
    assert seen["dns"]["nobody"][0] == 3
    assert seen["dns"]["reverse"][:2] == [0, 1]
    assert seen["dns"]["over tcp"] == [0, 1, v4]
    assert seen["dns"]["outside"] == seen["dns"]["outside over tcp"] == [0, 1, "c0000235"]
    assert seen["outside of an internal network"] == [5, 0, ""]
    assert seen["other network"][0] == 3
    assert seen["other network's server"] == ["no answer"]


def test_a_failure_says_why_and_leaves_nothing(seen: dict[str, Any]) -> None:
    assert seen["port taken"] == "ALREADY_EXISTS: the host's port 8080/tcp is taken by zone one"
    assert seen["full"].startswith("RESOURCE_EXHAUSTED")
    assert seen["in use"].startswith("FAILED_PRECONDITION: the network tiny is in use by small4")
    assert seen["no plugin"].startswith("UNAVAILABLE: the network plugin no-such-plugin is not installed")
    assert seen["nothing left of those"] is True


def test_the_next_daemon_keeps_what_runs_and_undoes_the_rest(seen: dict[str, Any]) -> None:
    assert seen["recovered"] == ["one"]
    assert seen["same"]
    assert seen["kept"]["namespaces"] == ["zonal-111111111111"]
    assert seen["kept"]["records"] == ["1" * 64 + ".json"]
    assert len(seen["kept"]["leases"]) == 2
    assert seen["held again"].startswith("ALREADY_EXISTS")
    assert seen["dns again"][:2] == [0, 1]
    assert seen["at the end"] == {"namespaces": [], "leases": [], "records": [], "links": "0", "ports": "0"}


UNUSABLE: list[object] = [
    None,
    [],
    {},
    {"name": "a b", "cniVersion": "1.0.0", "plugins": [{"type": "bridge"}]},
    {"name": "a", "cniVersion": "1.0.0", "plugins": []},
    {"name": "a", "cniVersion": "1.0.0", "plugins": [{}]},
    {"name": "a", "cniVersion": "1.0.0", "plugins": [{"type": "../../bin/sh"}]},
    {"name": "a", "cniVersion": "0.2.0", "type": "bridge"},
    {"name": "a", "type": "bridge"},
    {"name": "a", "cniVersion": "9.0.0", "type": "bridge"},
]


@pytest.mark.parametrize("document", UNUSABLE)
def test_configurations_that_cannot_be_are_refused(document: object) -> None:
    with pytest.raises(InvalidInputError):
        parse_configuration(document, "a.conflist")


def test_a_single_plugin_is_a_list_of_one_and_the_newest_version_is_taken() -> None:
    parsed = parse_configuration({"name": "a", "cniVersion": "0.4.0", "type": "bridge"}, "a.conf")
    assert (parsed.version, len(parsed.plugins)) == ("0.4.0", 1)
    several = {"name": "a", "cniVersion": "0.4.0", "cniVersions": ["1.0.0", "1.1.0"], "plugins": [{"type": "x"}]}
    assert parse_configuration(several, "a.conflist").version == "1.1.0"
