from __future__ import annotations

import json

from tests.unit.cli.conftest import Zonal


def test_info_tells_of_the_machine(zonal: Zonal) -> None:
    lines = zonal("host", "info").stdout.decode()
    assert "Xen            4.20.4, scheduler credit2\n" in lines
    assert "zones          PV possible" in lines
    told = json.loads(zonal("host", "info", "--json").stdout)
    assert (told["xen_version"], told["features"], told["zone_kinds"]) == ("4.20.4", ["pv", "iommu"], ["PV"])
    assert told["free_bytes"] == 1 << 30


def test_the_hypervisors_console_is_shown_and_plays_no_tricks(zonal: Zonal) -> None:
    shown = zonal("host", "dmesg").stdout
    assert shown == b"(XEN) Xen version 4.20.4\n(XEN) \\x1b[2Jd1v0 speaks\n"
    assert zonal("host", "dmesg").stdout == shown
    with zonal.start("host", "dmesg", "-f", stdout=-1) as following:
        assert following.stdout
        assert following.stdout.readline() == b"(XEN) Xen version 4.20.4\n"
        following.terminate()
    assert zonal("host", "dmesg", "-c").stdout == shown
    assert zonal("host", "dmesg").stdout == b""


def test_the_doctor_says_what_is_wrong_and_what_to_do(zonal: Zonal) -> None:
    done = zonal("host", "doctor", "--json")
    found = json.loads(done.stdout)
    assert found[0] == {"check": "zonald", "level": "ok", "text": "it answers", "advice": ""}
    wrong = [each for each in found if each["level"] == "error"]
    assert done.returncode == (1 if wrong else 0)
    assert all(each["advice"] for each in wrong)
    text = zonal("host", "doctor").stdout.decode()
    assert text.startswith("OK       zonald")
    assert "room" in text


def test_the_doctor_needs_no_zonald(zonal: Zonal) -> None:
    # This machine's own socket, where nothing is: the doctor looks by itself.
    done = zonal("host", "doctor", "--json", "--host", "/run/zonal/zonald.sock")
    found = json.loads(done.stdout)
    assert done.returncode == 1
    assert found[0]["level"] == "error"
    assert found[0]["advice"] == "start it: systemctl start zonald"
    assert "room" in {each["check"] for each in found}
    # Another machine's cannot be looked at from here.
    assert zonal("host", "doctor", "--host", "/no/such.sock").returncode == 125
