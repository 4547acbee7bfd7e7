"""What can be seen of a real host and its zones: metrics, the live view, the hypervisor's console, timelines."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import termios
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.lab.driver import IMAGE, TIMEOUT, Host, NamedLab

pytestmark = pytest.mark.lab
PORT = 9421
DROP_IN = "/run/systemd/system/zonald.service.d/seeing.conf"
SCRAPE = (
    "python3 -c 'import urllib.request as u; "
    f'print(u.urlopen("http://127.0.0.1:{PORT}/metrics", timeout=60).read().decode())\''
)


@pytest.fixture(name="host", scope="module")
def the_host(lab: NamedLab) -> Iterator[Host]:
    host = Host(lab, network="zonal")
    writes = "dd if=/dev/zero of=/written bs=1M count=8 conv=fsync"
    busy = f"exec 3>/dev/udp/192.0.2.1/9; echo >&3; {writes}; while :; do :; done"
    done = host.zonal("run", "-d", "-m", "128M", "--name", "seen", IMAGE, "bash", "-c", busy)
    assert done.returncode == 0, done.stderr
    yield host
    host.remove_all()
    host.shell(f"rm -f {DROP_IN}; systemctl daemon-reload; systemctl restart zonald")


def text(host: Host, *arguments: str) -> str:
    done = host.zonal(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def scrape(host: Host) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(host.shell(SCRAPE)):
        for sample in family.samples:
            found[sample.name, ",".join(sample.labels.values())] = sample.value
    return found


def test_the_machine_and_its_hypervisor(host: Host) -> None:
    told = json.loads(text(host, "host", "info", "--json"))
    assert re.match(r"4\.20\.\d", told["xen_version"])
    assert told["scheduler"] in ("credit", "credit2")
    assert "PV" in told["zone_kinds"]
    assert {"pv", "gnttab-v1"} <= set(told["features"])
    assert "dom0_mem=" in told["xen_command_line"]
    assert 0 < told["free_bytes"] < told["memory_bytes"]
    assert told["xen_version"] in text(host, "host", "info")


def test_the_hypervisors_console_is_xls(host: Host) -> None:
    ours, theirs = text(host, "host", "dmesg"), host.shell("xl dmesg")
    assert ours.rstrip("\n") == theirs.rstrip("\n")
    with host.start("host", "dmesg", "-f", stdout=subprocess.PIPE) as following:
        assert following.stdout
        host.shell("xl debug-keys h")
        while b"installed handlers" not in (line := following.stdout.readline()):
            assert line
        following.terminate()
    text(host, "host", "dmesg", "-c")
    assert text(host, "host", "dmesg") == ""


def test_the_doctor_finds_a_sound_host_and_what_is_taken_from_it(host: Host) -> None:
    done = host.zonal("host", "doctor", "--json")
    found = json.loads(done.stdout)
    assert [each for each in found if each["level"] == "error"] == []
    assert done.returncode == 0
    assert {"xen", "devices", "xenstored", "memory", "iommu", "domains", "drivers", "room"} <= {
        each["check"] for each in found
    }
    assert any(each["text"].startswith("of zones: 1") for each in found)
    script = (
        "mv /usr/lib/cni/bridge /usr/lib/cni/bridge.away; systemctl stop zonald; zonal host doctor --json; echo $?; "
        "mv /usr/lib/cni/bridge.away /usr/lib/cni/bridge; systemctl start zonald"
    )
    *lines, status = host.shell(script).splitlines()
    host.until_zonald_answers()
    assert status == "1"
    wrong = {each["check"]: each["advice"] for each in json.loads("\n".join(lines)) if each["level"] == "error"}
    assert set(wrong) == {"zonald", "plugins"}
    assert wrong["plugins"] == "apt-get install containernetworking-plugins"


def test_a_zones_start_is_told_by_its_kernel_and_agent_too(host: Host) -> None:
    told = json.loads(text(host, "zone", "timeline", "--json", "seen"))
    phases = {each["name"]: each for each in told["phases"]}
    assert not told["from_console"]
    assert len(told["kernel"]) > 50
    assert told["kernel"][0]["text"].startswith("Linux version")
    steps = {each["text"]: each["time_ns"] for each in told["steps"]}
    assert set(steps) == {"kernel's clock begins", "imported", "mounted", "loopback up"}
    slack = 50_000_000
    assert phases["kernel"]["begin_ns"] - slack < told["kernel"][0]["time_ns"] < phases["kernel"]["end_ns"]
    assert phases["agent"]["begin_ns"] - slack < steps["imported"] < steps["mounted"] < phases["agent"]["end_ns"]
    svg = text(host, "zone", "timeline", "-o", "-", "seen")
    shown = [element.text or "" for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert any(line.startswith("Linux version") for line in shown)


def test_metrics_of_zones_come_and_go(host: Host) -> None:
    resident = int(json.loads(text(host, "info", "--json"))["resident_bytes"])
    host.shell(
        f"mkdir -p {DROP_IN.rpartition('/')[0]}; "
        f"printf '[Service]\\nEnvironment=ZONALD_METRICS={PORT}\\n' > {DROP_IN}; "
        "systemctl daemon-reload; systemctl restart zonald"
    )
    host.until_zonald_answers()
    text(host, "exec", "seen", "true")
    found = scrape(host)
    assert found["zonal_zones", "running"] == 1
    assert found["zonal_zone_channel_up", "seen"] == 1
    assert found["zonal_zone_channel_received_bytes_total", "seen"] > 0
    assert found["zonal_zone_cpu_seconds_total", "seen"] > 1
    assert found["zonal_zone_disk_written_bytes_total", "seen"] >= 8 << 20
    assert found["zonal_zone_network_sent_bytes_total", "seen"] > 0
    assert 8 << 20 < found["zonal_zone_memory_bytes", "seen"] < 128 << 20
    assert found["zonal_events_total", "exec_start"] == 1
    text(host, "run", "--rm", "-m", "128M", "--network", "none", "--name", "short", IMAGE, "true")
    after = scrape(host)
    assert after["zonal_start_seconds_count", ""] == 1
    for phase in ("prepare", "domain", "kernel", "agent", "container"):
        assert after["zonal_start_phase_seconds_count", phase] == 1
    assert not [name for name in after if name[1].startswith("short")]
    assert after["zonal_zone_cpu_seconds_total", "seen"] > found["zonal_zone_cpu_seconds_total", "seen"]
    assert after["zonal_resident_bytes", ""] < resident + (24 << 20)
    assert host.shell(f"ss -Hltn 'sport = :{PORT}'").split()[3] == f"127.0.0.1:{PORT}"


def test_the_live_view(host: Host) -> None:
    table = text(host, "top", "--once")
    assert float(re.search(r"^seen +running +([0-9.]+) ", table, re.MULTILINE)[1]) > 5  # type: ignore[index]
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    before = termios.tcgetattr(slave)
    with host.start("top", stdin=slave, stdout=slave) as process:
        shown = b""
        while not re.search(rb"seen +running +[1-9]", shown):
            shown += os.read(master, 65536)
        os.write(master, b"q")
        os.close(slave)
        while True:
            try:
                shown += os.read(master, 65536)
            except OSError:
                break
        assert process.wait(TIMEOUT) == 0
    assert b"1 running" in shown
    assert shown.endswith(b"\x1b[?1049l")
    assert before
    os.close(master)


def test_events_are_lines_of_json(host: Host) -> None:
    lines = text(
        host, "events", "--since", "1h", "--until", "0s", "--format", "json", "-f", "image=debian"
    ).splitlines()
    actions = [
        json.loads(line)["Action"] for line in lines if json.loads(line)["Actor"]["Attributes"]["name"] == "seen"
    ]
    assert actions[:2] == ["create", "start"]
