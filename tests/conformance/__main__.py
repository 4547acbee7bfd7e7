"""``make conformance``: builds critest and its images, runs it on zonald's socket in the lab, and judges it."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conformance.critest import CannotBuildError, build
from tests.conformance.images import publish, registries_conf
from tests.conformance.report import Case, judge, read_cases, read_exceptions
from tests.lab.conftest import Lab
from tests.unit.images.registry import registry
from zonal.lab.paths import cache

PAGE = Path(__file__).parents[2] / "docs/kubernetes.md"
PROGRAM, IMAGES, REPORT = "/var/tmp/critest", "/var/tmp/critest-images.yaml", "/var/tmp/critest-report"
SETTINGS = "/etc/containers/registries.conf.d/60-critest.conf"
_BUSYBOX = "registry.k8s.io/e2e-test-images/busybox:1.29-2"
_SERVER = "registry.k8s.io/e2e-test-images/nginx:1.14-2"


def main() -> int:
    """The exit status: 0 when every case has passed that is not excused."""
    parser = argparse.ArgumentParser("make conformance")
    parser.add_argument("--focus", default="", help="only cases that this regular expression is found in")
    parser.add_argument("--skip", default="", help="not those")
    parser.add_argument("--lab", default="conformance")
    parser.add_argument("--socket", default="/run/zonal/cri.sock", help="of the runtime, in the lab's host")
    parser.add_argument("--timeout", default="3h")
    options = parser.parse_args()
    try:
        program = build(cache().folder / "conformance")
    except CannotBuildError as error:
        print(error, file=sys.stderr)
        return 1
    lab = Lab(options.lab)
    lab.up()
    with tempfile.TemporaryDirectory() as folder, registry(Path(folder, "registry")) as server:
        publish(server)
        _prepare(lab, program, f"10.0.2.2:{server.port}")
        try:
            cases = _run(lab, options)
        finally:
            lab.shell(f"rm -f {SETTINGS}; crictl rmp -fa >/dev/null 2>&1 || true")
    return _tell(cases)


def _prepare(lab: Lab, program: Path, place: str) -> None:
    digest = subprocess.run(["sha256sum", program], capture_output=True, text=True, check=True).stdout.split()[0]
    if digest not in lab.shell(f"sha256sum {PROGRAM} 2>/dev/null || true").out:
        lab.shell(
            f"cat > {PROGRAM}.part && chmod +x {PROGRAM}.part && mv {PROGRAM}.part {PROGRAM}", program.read_bytes()
        ).check()
    lab.shell("mkdir -p /etc/containers/registries.conf.d").check()
    lab.shell(f"cat > {SETTINGS}", registries_conf(place).encode()).check()
    images = f"defaultTestContainerImage: {_BUSYBOX}\nwebServerTestImage: {_SERVER}\n"
    lab.shell(f"cat > {IMAGES}", images.encode()).check()


def _run(lab: Lab, options: argparse.Namespace) -> list[Case]:
    """Lets critest speak while it goes on, a line a case."""
    endpoint = f"unix://{options.socket}"
    words = [
        *(PROGRAM, "--runtime-endpoint", endpoint, "--image-endpoint", endpoint, "--test-images-file", IMAGES),
        *(
            "--ginkgo.junit-report",
            f"{REPORT}/junit.xml",
            "--ginkgo.no-color",
            "--ginkgo.v",
            "--ginkgo.timeout",
            options.timeout,
        ),
        *(["--ginkgo.focus", options.focus] if options.focus else []),
        *(["--ginkgo.skip", options.skip] if options.skip else []),
    ]
    line = " ".join(f"'{word}'" for word in words)
    command = lab.command("lab", "shell", "--name", lab.name, "--", f"rm -rf {REPORT}; mkdir -p {REPORT}; {line} 2>&1")
    log = cache().folder / "conformance" / "critest.log"
    with (
        log.open("w") as kept,
        subprocess.Popen(
            command, env=lab.environment(), stdout=subprocess.PIPE, text=True, errors="replace"
        ) as running,
    ):
        assert running.stdout is not None
        name = ""
        for said in running.stdout:
            kept.write(said)
            if said.startswith("[k8s.io]") and "[It]" not in said:
                name = said.strip()
            elif match := re.match(r"• (\[FAILED\] )?\[([0-9.]+) seconds\]", said):
                print(f"{'FAILED' if match[1] else 'passed'} {float(match[2]):6.1f} s  {name}", flush=True)
    print(f"critest's own words are in {log}")
    found = lab.shell(f"cat {REPORT}/*.xml").check()
    return read_cases(found.stdout)


def _tell(cases: list[Case]) -> int:
    faults, excused, better = judge(cases, read_exceptions(PAGE.read_text()))
    for each in faults:
        print(f"\n{each.state}: {each.name}\n    {each.message[:400]}")
    for each in excused:
        print(f"excused: {each.name}")
    for each in better:
        print(f"passes now, and can be taken out of {PAGE.name}: {each.name}")
    passed = sum(each.state == "passed" for each in cases)
    whole = [each for each in cases if each.conformance]
    print(
        f"\n{passed} of {len(cases)} cases have passed, {sum(each.state == 'passed' for each in whole)} of "
        f"{len(whole)} for conformance; {len(excused)} are excused"
    )
    return 1 if faults or not cases else 0


if __name__ == "__main__":
    sys.exit(main())
