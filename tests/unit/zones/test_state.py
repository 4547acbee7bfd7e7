from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zonal.errors import AlreadyExistsError, InvalidInputError, NotFoundError, UnavailableError
from zonal.images.healthcheck import HealthCheck
from zonal.zones.health import Health, HealthStatus, ProbeResult
from zonal.zones.restart import RestartKind, RestartPolicy, Restarts
from zonal.zones.spec import Phase, TerminalSize, ZoneRecord, ZoneSpec, ZoneState
from zonal.zones.state import ZoneStore, decode_record, encode_record


def record(zone_id: str = "a" * 64, name: str = "one") -> ZoneRecord:
    spec = ZoneSpec(
        id=zone_id,
        name=name,
        image="debian:13",
        image_id="sha256:" + "b" * 64,
        erofs_path="/images/x.erofs",
        command=("sh", "-c", "ä"),
        env=("A=b c",),
        terminal_size=TerminalSize(30, 90),
    )
    return ZoneRecord(spec=spec, state=ZoneState.CREATING, created_ns=1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ZoneStore]:
    with ZoneStore.open(tmp_path / "state.sqlite") as opened:
        yield opened


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
phases = st.builds(Phase, texts, st.integers(), st.integers())
results = st.builds(ProbeResult, st.integers(), st.integers(), st.integers(), texts)
records = st.builds(
    ZoneRecord,
    spec=st.builds(
        ZoneSpec,
        id=texts,
        name=texts,
        image=texts,
        image_id=texts,
        erofs_path=texts,
        command=st.tuples(texts, texts),
        env=st.tuples(texts),
        terminal_size=st.builds(TerminalSize, st.integers(), st.integers()),
        terminal=st.booleans(),
        restart=st.builds(RestartPolicy, st.sampled_from(RestartKind), st.integers(0, 9)),
        health=st.none() | st.builds(HealthCheck, st.tuples(texts, texts), *[st.integers()] * 5, st.tuples(texts)),
    ),
    restarts=st.builds(Restarts, st.integers(), st.integers(), st.booleans(), st.booleans()),
    health=st.none() | st.builds(Health, st.sampled_from(HealthStatus), st.integers(), st.tuples(results)),
    state=st.sampled_from(ZoneState),
    created_ns=st.integers(),
    phases=st.lists(phases, max_size=3).map(tuple),
    resources=st.lists(st.tuples(texts, texts), max_size=3).map(tuple),
)


@given(records)
def test_a_record_comes_back_as_it_was(made: ZoneRecord) -> None:
    assert decode_record(encode_record(made)) == made


def test_what_others_have_written_since_is_read(tmp_path: Path) -> None:
    with ZoneStore.open(tmp_path / "state.sqlite") as store, ZoneStore.open(tmp_path / "state.sqlite") as other:
        store.add(record())
        assert store.get("a" * 64) is store.find("one")
        other.update("a" * 64, domain_id=7)
        assert store.get("a" * 64).domain_id == 7
        assert [each.domain_id for each in store.list()] == [7]
        other.remove("a" * 64)
        assert store.list() == []
        with pytest.raises(NotFoundError):
            store.get("a" * 64)


def test_a_record_of_another_version_is_read_as_far_as_it_is_known() -> None:
    text = encode_record(record()).replace('"phases":[],', '"later":1,')
    assert '"later"' in text
    assert decode_record(text) == record()


def test_a_record_from_before_policies_has_none() -> None:
    values = json.loads(encode_record(record()))
    for part in (values["spec"], values):
        for name in ("restart", "restarts", "health"):
            part.pop(name, None)
    assert decode_record(json.dumps(values)) == record()


