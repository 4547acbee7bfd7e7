"""``zonal image``: the images that zones are made from."""

from __future__ import annotations

import os
import sys
import tarfile
import tempfile
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, cast

import click

from zonal.cli.connect import host_option, lab_option, zonald
from zonal.cli.each import each
from zonal.cli.errors import say
from zonal.cli.format import show_age, show_size, show_table
from zonal.cli.registry import pull, push
from zonal.cli.whole_file import whole_file
from zonal.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable

    from zonal.api import control_pb2 as pb
    from zonal.cli.client import Control

_CHUNK = 1 << 20
_FORMATS = ["auto", "rootfs", "oci", "docker"]


@click.group()
def image() -> None:
    """Pull and push images, import them, make them from Debian's packages, list and remove them."""


image.add_command(pull)
image.add_command(push)


@image.command("import")
@click.option("--format", "format_name", type=click.Choice(_FORMATS), default="auto", help="Found out by default.")
@click.option("--config", type=click.Path(path_type=Path), help="For a root filesystem: its configuration, as JSON.")
@click.argument("path", metavar="FILE|FOLDER|-", type=click.Path(path_type=Path, allow_dash=True))
@click.argument("reference", metavar="[NAME]", default="")
@host_option
@lab_option
def import_image(
    format_name: str, config: Path | None, path: Path, reference: str, host: str | None, lab: str | None
) -> None:
    """Import a root filesystem's tar, an OCI layout (a folder or its tar) or what `docker save` wrote."""
    config_json = _read_config(config) if config else ""
    with archive(path) as file, zonald(host, lab) as control:
        made = upload_image(
            control, file, reference=reference, source=str(path), format=format_name, config_json=config_json, tell=say
        )
    click.echo(made.references[0] if made.references else made.id)


@image.command("bootstrap")
@click.option("--refresh", is_flag=True, help="Make it again, with today's packages.")
@click.argument("reference", metavar="NAME")
@host_option
@lab_option
def bootstrap(refresh: bool, reference: str, host: str | None, lab: str | None) -> None:
    """Make an image of Debian's packages here, such as debian:13, and import it."""
    from zonal.cli.supply import Supply
    from zonal.images.bootstrap import known
    from zonal.images.debian import RELEASES

    if known(reference) is None:
        names = ", ".join(f"debian:{release.version}" for release in RELEASES)
        raise InvalidInputError(f"{reference!r} cannot be made of packages", hint=f"these can: {names}")
    with Supply(host, lab, reference) as supply:
        made = supply.image(supply.control(), refresh=refresh)
    click.echo(made.references[0] if made.references else made.id)


@image.command("ls")
@click.option("-q", "--quiet", is_flag=True, help="Ids only.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--dangling", is_flag=True, help="Only those that have lost their name.")
@click.argument("pattern", default="", metavar="[PATTERN]")
@host_option
@lab_option
def list_images(quiet: bool, as_json: bool, dangling: bool, pattern: str, host: str | None, lab: str | None) -> None:
    """List images: all of them, or those of a repository (debian), or of a name (debian:1*, team/*)."""
    from zonal.api import control_pb2 as pb

    with zonald(host, lab) as control:
        everything = control.call("ListImages", pb.ListImagesRequest(), pb.ListImagesReply).images
    images = [item for item in everything if _wanted(_tags(item.references), pattern, dangling=dangling)]
    if as_json:
        import json

        from zonal.cli.documents import image_document

        for item in images:
            click.echo(json.dumps(image_document(item), ensure_ascii=False))
        return
    if quiet:
        for item in images:
            click.echo(item.id)
        return
    rows = [
        [name, _short(item.id), show_age(item.created_ns), show_size(item.size_bytes)]
        for item in images
        for name in _tags(item.references) or ["<none>"]
        if _matches(name, pattern)
    ]
    click.echo(show_table(["NAME", "ID", "CREATED", "SIZE"], rows))


@image.command("inspect")
@click.argument("references", nargs=-1, required=True, metavar="IMAGE…")
@host_option
@lab_option
def inspect(references: tuple[str, ...], host: str | None, lab: str | None) -> None:
    """Show all that is known of images, as JSON."""
    import json

    from zonal.api import control_pb2 as pb
    from zonal.cli.documents import image_document, pretty

    with zonald(host, lab) as control:
        found = [control.call("InspectImage", pb.ImageRef(reference=name), pb.ImageDetails) for name in references]
    click.echo(
        pretty(
            [
                image_document(item.image)
                | {
                    "layers": list(item.layers),
                    "erofs_path": item.erofs_path,
                    "config": json.loads(item.config_json),
                }
                for item in found
            ]
        )
    )


