from __future__ import annotations

import json
import signal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zonal.errors import InvalidInputError
from zonal.images.config import chain_id, make_config, parse_config, parse_signal, parse_time
from zonal.images.healthcheck import HealthCheck

DIFFS = [f"sha256:{digit * 64}" for digit in "abc"]


def document(settings: Any = None, **fields: Any) -> bytes:
    base = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": DIFFS}}
    return json.dumps({**base, "config": settings, **fields}).encode()


def test_everything_that_matters_for_running_is_read() -> None:
    config = parse_config(
        document(
            {
                "Entrypoint": ["/bin/app"],
                "Cmd": ["--help", "naïve arg"],
                "Env": ["PATH=/bin", "A=1", "B==x", "A=2"],
                "WorkingDir": "/srv",
                "User": "app:staff",
                "StopSignal": "SIGQUIT",
                "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
                "Volumes": {"/data": {}},
                "Labels": {"a": "b"},
            },
            created="2026-01-02T03:04:05.000000006Z",
        ),
        "config",
    )
    assert config.entrypoint == ("/bin/app",)
    assert config.command == ("--help", "naïve arg")
    assert config.env == ("PATH=/bin", "A=2", "B==x")
    assert (config.working_directory, config.user, config.stop_signal) == ("/srv", "app:staff", signal.SIGQUIT)
    assert (config.exposed_ports, config.volumes, config.labels) == (("80/tcp", "53/udp"), ("/data",), {"a": "b"})
    assert config.created_ns == 1_767_323_045_000_000_006
    assert list(config.diff_ids) == DIFFS


def test_a_health_check_is_read_as_docker_writes_it() -> None:
    test = ["CMD-SHELL", "curl -f localhost || exit 1"]
    said: dict[str, Any] = {"Test": test, "Interval": 30_000_000_000, "Retries": 5}
    config = parse_config(document({"Healthcheck": said, "Shell": ["/bin/bash", "-c"]}), "config")
    wanted = HealthCheck(tuple(test), interval_ns=30 * 10**9, retries=5, shell=("/bin/bash", "-c"))
    assert config.health == wanted
    assert parse_config(document({"Healthcheck": None}), "config").health is None
    assert parse_config(document({"Healthcheck": {}}), "config").health == HealthCheck()


@pytest.mark.parametrize(
    "said", [[], "x", {"Test": "curl"}, {"Test": [1]}, {"Interval": "30s"}, {"Interval": -1}, {"Retries": 1 << 63}]
)
def test_a_malformed_health_check_is_refused(said: Any) -> None:
    with pytest.raises(InvalidInputError, match="Healthcheck"):
        parse_config(document({"Healthcheck": said}), "config")


@pytest.mark.parametrize("settings", [None, {}, {"Entrypoint": None, "Cmd": None, "Env": None, "WorkingDir": ""}])
def test_what_is_absent_has_a_default(settings: Any) -> None:
    config = parse_config(document(settings), "config")
    assert (config.entrypoint, config.command, config.env, config.user) == ((), (), (), "")
    assert (config.working_directory, config.stop_signal, config.created_ns) == ("/", signal.SIGTERM, 0)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (document(architecture="arm64"), "linux/arm64"),
        (document(os="windows"), "windows/amd64"),
        (document(rootfs={"type": "layers", "diff_ids": []}), "no layers"),
        (document(rootfs={"type": "layers", "diff_ids": ["sha256:12"]}), "not a sha256 digest"),
        (document(rootfs={"type": "magic", "diff_ids": DIFFS}), "type"),
        (document(rootfs=[]), "rootfs is not an object"),
        (document({"Cmd": "sh"}), "Cmd is not an array"),
        (document({"Cmd": [1]}), "Cmd is not a string"),
        (document({"Cmd": ["a\0b"]}), "NUL"),
        (document({"Env": ["novalue"]}), "NAME=value"),
        (document({"User": 5}), "User is not a string"),
        (document({"Volumes": {"data": {}}}), "absolute path"),
        (document({"ExposedPorts": {"http": {}}}), "not a port"),
        (document({"StopSignal": "SIGNOTHING"}), "no signal"),
        (document(created="yesterday"), "malformed"),
    ],
)
def test_what_is_malformed_is_refused_by_field(data: bytes, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        parse_config(data, "config")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["Env", "Cmd", "User", "Volumes", "Labels", "StopSignal", "WorkingDir"]), JSON))
def test_any_settings_are_read_or_refused(settings: dict[str, Any]) -> None:
    try:
        parse_config(document(settings), "config")
    except InvalidInputError as error:
        assert "config" in error.message or "signal" in error.message


def test_a_root_filesystem_gets_a_configuration() -> None:
    inner = parse_config(make_config(b'{"Cmd": ["sh"]}', DIFFS, "x"), "x")
    whole = parse_config(
        make_config(b'{"config": {"Cmd": ["sh"]}, "created": "2026-01-02T03:04:05Z"}', DIFFS, "x"), "x"
    )
    assert inner.command == whole.command == ("sh",)
    assert whole.created_ns == 1_767_323_045_000_000_000
    assert parse_config(make_config(b"", DIFFS, "x"), "x").command == ()
    with pytest.raises(InvalidInputError):
        make_config(b'{"Cmd": 5}', DIFFS, "x")
    with pytest.raises(InvalidInputError):
        make_config(b'{"config": 5}', DIFFS, "x")


def test_chain_ids_are_those_of_the_specification() -> None:
    assert chain_id(DIFFS[:1]) == DIFFS[0]
    # Made with sha256sum.
    assert chain_id(DIFFS[:2]) == "sha256:ccd722928bd92476ba1745586fed6e45a102504185ad88cd89e01ff116fd146c"


@pytest.mark.parametrize(
    ("text", "number"),
    [("SIGTERM", 15), ("term", 15), ("9", 9), ("SIGRTMIN+3", 37), ("SIGRTMIN", 34), ("SIGRTMAX", 64)],
)
def test_signals_have_names_and_numbers(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["", "SIG", "0", "65", "-1", "RTMIN+99", "SIGTERM ", "٣"])
def test_no_signal(text: str) -> None:
    with pytest.raises(InvalidInputError):
        parse_signal(text)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("", 0),
        ("1970-01-01T00:00:01Z", 10**9),
        ("1970-01-01T01:00:01+01:00", 10**9),
        ("1970-01-01T00:00:00.25Z", 250_000_000),
        ("0001-01-01T00:00:00Z", 0),
    ],
)
def test_times(text: str, ns: int) -> None:
    assert parse_time(text, "x") == ns
