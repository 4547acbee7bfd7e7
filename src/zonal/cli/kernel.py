"""``zonal kernel``: the kernels that zones can boot."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zonal.cli.connect import host_option, lab_option, zonald
from zonal.cli.format import show_size, show_table
from zonal.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from zonal.api import control_pb2 as pb
    from zonal.cli.client import Control

_CHUNK = 1 << 20


@click.group()
def kernel() -> None:
    """Import and list kernels."""


@kernel.command("import")
@click.option("--name", default="", help="What to call it; its file's name and digest by default.")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@host_option
@lab_option
def import_kernel(name: str, path: Path, host: str | None, lab: str | None) -> None:
    """Import a kernel file: bzImage or ELF."""
    with zonald(host, lab) as control:
        click.echo(upload_kernel(control, path, name or kernel_name(path)).name)


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
    rows = [[k.name, k.release, show_size(k.size_bytes), "default" if k.is_default else ""] for k in kernels]
    click.echo(show_table(["NAME", "RELEASE", "SIZE", ""], rows))


def is_kernel_path(text: str) -> bool:
    """Whether ``--kernel`` means a file here rather than a kernel in the store."""
    return "/" in text


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