@image.command("rm")
@click.option("-f", "--force", is_flag=True, help="By id: with all its names.")
@click.argument("references", nargs=-1, required=True, metavar="IMAGE…")
@host_option
@lab_option
def remove(force: bool, references: tuple[str, ...], host: str | None, lab: str | None) -> None:
    """Remove images, or names of them."""
    from zonal.api import control_pb2 as pb

    def remove_one(name: str) -> str:
        reply = control.call("RemoveImage", pb.RemoveImageRequest(reference=name, force=force), pb.RemoveImageReply)
        return "\n".join([*(f"untagged {n}" for n in reply.untagged), *(f"deleted {n}" for n in reply.deleted)])

    with zonald(host, lab) as control:
        each(references, remove_one)


@image.command("tag")
@click.argument("reference", metavar="IMAGE")
@click.argument("target", metavar="NAME")
@host_option
@lab_option
def tag(reference: str, target: str, host: str | None, lab: str | None) -> None:
    """Give an image one more name."""
    from zonal.api import control_pb2 as pb

    with zonald(host, lab) as control:
        control.call("TagImage", pb.TagImageRequest(reference=reference, target=target), pb.Image)


@image.command("prune")
@click.option("-a", "--all", "everything", is_flag=True, help="Also images with a name that no zone uses.")
@host_option
@lab_option
def prune(everything: bool, host: str | None, lab: str | None) -> None:
    """Remove images that have lost their name, and layers that no image has."""
    from zonal.api import control_pb2 as pb

    with zonald(host, lab) as control:
        reply = control.call("PruneImages", pb.PruneImagesRequest(all=everything), pb.PruneImagesReply)
    for deleted in reply.deleted:
        click.echo(f"deleted {deleted}")
    click.echo(f"{show_size(reply.freed_bytes)} are free again")


@image.command("history")
@click.option("--no-trunc", is_flag=True, help="Whole commands.")
@click.argument("reference", metavar="IMAGE")
@host_option
@lab_option
def history(no_trunc: bool, reference: str, host: str | None, lab: str | None) -> None:
    """Show how an image was made, the last step first."""
    import json

    from zonal.api import control_pb2 as pb

    with zonald(host, lab) as control:
        details = control.call("InspectImage", pb.ImageRef(reference=reference), pb.ImageDetails)
    config = cast("dict[str, Any]", json.loads(details.config_json))
    steps = cast("list[dict[str, Any]]", config.get("history") or [])
    layers = list(details.layers)
    rows: list[list[str]] = []
    for step in steps:
        layer = "" if step.get("empty_layer") or not layers else layers.pop(0)
        command = " ".join(str(step.get("created_by") or step.get("comment") or "").split())
        rows.append([_short(layer), str(step.get("created", ""))[:19], command if no_trunc else command[:60]])
    # An image that tells no history has its layers all the same.
    rows += [[_short(layer), "", ""] for layer in layers]
    click.echo(show_table(["LAYER", "CREATED", "MADE BY"], rows[::-1]))


@image.command("save")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="A file; standard output by default.")
@click.argument("references", nargs=-1, required=True, metavar="IMAGE…")
@host_option
@lab_option
def save(output: Path | None, references: tuple[str, ...], host: str | None, lab: str | None) -> None:
    """Write images to an archive, which `zonal image load`, docker and podman read."""
    from zonal.api import control_pb2 as pb

    if output is None and sys.stdout.isatty():
        raise InvalidInputError("an archive is nothing for a terminal", hint="give a file with -o, or a pipe")
    request = pb.SaveImagesRequest(references=references)
    with zonald(host, lab) as control, _output(output) as file:
        for reply in control.stream("SaveImages", request, pb.SaveImagesReply):
            file.write(reply.data)


@image.command("load")
@click.option(
    "-i", "--input", "path", type=click.Path(path_type=Path), help="A file or folder; standard input by default."
)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing on the way.")
@host_option
@lab_option
def load(path: Path | None, quiet: bool, host: str | None, lab: str | None) -> None:
    """Take in all images of an archive of `zonal image save`, `docker save`, or an OCI layout."""
    from zonal.api import control_pb2 as pb

    path = path or Path("-")

    def requests() -> Iterator[pb.ImportImageRequest]:
        yield pb.ImportImageRequest(header=pb.ImportImageHeader(source=str(path), every=True))
        while chunk := file.read(_CHUNK):
            yield pb.ImportImageRequest(data=chunk)

    with archive(path) as file, zonald(host, lab) as control:
        for reply in control.converse("ImportImage", requests(), pb.ImportImageReply):
            if reply.WhichOneof("reply") == "image":
                names = [name for name in reply.image.references if "@" not in name]
                click.echo("\n".join(names) or reply.image.id)
            elif not quiet:
                say(reply.progress)


