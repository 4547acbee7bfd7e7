"""``zonal k8s`` on the roots of systems: what it writes, that it does so once, and that it takes back just that."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from zonal.cli.k8s import k8s
from zonal.cri.node.options import DEFAULT_POD_RANGES, NodeOptions
from zonal.errors import InvalidInputError, ZonalError

KUBEADM = (
    "ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS"
)
ENDPOINT = "--container-runtime-endpoint=unix:///run/zonal/cri.sock"
FOLDER = "--config-dir=/etc/kubernetes/kubelet.conf.d"


def run(*arguments: str) -> Result:
    done = CliRunner().invoke(k8s, arguments)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def tree(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else b"a folder" for path in root.rglob("*")
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A Debian with kubeadm's packages."""
    units = tmp_path / "usr/lib/systemd/system"
    (units / "kubelet.service.d").mkdir(parents=True)
    (units / "kubelet.service").write_text("[Service]\nExecStart=/usr/bin/kubelet\n")
    (units / "kubelet.service.d/10-kubeadm.conf").write_text(f"[Service]\nExecStart=\n{KUBEADM}\n")
    return tmp_path


def start_line(root: Path) -> str:
    text = (root / "etc/systemd/system/kubelet.service.d/20-zonal.conf").read_text()
    lines = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    assert lines[0] == "ExecStart="  # without it systemd would refuse a second one
    return lines[1]


def test_it_is_written_once_and_taken_back(root: Path) -> None:
    before = tree(root)
    assert "written" in run("install", "--root", str(root)).output
    after = tree(root)
    assert start_line(root) == f"{KUBEADM} {ENDPOINT}"
    again = run("install", "--root", str(root)).output
    assert "written" not in again and "kept" not in again
    assert tree(root) == after
    assert run("status", "--root", str(root)).exit_code == 0
    assert "kept" not in run("uninstall", "--root", str(root)).output
    assert tree(root) == before
    done = run("status", "--root", str(root))
    assert done.exit_code == 1 and "nothing is installed" in done.output
    assert "nothing is installed" in run("uninstall", "--root", str(root)).output


def test_a_dry_run_writes_nothing_and_shows_all(root: Path) -> None:
    before = tree(root)
    shown = run("install", "--root", str(root), "--dry-run").output
    assert tree(root) == before
    run("install", "--root", str(root))
    for path, content in tree(root).items():
        if path not in before and content != b"a folder" and not path.endswith("kubernetes-node.json"):
            assert f"--- /{path}\n{content.decode()}" in shown
    installed = tree(root)
    assert "removed" in run("uninstall", "--root", str(root), "--dry-run").output
    assert tree(root) == installed


@pytest.mark.parametrize(
    ("arguments", "flags", "expected"),
    [
        ((), "", [ENDPOINT]),
        (("--kubelet-version", "v1.26.3"), "", [ENDPOINT]),
        (("--kubelet-version", "v1.30.0"), "", [FOLDER]),
        (("--kubelet-version", "Kubernetes v1.37.2+k3s1"), "", [FOLDER]),
        # kubeadm has written a flag, which wins over any file, so that it takes another flag.
        (("--kubelet-version", "v1.33.0"), "--container-runtime-endpoint=unix:///x", [FOLDER, ENDPOINT]),
        (("--kubelet-version", "v1.33.0", "--kubelet-way", "flag"), "", [ENDPOINT]),
        (("--kubelet-way", "config"), "", [FOLDER]),
    ],
)
def test_how_the_kubelet_is_told(root: Path, arguments: tuple[str, ...], flags: str, expected: list[str]) -> None:
    if flags:
        (root / "var/lib/kubelet").mkdir(parents=True)
        (root / "var/lib/kubelet/kubeadm-flags.env").write_text(f'KUBELET_KUBEADM_ARGS="{flags}"\n')
    run("install", "--root", str(root), *arguments)
    assert start_line(root) == " ".join([KUBEADM, *expected])
    text = (root / "etc/kubernetes/kubelet.conf.d/20-zonal.conf").read_text()
    assert "kind: KubeletConfiguration\ncontainerRuntimeEndpoint: unix:///run/zonal/cri.sock\n" in text


