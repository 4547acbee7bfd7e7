from __future__ import annotations

from dataclasses import replace

from zonal.network.attachments import Attachment
from zonal.network.ports import Port
from zonal.zones.lifecycle import _without  # pyright: ignore[reportPrivateUsage]
from zonal.zones.network_spec import NetworkSpec
from zonal.zones.networking import hosts_file, network_parameters, resolv_conf
from zonal.zones.paths import Change
from zonal.zones.spec import ZoneRecord, ZoneSpec, ZoneState
from zonal.zones.state import decode_record, encode_record

SPEC = ZoneSpec(
    id="a" * 64,
    name="web",
    image="debian:13",
    image_id="sha256:0",
    erofs_path="/x",
    command=("true",),
    env=(),
    hostname="web.example.org",
    network=NetworkSpec(
        "zonal", "00:16:3e:00:00:01", (Port(80, 8080),), hosts=(("db", "10.0.0.9"), ("host", "host-gateway"))
    ),
)
BRIDGE = {"plugins": [{"type": "bridge", "bridge": "zn-zonal"}]}
RESULT = {
    "ips": [{"address": "10.187.0.2/22", "gateway": "10.187.0.1"}, {"address": "fd00::2/64", "gateway": "fd00::1"}],
    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0", "gw": "fd00::1"}],
}
ATTACHED = Attachment("a" * 64, "web", "zonal", "00:16:3e:00:00:01", (), BRIDGE, RESULT)
GATEWAYS = ("10.187.0.1", "fd00::1")


def test_the_agent_is_told_what_the_plugins_gave() -> None:
    told = network_parameters(SPEC, ATTACHED, GATEWAYS)
    assert told["addresses"] == ["10.187.0.2/22", "fd00::2/64"]
    assert told["routes"] == ["0.0.0.0/0 10.187.0.1", "::/0 fd00::1"]
    assert told["mac"] == "00:16:3e:00:00:01"
    assert set(network_parameters(SPEC, None, ())) == {"files"}


def test_names_are_asked_for_at_the_gateway_unless_somebody_says_otherwise() -> None:
    assert resolv_conf(SPEC.network, ATTACHED, GATEWAYS) == "nameserver 10.187.0.1\nnameserver fd00::1\n"
    own = replace(SPEC.network, dns=("192.0.2.1",), dns_search=("a.b", "c"), dns_options=("ndots:2",))
    assert resolv_conf(own, ATTACHED, GATEWAYS) == "nameserver 192.0.2.1\nsearch a.b c\noptions ndots:2\n"
    given = {**RESULT, "dns": {"nameservers": ["192.0.2.2"], "search": ["x.y"]}}
    assert resolv_conf(SPEC.network, replace(ATTACHED, result=given), ()) == "nameserver 192.0.2.2\nsearch x.y\n"
    assert resolv_conf(NetworkSpec(), None, ()) == ""


def test_the_hosts_file_has_the_zone_and_what_was_added() -> None:
    lines = hosts_file(SPEC, ATTACHED, GATEWAYS).splitlines()
    assert lines[0] == "127.0.0.1\tlocalhost"
    assert "10.0.0.9\tdb" in lines
    assert "10.187.0.1\thost" in lines
    assert lines[-2:] == ["10.187.0.2\tweb.example.org web", "fd00::2\tweb.example.org web"]
    assert hosts_file(replace(SPEC, network=NetworkSpec()), None, ()).endswith("127.0.1.1\tweb.example.org web\n")


def test_a_record_keeps_its_network() -> None:
    record = ZoneRecord(SPEC, ZoneState.RUNNING, 1, addresses=("10.187.0.2/22",), ports=(Port(80, 8080),), mac="x")
    assert decode_record(encode_record(record)) == record


def test_what_we_made_is_nobodys_change() -> None:
    ours = {"/etc/hosts", "/etc/hostname", "/dev"}
    changes = [Change("C", "/etc"), Change("A", "/etc/hosts"), Change("C", "/data"), Change("A", "/data/x")]
    assert _without(changes, ours) == changes[2:]
    changed = [*changes, Change("A", "/etc/mine")]
    assert _without(changed, ours) == [changes[0], *changes[2:], changed[-1]]
