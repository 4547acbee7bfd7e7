"""A cluster's networks, by real plugins and bad ones, in namespaces; what is seen there is in cluster_trial.py."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.network.unshared import run_trial

NOTHING: dict[str, Any] = {"namespaces": [], "leases": [], "records": [], "veths": "0"}


@pytest.fixture(scope="module", name="seen")
def a_trial() -> dict[str, Any]:
    return run_trial("cluster_trial")


@pytest.mark.parametrize("plugin", ["ptp", "bridge"])
def test_a_pod_reaches_the_host_and_other_pods_by_both_families(seen: dict[str, Any], plugin: str) -> None:
    assert seen[plugin]["host"] == ["host", "host"]
    assert seen[plugin]["pod"] == ["pod2", "pod2"]


def test_its_ways_are_those_that_the_plugin_made(seen: dict[str, Any]) -> None:
    setup = seen["ptp"]["setup"]
    assert [address.partition("/")[2] for address in setup["addresses"]] == ["24", "64"]
    # ptp takes the way to the subnet away, and has even that go by the gateway.
    assert ["10.50.0.1/32", ""] in setup["routes"]
    assert ["10.50.0.0/24", "10.50.0.1"] in setup["routes"]
    assert ["0.0.0.0/0", "10.50.0.1"] in setup["routes"]
    with_gateway = [bool(gateway) for _, gateway in setup["routes"]]
    assert with_gateway == sorted(with_gateway)
    assert seen["ptp"]["mtu"] == 1400
    assert seen["ptp"]["dns"]["nameservers"] == ["192.0.2.9"]


@pytest.mark.parametrize("plugin", ["ptp", "bridge"])
def test_checks_tell_what_is_as_it_was_and_what_is_lost(seen: dict[str, Any], plugin: str) -> None:
    assert seen[plugin]["check"] == "it went well"
    assert seen[plugin]["recovered"] is True
    assert seen[plugin]["check of what was changed"].startswith("UNAVAILABLE: the network plugin")
    assert seen[plugin]["there"] == [True, False]
    assert seen[plugin]["check of what is gone"].startswith("FAILED_PRECONDITION: the network namespace zonal-2")
    assert seen[plugin]["left"] == NOTHING


def test_plugins_of_the_newest_version_are_asked_and_told(seen: dict[str, Any]) -> None:
    calls = {call["command"]: call for call in seen["newest"]["calls"]}
    assert list(calls) == ["STATUS", "GC", "ADD", "DEL"]
    assert calls["GC"]["stdin"]["cni.dev/valid-attachments"] == [{"containerID": "of-others", "ifname": "eth1"}]
    assert calls["ADD"]["args"] == "IgnoreUnknown=1;MAC=00:16:3e:00:00:01;K8S_POD_NAME=pod1"
    assert calls["ADD"]["stdin"]["runtimeConfig"] == {"bandwidth": {"x": 1}}  # what it takes, and there is
    assert calls["DEL"]["args"] == calls["ADD"]["args"]
    assert seen["newest"]["error"].startswith("UNAVAILABLE: the network newest made no interface eth0")


@pytest.mark.parametrize(
    ("kind", "error", "calls"),
    [
        ("rubbish", "UNAVAILABLE: the network plugin rubbish gave no result, but 'surprise\\n'", ["ADD", "DEL"]),
        (
            "impossible",
            "UNAVAILABLE: the network plugin impossible gave a result that cannot be: 'nowhere'",
            ["ADD", "DEL"],
        ),
        ("failing", "UNAVAILABLE: the network plugin failing could not do ADD: no luck today", ["ADD", "DEL"]),
        ("hanging", "DEADLINE_EXCEEDED: the network plugin hanging did not end within 2 s", ["ADD", "DEL"]),
        ("broken", "UNAVAILABLE: the network plugin broken cannot be run", []),
    ],
)
def test_a_bad_plugin_is_quoted_and_what_was_made_is_undone(
    seen: dict[str, Any], kind: str, error: str, calls: list[str]
) -> None:
    found = seen[kind]
    assert found.pop("error").startswith(error)
    assert found.pop("calls") == calls
    assert not found.pop("still there", False)
    assert found == NOTHING
