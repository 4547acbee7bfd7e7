"""Pulls and pushes as people type them: what is shown, and whose credentials are used."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Zonal
from zonal.cli.credentials import auth_files, find_login
from zonal.images.skopeo import Login

NAME = "registry.test/team/app:1"


def test_a_pull_tells_each_layer_once_in_a_pipe(zonal: Zonal) -> None:
    done = zonal("pull", NAME)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode() == f"{NAME}\n"
    lines = done.stderr.decode().splitlines()
    assert lines[0] == f"asking for {NAME}"
    assert [line for line in lines if "fetched" in line] == ["111111111111: fetched, 10 B"]
    assert not any("waiting" in line or "\x1b" in line for line in lines)
    again = zonal("image", "pull", "-q", NAME)
    assert (again.stdout.decode(), again.stderr) == (f"{NAME}\n", b"")


def test_a_run_pulls_what_is_missing_as_it_is_told(zonal: Zonal) -> None:
    name = "registry.test/team/run:1"
    never = zonal("run", "--rm", "--pull", "never", name, "true")
    assert never.returncode == 125
    assert name in never.stderr.decode()
    first = zonal("run", "--rm", name, "true")
    assert first.returncode == 0, first.stderr
    assert b"fetched" in first.stderr
    assert b"fetched" not in zonal("run", "--rm", name, "true").stderr
    assert b"fetched" in zonal("run", "--rm", "--pull=always", name, "true").stderr
    missing = zonal("run", "--rm", "elsewhere.test/none:1", "true")
    assert missing.returncode == 125
    assert b"the registry has no such image" in missing.stderr


def test_an_image_is_named_pushed_and_its_history_shown(zonal: Zonal) -> None:
    assert zonal("image", "tag", "local:1", "registry.test/mine:2").returncode == 0
    pushed = zonal("push", "registry.test/mine:2")
    assert pushed.stdout.startswith(b"registry.test/mine:2@sha256:")
    assert zonal("image", "history", "local:1").stdout.startswith(b"LAYER")
    assert b"free again" in zonal("image", "prune").stdout


def entry(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def environment(home: Path) -> dict[str, str]:
    return {"HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run")}


def write(path: Path, **document: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def test_credentials_are_those_of_the_first_file_that_has_some(tmp_path: Path) -> None:
    write(
        tmp_path / ".docker/config.json",
        auths={"r.test": entry("docker", "p:w"), "https://other.test": entry("o", "p")},
    )
    assert find_login("r.test", environment(tmp_path)) == Login("docker", "p:w")
    assert find_login("other.test", environment(tmp_path)) == Login("o", "p")
    assert find_login("none.test", environment(tmp_path)) == Login()
    write(tmp_path / "run/containers/auth.json", auths={"r.test": entry("podman", "")})
    assert find_login("r.test", environment(tmp_path)).username == "podman"
    write(tmp_path / "given.json", auths={})
    assert (
        find_login("r.test", {**environment(tmp_path), "REGISTRY_AUTH_FILE": str(tmp_path / "given.json")}) == Login()
    )


def test_docker_hub_has_a_name_of_its_own(tmp_path: Path) -> None:
    write(
        tmp_path / ".docker/config.json",
        auths={"https://index.docker.io/v1/": {**entry("me", ""), "identitytoken": "t"}},
    )
    assert find_login("docker.io", environment(tmp_path)) == Login("me", "", "t")


def test_a_credential_helper_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = tmp_path / "docker-credential-test"
    helper.write_text('#!/bin/sh\nread host; echo "{\\"Username\\": \\"of $host\\", \\"Secret\\": \\"s\\"}"\n')
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    write(tmp_path / ".docker/config.json", credHelpers={"r.test": "test"})
    assert find_login("r.test", environment(tmp_path)) == Login("of r.test", "s")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"auths": {"r.test": {"auth": "!"}}}'])
def test_a_file_that_makes_no_sense_gives_no_credentials(tmp_path: Path, text: str) -> None:
    path = tmp_path / ".docker/config.json"
    path.parent.mkdir()
    path.write_text(text)
    assert find_login("r.test", environment(tmp_path)) == Login()
    assert path in [*auth_files(environment(tmp_path))]


def test_a_login_does_not_show_its_password() -> None:
    assert "secret" not in repr(Login("me", "secret", "secret"))


def test_a_login_is_checked_kept_for_this_user_alone_and_forgotten(zonal: Zonal, tmp_path: Path) -> None:
    kept = tmp_path / "deep" / "auth.json"
    env = {"REGISTRY_AUTH_FILE": str(kept)}
    login = ["login", "-u", "tester", "--password-stdin", "registry.test:5000"]
    wrong = zonal(*login, stdin=b"wrong\n", env=env)
    assert (wrong.returncode, kept.exists()) == (125, False)
    assert b"refuses" in wrong.stderr
    right = zonal(*login, stdin=b"secret\n", env=env)
    assert right.returncode == 0, right.stderr
    assert b"secret" not in right.stdout + right.stderr
    assert kept.stat().st_mode & 0o777 == 0o600
    assert find_login("registry.test:5000", env) == Login("tester", "secret")
    assert zonal("login", "-u", "tester", "-p", "secret", "https://index.docker.io/v1/", env=env).returncode == 0
    assert zonal("logout", "registry.test:5000", env=env).returncode == 0
    assert find_login("registry.test:5000", env) == Login()
    assert find_login("docker.io", env) == Login("tester", "secret")
    again = zonal("logout", "registry.test:5000", env=env)
    assert again.returncode == 125
    assert b"no credentials" in again.stderr
    for odd in (["login", "team/app"], ["login", "a b"], ["login", "registry.test"]):
        assert zonal(*odd, env=env).returncode == 125


def test_images_are_saved_to_a_whole_file_or_none_and_loaded(zonal: Zonal, tmp_path: Path) -> None:
    target = tmp_path / "images.tar"
    assert zonal("save", "-o", str(target), "local:1", "none:1").returncode == 125
    assert list(tmp_path.glob("*images*")) == list(tmp_path.glob(".images*")) == []
    assert zonal("save", "-o", str(target), "local:1").returncode == 0
    assert zonal("image", "save", "local:1").stdout == target.read_bytes()
    assert b"cannot be written" in zonal("save", "-o", "/none/x.tar", "local:1").stderr
    loaded = zonal("load", "-q", stdin=b"one:1 two:1")
    assert (loaded.stdout, loaded.stderr) == (b"one:1\ntwo:1\n", b"")
    usage = zonal("image", "df").stdout.decode()
    assert usage.startswith("KIND")
    assert {line.split()[0] for line in usage.splitlines()[1:]} == {"images", "zones", "volumes"}
