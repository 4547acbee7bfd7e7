"""Real zones whose agent lies, beside an honest one: what people see of them, and what they do to the host.

The agent is the product's own, with ``tests/hostile/lying_link.py`` in place of its link: zonald runs from a copy of
its source that has it. Which lies a zone tells goes by its host name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hostile import lying_link
from tests.hostile.lies import ESCAPES
from tests.lab.driver import IMAGE, Host, NamedLab
from zonal.lab.recipe import LIB, SOURCE

COPY = "/var/tmp/lying"
DROP_IN = "/etc/systemd/system/zonald.service.d/zz-lying.conf"
AGENT = Path(__file__).parents[2] / "src/zonal/agent"
AT_START = ("configure", "network", "missing_modules", "prepare_root", "run")
"""Calls without which no zone starts."""
METHODS = sorted(
    {
        name
        for file in ("methods.py", "workload_methods.py")
        for name in re.findall(r'"(\w+)": self\._\w+,', (AGENT / file).read_text())
    }
)
RUBBISH: list[Any] = [
    ESCAPES,
    [{"pid": ESCAPES}] * 50,
    {"pid": -1, "path": "/../../etc", "memory_available": 1 << 63},
    7,
]
LATER = tuple(name for name in METHODS if name not in AT_START)
TABLE: list[list[dict[str, Any]]] = [
    *([{"of": f"reply:{name}", "how": "fail", "code": "runtime", "text": ESCAPES * 20}] for name in AT_START),
    *([{"of": f"reply:{name}", "how": "set", "path": ["result"], "value": ESCAPES}] for name in AT_START),
    *(
        [{"of": f"reply:{name}", "how": "set", "path": ["result"], "value": value} for name in LATER]
        for value in RUBBISH
    ),
    [{"of": f"reply:{name}", "how": "fail", "code": ESCAPES, "text": ESCAPES} for name in LATER],
]
VERBS = (
    ("exec", "liar", "true"),
    ("top", "liar"),
    ("stats", "--no-stream", "liar"),
    ("stats", "--no-stream", "--json", "liar"),
    ("inspect", "liar"),
    ("cp", "liar:/etc/hostname", "-"),
    ("update", "--memory-max", "160M", "liar"),
    ("pause", "liar"),
    ("unpause", "liar"),
    ("logs", "liar"),
    ("zone", "ls", "-a"),
    ("kill", "liar"),
)


@pytest.fixture(name="host", scope="module")
def the_host(lab: NamedLab) -> Iterator[Host]:
    host = Host(lab)
    host.run(IMAGE, "true")
    liar = (Path(lying_link.__file__)).read_text()
    script = liar.replace("TABLE: list[list[dict[str, Any]]] = []", f"TABLE: list[list[dict[str, Any]]] = {TABLE!r}")
    assert script != liar
    host.shell(f"rm -rf {COPY}; mkdir {COPY}; cp -a {SOURCE}/. {COPY}")
    assert (
        host.zonal(
            "lab", "shell", "--name", host.lab, "--", f"cat > {COPY}/zonal/agent/lying_link.py", stdin=script.encode()
        ).returncode
        == 0
    )
    host.shell(
        f"sed -i 's/^from zonal.agent.link import Link /from zonal.agent.lying_link import LyingLink as Link /' "
        f"{COPY}/zonal/agent/main.py && grep -q LyingLink {COPY}/zonal/agent/main.py"
    )
    host.shell(f"printf '[Service]\\nEnvironment=PYTHONPATH={COPY}:{LIB}\\n' > {DROP_IN}")
    host.shell("systemctl daemon-reload && systemctl restart zonald")
    host.until_zonald_answers()
    try:
        yield host
    finally:
        host.remove_all()
        host.shell(f"rm -rf {DROP_IN} {COPY}; systemctl daemon-reload && systemctl restart zonald")
        host.until_zonald_answers()


@pytest.fixture(name="honest", scope="module")
def an_honest_zone(host: Host) -> str:
    done = host.zonal("run", "-d", "-m", "128M", "--name", "honest", IMAGE, "sleep", "100000")
    assert done.returncode == 0, done.stderr
    return "honest"


def check_served(host: Host, honest: str) -> None:
    done = host.zonal("exec", honest, "echo", "well")
    assert (done.returncode, done.stdout) == (0, b"well\n"), done.stderr
    log = host.shell("journalctl -u zonald --no-pager -o cat -n 400")
    assert "Traceback" not in log, log
    assert all(line.isprintable() for line in log.splitlines()), [
        line for line in log.splitlines() if not line.isprintable()
    ]


def check_said(data: bytes) -> None:
    text = data.decode()
    assert "Traceback" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text


@pytest.mark.parametrize(
    "number", [pytest.param(n, id=f"{TABLE[n][0]['of']}-{TABLE[n][0]['how']}") for n in range(2 * len(AT_START))]
)
def test_a_zone_that_lies_as_it_starts_is_refused_or_served(host: Host, honest: str, number: int) -> None:
    done = host.zonal("run", "--rm", "-m", "128M", "--hostname", f"lie-{number}", IMAGE, "true")
    check_said(done.stderr)
    assert done.returncode in (0, 125, 126, 127), done.stderr
    if TABLE[number][0]["how"] == "fail" and TABLE[number][0]["of"] != "reply:missing_modules":
        assert done.returncode == 125, done.stderr
    check_served(host, honest)


@pytest.mark.parametrize("number", range(2 * len(AT_START), len(TABLE)))
def test_every_verb_stands_a_zone_that_lies_in_all_answers(host: Host, honest: str, number: int) -> None:
    done = host.zonal(
        "run", "-d", "-m", "128M", "--name", "liar", "--hostname", f"lie-{number}", IMAGE, "sleep", "100000"
    )
    check_said(done.stderr)
    for verb in VERBS if done.returncode == 0 else ():
        done = host.zonal(*verb, timeout=120)
        check_said(done.stderr)
        if verb[0] not in ("cp", "logs"):
            check_said(done.stdout)
    host.zonal("rm", "-f", "liar")
    assert [zone["name"] for zone in host.zones()] == [honest]
    check_served(host, honest)
