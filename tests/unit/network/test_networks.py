from __future__ import annotations

import json
from ipaddress import IPv4Network, ip_network
from pathlib import Path

import pytest

from zonal.errors import AlreadyExistsError, InvalidInputError, NotFoundError, WrongStateError
from zonal.network.firewall import Publication, ruleset
from zonal.network.networks import DEFAULT, NetworkStore
from zonal.network.ports import Port


@pytest.fixture(name="store")
def a_store(tmp_path: Path) -> NetworkStore:
    routes = [IPv4Network("10.187.0.0/24"), IPv4Network("192.168.7.0/24")]
    return NetworkStore(
        tmp_path / "networks", tmp_path / "leases", configurations=tmp_path / "cni", routes=lambda: routes
    )


def test_the_default_network_is_made_when_it_is_first_wanted_and_stays(store: NetworkStore) -> None:
    assert store.list() == []
    made = store.find(DEFAULT)
    assert made == store.find(DEFAULT)
    assert made.bridge == "zn-zonal"
    v4, v6 = map(ip_network, made.subnets)
    assert v4 == IPv4Network("10.187.4.0/22"), "the first range to which the host has no way yet"
    assert v6.is_private
    assert made.gateways == (str(v4[1]), str(v6[1]))
    with pytest.raises(WrongStateError):
        store.remove(DEFAULT)


def test_ranges_are_chosen_apart_and_given_ones_are_kept(store: NetworkStore) -> None:
    first, second = store.create("one"), store.create("two")
    assert not ip_network(first.subnets[0]).overlaps(ip_network(second.subnets[0]))
    assert first.subnets[1] != second.subnets[1]
    assert len(first.bridge) < 16, "IFNAMSIZ"
    given = store.create("three", subnets=["10.50.0.0/24"], internal=True)
    assert given.subnets == ("10.50.0.0/24",)
    assert store.find("three") == given
    with pytest.raises(AlreadyExistsError, match=r"10\.50\.0\.0/24"):
        store.create("four", subnets=["10.50.0.0/16"])
    store.remove("three")
    with pytest.raises(NotFoundError):
        store.find("three")
    store.create("four", subnets=["10.50.0.0/16"])


@pytest.mark.parametrize(
    "subnets",
    [
        ["10.0.0.1/24"],
        ["10.0.0.0/31"],
        ["0.0.0.0/0"],
        ["127.1.0.0/16"],
        ["224.0.0.0/24"],
        ["169.254.0.0/16"],
        ["fe80::/64"],
        ["nonsense"],
        [""],
        ["10.1.0.0/24", "10.2.0.0/24"],
        ["fd00::/7"],
    ],
)
def test_absurd_ranges_are_refused(store: NetworkStore, subnets: list[str]) -> None:
    with pytest.raises(InvalidInputError):
        store.create("red", subnets=subnets)
    assert store.list() == []


def test_a_range_that_the_host_has_a_way_to_is_refused(store: NetworkStore) -> None:
    with pytest.raises(AlreadyExistsError, match=r"192\.168\.7"):
        store.create("red", subnets=["192.168.7.128/25"])


@pytest.mark.parametrize("name", ["", "a", "-a", "a b", "../x", "x" * 64, "none", "host", "ä1", "a\n"])
def test_names_that_cannot_be_are_refused(store: NetworkStore, name: str) -> None:
    with pytest.raises(InvalidInputError):
        store.create(name)


def test_a_name_that_is_there_twice_is_told(store: NetworkStore, tmp_path: Path) -> None:
    folder = tmp_path / "cni"
    folder.mkdir()
    pods = {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "ptp"}]}
    (folder / "10-pods.conflist").write_text(json.dumps(pods))
    (folder / "11-broken.conflist").write_text("{")
    found = store.find("pods")
    assert found.source.endswith("10-pods.conflist")
    assert store.configuration(found).plugins == ({"type": "ptp"},)
    with pytest.raises(WrongStateError):
        store.remove("pods")
    with pytest.raises(AlreadyExistsError):
        store.create("pods")
    (folder / "12-again.conf").write_text(json.dumps({"cniVersion": "0.4.0", "name": "pods", "type": "bridge"}))
    with pytest.raises(InvalidInputError, match=r"10-pods.*12-again"):
        store.find("pods")


def test_the_table_keeps_networks_apart_and_internal_ones_inside(store: NetworkStore) -> None:
    store.create("one", subnets=["10.51.0.0/24"])
    store.create("two", subnets=["10.52.0.0/24"], internal=True)
    rules = ruleset(store.own())
    one, two = store.find("one").bridge, store.find("two").bridge
    assert f'"{one}" . "{one}"' in rules
    assert f'iifname {{ "{two}" }} oifname != "zn-*" drop' in rules
    assert "ip saddr 10.51.0.0/24" in rules
    assert "10.52.0.0" not in rules


def test_published_ports_lead_to_zones_by_the_family_of_their_addresses(store: NetworkStore) -> None:
    store.create("one", subnets=["10.51.0.0/24"])
    everywhere, here = Port(80, 8080), Port(53, 5353, "192.0.2.7", "udp")
    published = [Publication(port, address) for port in (everywhere, here) for address in ("10.51.0.2", "fd00::2")]
    rules = ruleset(store.own(), published)
    assert rules.count("fib daddr type local tcp dport 8080 dnat ip to 10.51.0.2:80") == 2, (
        "arriving, and the host's own"
    )
    assert rules.count("fib daddr type local tcp dport 8080 dnat ip6 to [fd00::2]:80") == 2
    assert rules.count("ip daddr 192.0.2.7 udp dport 5353 dnat ip to 10.51.0.2:53") == 2
    assert "[fd00::2]:53" not in rules
    assert 'iifname "zn-*" ip daddr 127.0.0.0/8 drop' in rules
