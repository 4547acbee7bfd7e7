"""``zonal kernel``: the kernels that zones can boot."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zonal.cli.connect import host_option, lab_option, zonald
from zonal.cli.errors import say
from zonal.cli.format import show_size, show_table
from zonal.cli.registry import tls_option
from zonal.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from zonal.api import control_pb2 as pb
    from zonal.cli.client import Control

_CHUNK = 1 << 20


@click.group()
def kernel() -> None:
    """Import, pull, list, choose and remove kernels."""


@kernel.command("import")
@click.option("--name", default="", help="What to call it; its file's name and digest by default.")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@host_option
@lab_option
def import_kernel(name: str, path: Path, host: str | None, lab: str | None) -> None:
    """Import a kernel: a bzImage or ELF, or the archive of an image that has one below /kernel."""
    with zonald(host, lab) as control:
        click.echo(upload_kernel(control, path, name or kernel_name(path)).name)


@kernel.command("pull")
@tls_option
@click.option("--name", default="", help="What to call it; made of its own name by default.")
@click.argument("reference", metavar="NAME")
@host_option
@lab_option
def pull(tls_verify: bool | None, name: str, reference: str, host: str | None, lab: str | None) -> None:
    """Fetch a kernel image from its registry."""
    with zonald(host, lab) as control:
        click.echo(pull_kernel(control, reference, name=name, tls_verify=tls_verify))


@kernel.command("import-debian")
@click.argument("release", default="")
@click.option("-t", "--tag", default="", help="What to call the image; zonal-kernel:RELEASE by default.")
@host_option
@lab_option
def import_debian(release: str, tag: str, host: str | None, lab: str | None) -> None:
    """Make an image, and a kernel, of a kernel of Debian's that is installed in the host, with all its modules."""
    from zonal.api import control_pb2 as pb

    with zonald(host, lab) as control:
        request = pb.ImportDebianKernelRequest(release=release, image=tag)
        reply = control.call("ImportDebianKernel", request, pb.ImportDebianKernelReply)
    say(f"The image is {reply.image.references[0]}.")
    click.echo(reply.kernel.name)


@kernel.command("use")
@click.argument("name")
@host_option
@lab_option
def use(name: str, host: str | None, lab: str | None) -> None:
    """Make a kernel the one that zones boot if none is named."""
    from zonal.api import control_pb2 as pb

    with zonald(host, lab) as control:
        click.echo(control.call("UseKernel", pb.KernelRef(name=name), pb.Kernel).name)


@kernel.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@host_option
@lab_option
def remove(names: tuple[str, ...], host: str | None, lab: str | None) -> None:
    """Remove imported kernels; zones that run keep theirs."""
    from zonal.api import control_pb2 as pb

    with zonald(host, lab) as control:
        for name in names:
            control.call("RemoveKernel", pb.KernelRef(name=name), pb.RemoveKernelReply)
            click.echo(name)


@kernel.command("ls")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@host_option
@lab_option
def list_kernels(as_json: bool, host: str | None, lab: str | None) -> None:
    """List kernels."""
    from zonal.api import control_pb2 as pb

    with zonald(host, lab) as control:
        kernels = control.call("ListKernels", pb.ListKernelsRequest(), pb.ListKernelsReply).kernels
    if as_json:
        import json

        from zonal.cli.documents import kernel_document

        for item in kernels:
            click.echo(json.dumps(kernel_document(item)))
        return
    rows = [[k.name, k.release, show_size(k.size_bytes), k.source, "default" if k.is_default else ""] for k in kernels]
    click.echo(show_table(["NAME", "RELEASE", "SIZE", "SOURCE", ""], rows))


def is_kernel_path(text: str) -> bool:
    """Whether ``--kernel`` means a file here rather than a kernel in the store, or an image's name."""
    return text.startswith(("/", "./", "../", "~")) or ("/" in text and Path(text).exists())


def named_kernel(control: Control, text: str, policy: str, *, tls_verify: bool | None) -> str:
    """The name in the store of what ``--kernel`` says; an image's name is pulled, as ``--pull`` has it.

    Raises ``ZonalError``.
    """
    from zonal.api import control_pb2 as pb

    if "/" not in text and ":" not in text:
        return text
    kernels = control.call("ListKernels", pb.ListKernelsRequest(), pb.ListKernelsReply).kernels
    known = next((item.name for item in kernels if text in (item.name, item.source)), None)
    if known is not None and policy != "always":
        return known
    if policy == "never":
        raise NotFoundError(f"there is no kernel {text}", hint="zonal kernel pull fetches it")
    return pull_kernel(control, text, name=known or "", tls_verify=tls_verify)


def pull_kernel(control: Control, reference: str, *, name: str, tls_verify: bool | None) -> str:
    """Has zonald pull a kernel image; its name in the store. Raises ``ZonalError``."""
    from zonal.api import control_pb2 as pb
    from zonal.cli.registry import access

    request = pb.PullKernelRequest(reference=reference, name=name, access=access(reference, tls_verify))
    return control.call("PullKernel", request, pb.Kernel).name


def kernel_name(path: Path) -> str:
    """The name to import a file under: the same for the same bytes. Raises ``NotFoundError``."""
    digest = hashlib.sha256()
    for chunk in _chunks(path):
        digest.update(chunk)
    base = re.sub(r"[^a-z0-9._+-]+", "-", path.name.lower()).strip("-._+") or "kernel"
    return f"{base[:100]}-{digest.hexdigest()[:12]}"


def ensure_kernel(control: Control, path: Path) -> str:
    """The name of a kernel file in the store, where it is put if it is not there yet."""
    from zonal.api import control_pb2 as pb

    name = kernel_name(path)
    kernels = control.call("ListKernels", pb.ListKernelsRequest(), pb.ListKernelsReply).kernels
    if all(item.name != name for item in kernels):
        upload_kernel(control, path, name)
    return name


def upload_kernel(control: Control, path: Path, name: str) -> pb.Kernel:
    """Puts a kernel file into the store. Raises ``ZonalError``."""
    from zonal.api import control_pb2 as pb

    def requests() -> Iterator[pb.ImportKernelRequest]:
        yield pb.ImportKernelRequest(header=pb.ImportKernelHeader(name=name, source=str(path)))
        for chunk in chunks:
            yield pb.ImportKernelRequest(data=chunk)

    chunks = _chunks(path)
    return control.upload("ImportKernel", requests(), pb.Kernel)


def _chunks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no kernel file {path}", hint="give the path of a bzImage or ELF") from error
    except OSError as error:
        raise InvalidInputError(f"the kernel file {path} cannot be read: {error.strerror}") from error
