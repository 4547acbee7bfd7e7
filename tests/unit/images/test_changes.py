"""Changes of an image's settings, as ``commit -c`` takes them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from zonal.errors import InvalidInputError
from zonal.images.changes import apply_changes, committed


@pytest.mark.parametrize(
    ("change", "settings"),
    [
        ('CMD ["nginx", "-g"]', {"Cmd": ["nginx", "-g"]}),
        ("cmd nginx -g", {"Cmd": ["/bin/sh", "-c", "nginx -g"]}),
        ('ENTRYPOINT ["/x"]', {"Entrypoint": ["/x"]}),
        ("ENV A=new B='two words'", {"Env": ["A=new", "K=kept", "B=two words"]}),
        ("ENV A the rest of it", {"Env": ["A=the rest of it", "K=kept"]}),
        ("EXPOSE 80 53/udp", {"ExposedPorts": {"80/tcp": {}, "53/udp": {}}}),
        ('LABEL a=b "c d"=e', {"Labels": {"old": "1", "a": "b", "c d": "e"}}),
        ('VOLUME ["/data", "/log"]', {"Volumes": {"/data": {}, "/log": {}}}),
        ("WORKDIR /srv", {"WorkingDir": "/srv"}),
        ("USER www-data", {"User": "www-data"}),
        ("STOPSIGNAL SIGQUIT", {"StopSignal": "SIGQUIT"}),
        ("ONBUILD RUN true", {"OnBuild": ["RUN true"]}),
        ('HEALTHCHECK CMD ["wget", "-q", "localhost"]', {"Healthcheck": {"Test": ["CMD", "wget", "-q", "localhost"]}}),
        ("healthcheck cmd wget -q localhost", {"Healthcheck": {"Test": ["CMD-SHELL", "wget -q localhost"]}}),
        ("HEALTHCHECK NONE", {"Healthcheck": {"Test": ["NONE"]}}),
        (
            'HEALTHCHECK --interval=1m30s --timeout="3s" --start-period=1.5s --start-interval=1ms  --retries=5 CMD a',
            {
                "Healthcheck": {
                    "Test": ["CMD-SHELL", "a"],
                    "Interval": 90_000_000_000,
                    "Timeout": 3_000_000_000,
                    "StartPeriod": 1_500_000_000,
                    "StartInterval": 1_000_000,
                    "Retries": 5,
                }
            },
        ),
        ("HEALTHCHECK --interval=0 --retries=0 CMD true", {"Healthcheck": {"Test": ["CMD-SHELL", "true"]}}),
    ],
)
def test_a_change_is_applied(change: str, settings: dict[str, Any]) -> None:
    given: dict[str, Any] = {"Env": ["A=old", "K=kept"], "Labels": {"old": "1"}}
    expected = {**given, **settings}
    apply_changes(given, [change])
    assert given == expected


@pytest.mark.parametrize("change", ["RUN x", "CMD", "CMD [1]", "CMD [", "ENV A=1 B", "LABEL =x", "", 'ENV A="x'])
def test_what_is_no_change_is_refused(change: str) -> None:
    with pytest.raises(InvalidInputError):
        apply_changes({}, [change])


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("NONE now", "NONE stands alone"),
        ("--retries=1 NONE", "NONE stands alone"),
        ("true", "CMD or NONE"),
        ("--interval=1s", "CMD or NONE"),
        ("CMD", "nothing behind CMD"),
        ("CMD []", "nothing behind CMD"),
        ("CMD [1]", "array of strings"),
        ("--interval 5s CMD true", "--NAME=VALUE"),
        ("--interval=5 CMD true", "not a duration"),
        ("--interval=-5s CMD true", "not a duration"),
        ("--interval=10us CMD true", "1ms or more"),
        ("--retries=-1 CMD true", "not negative"),
        ("--retries=1 --retries=2 CMD true", "twice"),
        ("--every=5s CMD true", "no option --every"),
    ],
)
def test_what_is_wrong_with_a_health_check_is_told(rest: str, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        apply_changes({}, [f"HEALTHCHECK {rest}"])


def test_the_layer_and_its_story_are_added() -> None:
    digest = "sha256:" + "1" * 64
    base = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64]},
        "history": [{"created_by": "base"}],
    }
    entry = {"author": "me", "comment": "", "created_by": "sh -c x"}
    made = json.loads(committed(json.dumps(base).encode(), digest, ["USER me"], entry, "test"))
    assert made["config"] == {"Cmd": ["sh"], "User": "me"}
    assert made["rootfs"]["diff_ids"] == ["sha256:" + "0" * 64, digest]
    assert made["history"][0] == {"created_by": "base"}
    assert made["history"][1] == {"created": made["created"], "author": "me", "created_by": "sh -c x"}