@image.command("df")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@host_option
@lab_option
def disk_usage(as_json: bool, host: str | None, lab: str | None) -> None:
    """Show what images, zones and volumes take on the disk, and what of it nobody uses."""
    import json

    from zonal.api import control_pb2 as pb

    with zonald(host, lab) as control:
        usages = control.call("DiskUsage", pb.DiskUsageRequest(), pb.DiskUsageReply).usages
    if as_json:
        for item in usages:
            numbers = {"total": item.total, "active": item.active}
            sizes = {"size_bytes": item.size_bytes, "reclaimable_bytes": item.reclaimable_bytes}
            click.echo(json.dumps({"kind": item.kind, **numbers, **sizes}))
        return
    rows = [
        [item.kind, str(item.total), str(item.active), show_size(item.size_bytes), show_size(item.reclaimable_bytes)]
        for item in usages
    ]
    click.echo(show_table(["KIND", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"], rows))


@contextmanager
def _output(path: Path | None) -> Generator[IO[bytes]]:
    """Standard output, or a file. Raises ``InvalidInputError``."""
    if path is None:
        yield sys.stdout.buffer
        return
    umask = os.umask(0)
    os.umask(umask)
    try:
        with whole_file(path, 0o666 & ~umask) as file:
            yield file
    except (FileNotFoundError, NotADirectoryError, PermissionError, IsADirectoryError) as error:
        raise InvalidInputError(f"{path} cannot be written: {error.strerror}", hint="give another file") from error


def upload_image(
    control: Control,
    file: IO[bytes],
    *,
    reference: str,
    source: str,
    format: str = "auto",
    config_json: str = "",
    tell: Callable[[str], None],
) -> pb.Image:
    """Puts an archive into the store, telling each step. Raises ``ZonalError``."""
    from zonal.api import control_pb2 as pb

    def requests() -> Iterator[pb.ImportImageRequest]:
        header = pb.ImportImageHeader(reference=reference, source=source, format=format, config_json=config_json)
        yield pb.ImportImageRequest(header=header)
        while chunk := file.read(_CHUNK):
            yield pb.ImportImageRequest(data=chunk)

    made = None
    for reply in control.converse("ImportImage", requests(), pb.ImportImageReply):
        if reply.WhichOneof("reply") == "image":
            made = reply.image
        else:
            tell(reply.progress)
    if made is None:
        raise InvalidInputError(f"{source} was not imported, and zonald did not say why", hint="see its log")
    return made


@contextmanager
def archive(path: Path) -> Generator[IO[bytes]]:
    """A file, standard input (``-``), or a folder as a tar. Raises ``NotFoundError``, ``InvalidInputError``."""
    try:
        if str(path) == "-":
            yield sys.stdin.buffer
        elif path.is_dir():
            with tempfile.TemporaryFile(prefix="zonal-") as file:
                with tarfile.open(fileobj=file, mode="w") as tar:
                    tar.add(path, arcname=".")
                file.seek(0)
                yield file
        else:
            with path.open("rb") as file:
                yield file
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {error.filename}", hint="give a tar, or - for standard input") from error
    except OSError as error:
        raise InvalidInputError(f"{error.filename or path} cannot be read: {error.strerror}") from error


def _read_config(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"the configuration {path} cannot be read: {error}", hint="give a JSON file") from error


def _short(image_id: str) -> str:
    return image_id.removeprefix("sha256:")[:12]


def _tags(references: Iterable[str]) -> list[str]:
    return [reference for reference in references if "@" not in reference]


def _wanted(tags: list[str], pattern: str, *, dangling: bool) -> bool:
    return (not dangling or not tags) and (not pattern or any(_matches(name, pattern) for name in tags))


def _matches(name: str, pattern: str) -> bool:
    """As docker has it: the whole name, or the repository, may have wildcards, which stop at a slash."""
    return not pattern or any(
        PurePosixPath(text).match(pattern) and text.count("/") == pattern.count("/")
        for text in (name, name.rpartition(":")[0])
        if text
    )