def test_a_flag_that_comes_later_is_noticed(root: Path) -> None:
    run("install", "--root", str(root), "--kubelet-version", "v1.33.0")
    (root / "var/lib/kubelet").mkdir()
    (root / "var/lib/kubelet/kubeadm-flags.env").write_text(f'KUBELET_KUBEADM_ARGS="{ENDPOINT[:-8]}other"\n')
    done = run("status", "--root", str(root))
    assert done.exit_code == 1 and "run `zonal k8s install` again" in done.output
    run("install", "--root", str(root), "--kubelet-version", "v1.33.0")
    assert start_line(root).endswith(ENDPOINT)
    assert run("status", "--root", str(root)).exit_code == 0


def test_the_operators_own_units_and_folder_hold(root: Path) -> None:
    own = root / "etc/systemd/system/kubelet.service.d"
    own.mkdir(parents=True)
    start = "ExecStart=/opt/kubelet --config=/etc/kubelet.yaml --config-dir=/etc/kubelet.d"
    (own / "15-own.conf").write_text(f"[Service]\nExecStart=\n{start} \\\n  --v=2\n")
    run("install", "--root", str(root), "--kubelet-version", "v1.33.0")
    assert start_line(root).split() == [*start.split(), "--v=2", ENDPOINT]


def test_without_a_kubelet_it_says_so(tmp_path: Path) -> None:
    done = run("install", "--root", str(tmp_path))
    assert "there is no kubelet.service yet" in done.output
    assert "ExecStart" not in (tmp_path / "etc/systemd/system/kubelet.service.d/20-zonal.conf").read_text()


def test_what_is_there_already_stays(root: Path) -> None:
    (root / "etc/cni/net.d").mkdir(parents=True)
    (root / "etc/cni/net.d/05-cilium.conflist").write_text("{}")
    (root / "etc/crictl.yaml").write_text("runtime-endpoint: unix:///run/containerd/containerd.sock\n")
    (root / "usr/lib/systemd/system/zonald.service").write_text("[Service]\n")
    classes = root / "etc/zonal/kubernetes/runtime-classes.yaml"
    classes.parent.mkdir(parents=True)
    classes.write_text("mine\n")
    before = tree(root)
    done = run("install", "--root", str(root))
    assert (
        "kept      /etc/zonal/kubernetes/runtime-classes.yaml  (it is there already, and not from here)" in done.output
    )
    assert not (root / "etc/cni/net.d/10-zonal-pods.conflist").exists()
    assert not (root / "etc/systemd/system/zonald.service").exists()
    assert {path: content for path, content in tree(root).items() if path in before} == before
    run("uninstall", "--root", str(root))
    assert tree(root) == before


def test_what_was_changed_since_is_kept_and_named(root: Path) -> None:
    run("install", "--root", str(root))
    network = root / "etc/cni/net.d/10-zonal-pods.conflist"
    network.write_text("{}")
    (root / "etc/crictl.yaml").unlink()
    done = run("status", "--root", str(root))
    assert done.exit_code == 1
    assert "kept      /etc/cni/net.d/10-zonal-pods.conflist  (it was changed)" in done.output
    assert "missing   /etc/crictl.yaml" in done.output
    assert "(it was changed since)" in run("install", "--root", str(root)).output
    assert network.read_text() == "{}" and (root / "etc/crictl.yaml").exists()
    done = run("uninstall", "--root", str(root))
    assert "kept      /etc/cni/net.d/10-zonal-pods.conflist  (it was changed since)" in done.output
    assert network.read_text() == "{}"
    left = [path for path in tree(root / "etc") if (root / "etc" / path).is_file()]
    assert left == ["cni/net.d/10-zonal-pods.conflist"]


