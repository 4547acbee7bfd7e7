"""``zonal k8s``: makes this machine a Kubernetes node whose pods are zones, and takes that back."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from zonal.cri.node.installation import FileChange
    from zonal.cri.node.options import NodeOptions

_UNITS = ("zonald.service", "zonal-command.service", "zonal-xenstored.service")
_PACKAGED_FOLDER = "/usr/bin/"
_XENSTORED = ("usr/lib/systemd/system/xenstored.service", "etc/init.d/xen")
"""A host with Xen's own toolstack starts the store by these."""

_root_option = click.option(
    "--root", type=click.Path(path_type=Path), default=Path("/"), help="Of the system to set up, such as an image's."
)
_dry_run_option = click.option("--dry-run", is_flag=True, help="Only say what would be done.")


@click.group("k8s")
def k8s() -> None:
    """A Kubernetes node whose pods are zones: set it up, look at it, take it back."""


@k8s.command("install")
@_root_option
@_dry_run_option
@click.option("--socket", default="/run/zonal/cri.sock", show_default=True, help="Where zonald serves the kubelet.")
@click.option("--fallback", default="", metavar="SOCKET", help="Of another runtime, for pods that are no zones.")
@click.option("--pod-cidr", multiple=True, metavar="RANGE", help="Of pods' addresses, where there is no CNI network.")
@click.option("--overhead-memory", default="128Mi", show_default=True, help="That a zone costs beside its pod.")
@click.option("--overhead-cpu", default="50m", show_default=True, help="That a zone costs beside its pod.")
@click.option(
    "--kubelet-way",
    type=click.Choice(["auto", "flag", "config"]),
    default="auto",
    show_default=True,
    help="How the kubelet is told of the socket.",
)
@click.option("--kubelet-version", default="", metavar="VERSION", help="Such as v1.33.2 (default: it is asked).")
def install(
    root: Path,
    dry_run: bool,
    socket: str,
    fallback: str,
    pod_cidr: tuple[str, ...],
    overhead_memory: str,
    overhead_cpu: str,
    kubelet_way: str,
    kubelet_version: str,
) -> None:
    """Write what a kubelet needs to run its pods in zones. Doing it again changes nothing."""
    from zonal.cri.node.installation import install as install_files
    from zonal.cri.node.installation import plan
    from zonal.cri.node.kubelet import ask_version, find_kubelet
    from zonal.cri.node.options import DEFAULT_POD_RANGES, KubeletWay, NodeOptions

    kubelet = find_kubelet(root)
    if not kubelet_version and kubelet.program and _is_this(root):
        kubelet_version = ask_version(kubelet.program)
    options = NodeOptions(
        cri_socket=socket,
        fallback_socket=fallback,
        pod_ranges=pod_cidr or DEFAULT_POD_RANGES,
        overhead_memory=overhead_memory,
        overhead_cpu=overhead_cpu,
        way=KubeletWay(kubelet_way),
        kubelet_version=kubelet_version,
    )
    changes = (plan if dry_run else install_files)(root, options, _units(root))
    _show(changes)
    if dry_run:
        for each in changes:
            if each.change.value == "written":
                click.echo(f"\n--- {each.path}\n{each.content}", nl=False)
        return
    _say_next(root, options, kubelet.start)


@k8s.command("uninstall")
@_root_option
@_dry_run_option
def uninstall(root: Path, dry_run: bool) -> None:
    """Take back what install has written. A file that was changed since is kept, and named."""
    from zonal.cri.node.installation import removals
    from zonal.cri.node.installation import uninstall as uninstall_files

    changes = (removals if dry_run else uninstall_files)(root)
    _show(changes)
    if not changes:
        click.echo("nothing is installed")
    elif not dry_run and _is_this(root):
        click.echo("\nnow: systemctl daemon-reload && systemctl restart kubelet")


@k8s.command("status")
@_root_option
def status(root: Path) -> None:
    """Show which files are installed. Fails when none is, or one is not as it was written."""
    from zonal.cri.node.files import CRI_VARIABLE
    from zonal.cri.node.installation import installed
    from zonal.cri.node.kubelet import find_kubelet, is_outdone

    changes = installed(root)
    outdone = is_outdone(root)
    _show(changes)
    if not changes:
        click.echo("nothing is installed")
    if not find_kubelet(root).start:
        click.echo("there is no kubelet.service")
    if outdone:
        click.echo("a flag of the kubelet names another socket by now: run `zonal k8s install` again")
    if _is_this(root):
        socket = Path("/run/zonal/cri.sock")
        click.echo(f"{socket} {'is there' if socket.is_socket() else f'is not there ({CRI_VARIABLE} of zonald)'}")
    if outdone or not changes or any(each.change.value != "unchanged" for each in changes):
        sys.exit(1)


def _show(changes: Iterable[FileChange]) -> None:
    for each in sorted(changes, key=lambda change: change.path):
        detail = f"  ({each.detail})" if each.detail else ""
        click.echo(f"{each.change.value:10}{each.path}{detail}")


def _say_next(root: Path, options: NodeOptions, start: str) -> None:
    from zonal.cri.node.files import RUNTIME_CLASSES

    click.echo()
    if not start:
        click.echo("there is no kubelet.service yet: install the kubelet, then run this again")
    if _is_this(root):
        click.echo("now: systemctl daemon-reload && systemctl enable --now zonald && systemctl restart zonald kubelet")
    click.echo(f"and: kubectl apply -f {RUNTIME_CLASSES}")
    click.echo(f"new nodes: kubeadm join --cri-socket unix://{options.cri_socket} …")


def _units(root: Path) -> Mapping[str, str]:
    """zonald's units, with this installation's own programs."""
    from importlib import resources

    files = resources.files("zonal.lab").joinpath("files")
    own = Path(sys.argv[0]).absolute().parent
    texts = {name: files.joinpath(name).read_text() for name in _UNITS}
    if any((root / path).exists() for path in _XENSTORED):
        del texts["zonal-xenstored.service"]
    if _is_this(root) and not Path(f"{_PACKAGED_FOLDER}zonald").exists() and (own / "zonald").exists():
        texts = {name: text.replace(_PACKAGED_FOLDER + "zonal", f"{own}/zonal") for name, text in texts.items()}
    return texts


def _is_this(root: Path) -> bool:
    return root.resolve() == Path("/")