def test_records_outlive_the_process(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    code = (
        "import os, signal, sys; from pathlib import Path; from tests.unit.zones.test_state import record;"
        "from zonal.zones.state import ZoneStore; store = ZoneStore.open(Path(sys.argv[1]));"
        "store.add(record()); store.add_resource('a' * 64, 'loop', '/dev/loop7'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False, env=os.environ | {"PYTHONPATH": "."})
    assert done.returncode == -signal.SIGKILL
    with ZoneStore.open(path) as store:
        assert store.list() == [replace(record(), resources=(("loop", "/dev/loop7"),))]


def test_only_its_owner_can_read_the_file(store: ZoneStore, tmp_path: Path) -> None:
    store.add(record())
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_name_is_taken_once(store: ZoneStore) -> None:
    store.add(record())
    with pytest.raises(AlreadyExistsError, match="'one' is in use by zone aaaaaaaaaaaa") as caught:
        store.add(record("b" * 64))
    assert caught.value.hint
    store.remove("a" * 64)
    store.add(record("b" * 64))


def test_fields_change_and_the_spec_does_not(store: ZoneStore) -> None:
    store.add(record())
    changed = store.update("a" * 64, state=ZoneState.RUNNING, domain_id=5, phases=(Phase("build", 0, 9),))
    assert changed == store.get("a" * 64)
    assert (changed.state, changed.domain_id, changed.phases[0].end_ns) == (ZoneState.RUNNING, 5, 9)
    with pytest.raises(TypeError):
        store.update("a" * 64, spec=changed.spec)
    store.change_spec("a" * 64, restart=RestartPolicy(RestartKind.ALWAYS))
    assert store.get("a" * 64).spec.restart.kind is RestartKind.ALWAYS
    assert store.get("a" * 64).domain_id == 5


def test_resources_are_kept_in_the_order_of_their_making(store: ZoneStore) -> None:
    store.add(record())
    for name in ("x", "y", "z"):
        store.add_resource("a" * 64, "loop", name)
    assert store.drop_resource("a" * 64, "loop", "y").resources == (("loop", "x"), ("loop", "z"))


class TestFinding:
    def test_by_id_name_and_beginning(self, store: ZoneStore) -> None:
        store.add(record("ab" * 32, "one"))
        store.add(record("ac" * 32, "two"))
        assert store.find("ab" * 32).name == "one"
        assert store.find("two").name == "two"
        assert store.find("ac").name == "two"

    def test_a_name_comes_before_a_beginning(self, store: ZoneStore) -> None:
        store.add(record("ab" * 32, "one"))
        store.add(record("cd" * 32, "ab"))
        assert store.find("ab").id == "cd" * 32

    def test_an_ambiguous_beginning_names_what_it_could_be(self, store: ZoneStore) -> None:
        store.add(record("ab" * 32, "one"))
        store.add(record("ac" * 32, "two"))
        with pytest.raises(InvalidInputError, match="abababababab, acacacacacac"):
            store.find("a")

    @pytest.mark.parametrize("ref", ["", "nosuch", "f", "%", "_ne", "'", "ff" * 40])
    def test_what_is_not_there_is_not_found(self, store: ZoneStore, ref: str) -> None:
        store.add(record())
        with pytest.raises(NotFoundError, match="there is no zone"):
            store.find(ref)


class TestBadFiles:
    def test_garbage_is_told_and_kept(self, tmp_path: Path) -> None:
        path = tmp_path / "state.sqlite"
        path.write_bytes(b"no database" * 1000)
        with pytest.raises(UnavailableError, match="cannot be read") as caught:
            ZoneStore.open(path)
        assert caught.value.hint
        assert path.read_bytes().startswith(b"no database")

    def test_a_newer_version_is_told(self, tmp_path: Path) -> None:
        path = tmp_path / "state.sqlite"
        ZoneStore.open(path).close()
        with sqlite3.connect(path) as database:
            database.execute("PRAGMA user_version = 99")
        with pytest.raises(UnavailableError, match="version 99"):
            ZoneStore.open(path)

    def test_a_folder_that_is_not_there_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(UnavailableError):
            ZoneStore.open(tmp_path / "nowhere" / "state.sqlite")


def test_workloads_are_found_by_the_zone_that_they_share(tmp_path: Path) -> None:
    with ZoneStore.open(tmp_path / "state.sqlite") as store:
        for number, zone in enumerate(("", "", "a" * 64, "a" * 64, "b" * 64)):
            made = record(f"{number:064x}", f"zone{number}")
            store.add(replace(made, spec=replace(made.spec, zone=zone), created_ns=number))
        assert [each.name for each in store.sharing("a" * 64)] == ["zone2", "zone3"]
        assert store.sharing("c" * 64) == store.sharing("") == []
    with closing(sqlite3.connect(tmp_path / "state.sqlite")) as database:
        query = "EXPLAIN QUERY PLAN SELECT record FROM zones WHERE json_extract(record, '$.spec.zone') = 'a' AND "
        plan = database.execute(query + "json_extract(record, '$.spec.zone') <> ''").fetchall()
        assert "zones_shared" in str(plan)