def test_other_options_rewrite_what_is_ours(root: Path) -> None:
    run("install", "--root", str(root))
    run("install", "--root", str(root), "--fallback", "/run/containerd/containerd.sock", "--overhead-memory", "64Mi")
    service = (root / "etc/systemd/system/zonald.service.d/20-kubernetes.conf").read_text()
    assert "Environment=ZONALD_CRI_SOCKET=/run/zonal/cri.sock\n" in service
    assert "Environment=ZONALD_CRI_FALLBACK=/run/containerd/containerd.sock\n" in service
    classes = (root / "etc/zonal/kubernetes/runtime-classes.yaml").read_text()
    assert classes.count('memory: "64Mi"') == 2 and "handler: zonal\n" in classes and "handler: edera\n" in classes
    assert run("status", "--root", str(root)).exit_code == 0


def test_the_network_is_one_that_cni_takes(root: Path) -> None:
    run("install", "--root", str(root))
    document = json.loads((root / "etc/cni/net.d/10-zonal-pods.conflist").read_text())
    assert document["cniVersion"].startswith("1.")
    assert [each["type"] for each in document["plugins"]] == ["bridge", "portmap", "firewall"]
    ranges = document["plugins"][0]["ipam"]["ranges"]
    assert [each[0]["subnet"] for each in ranges] == list(DEFAULT_POD_RANGES)
    for each in document["plugins"]:
        plugin = Path("/usr/lib/cni", each["type"])
        if not plugin.exists():
            pytest.skip("containernetworking-plugins is not installed")
        told = subprocess.run(
            [plugin], env={"CNI_COMMAND": "VERSION"}, input=b'{"cniVersion":"1.0.0"}', capture_output=True
        )
        assert document["cniVersion"] in json.loads(told.stdout)["supportedVersions"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cri_socket": "relative"}, "--socket 'relative' is not the absolute path"),
        ({"cri_socket": "/run/a\nExecStart=x"}, "is not the absolute path"),
        ({"cri_socket": "/" + "x" * 120}, "more than 107 bytes"),
        ({"fallback_socket": "/run/zonal/cri.sock"}, "Zonal's own socket"),
        ({"overhead_memory": "much"}, "not a quantity"),
        ({"pod_ranges": ("10.1.0.0/33",)}, "--pod-cidr"),
        ({"pod_ranges": ("10.1.0.0/16", "10.2.0.0/16")}, "one range of IPv4"),
        ({"kubelet_version": "latest"}, "not a version"),
    ],
)
def test_bad_options(options: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        NodeOptions(**options)  # pyright: ignore[reportArgumentType]


def test_bad_roots_are_told_in_a_line(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="is not a folder"):
        run("install", "--root", str(tmp_path / "nowhere"))
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (root / "etc").symlink_to(outside)
    with pytest.raises(InvalidInputError, match="a link leads to"):
        run("install", "--root", str(root))
    assert not list(outside.iterdir())
    (root / "etc").unlink()
    (root / "etc").write_text("a file")
    with pytest.raises(ZonalError) as caught:
        run("install", "--root", str(root))
    assert "\n" not in str(caught.value)
    (root / "etc").unlink()
    (root / "var/lib/zonal").mkdir(parents=True)
    (root / "var/lib/zonal/kubernetes-node.json").write_text("{")
    for command in ("install", "uninstall", "status"):
        with pytest.raises(InvalidInputError, match="damaged"):
            run(command, "--root", str(root))


def test_the_real_kubelet_takes_its_configuration(root: Path) -> None:
    kubelet = shutil.which("kubelet")
    if kubelet is None:
        pytest.skip("there is no kubelet on this machine, and Debian has none")
    run("install", "--root", str(root), "--kubelet-way", "config")
    config = root / "etc/kubernetes/kubelet.conf.d"
    # It reads its configuration first, and ends at the missing kubeconfig.
    done = subprocess.run(
        [kubelet, f"--config-dir={config}", f"--kubeconfig={root}/none", f"--root-dir={root}/kubelet"],
        capture_output=True,
        timeout=60,
    )
    assert b"failed to load kubelet config" not in done.stderr
