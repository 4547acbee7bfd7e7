"""``zonal run``: a command in a new zone, as ``docker run`` has it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from zonal.cli.connect import host_option, lab_option
from zonal.cli.environment import read_env_file, variable
from zonal.cli.errors import say, warn
from zonal.cli.format import parse_size
from zonal.cli.kernel import ensure_kernel, is_kernel_path, named_kernel
from zonal.cli.labels import id_file
from zonal.cli.mounts import mount_options, parse_mounts, publish_directories
from zonal.cli.networks import network_options, parse_network
from zonal.cli.pci import pci_options, take_devices
from zonal.cli.policies import policy_options, set_policies, take_policies
from zonal.cli.published import leave_to_start, published
from zonal.cli.registry import tls_option
from zonal.cli.resources import MAX_CPUS, parse_resources, resource_options, virt_option
from zonal.cli.runtime import add_runtime, runtime_options
from zonal.cli.terminal import detach_keys_option, parse_detach_keys
from zonal.cli.timing import Stopwatch
from zonal.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from zonal.api import control_pb2 as pb
    from zonal.cli.attach import Outcome

_TIMINGS = ("table", "json")
_MOST_SUPPLIES = 3


class _RunCommand(click.Command):
    """``--timing`` takes a value only behind an equals sign, which click by itself does not know."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self._spell_out_timing(args))

    def _spell_out_timing(self, args: list[str]) -> list[str]:
        with_value = {
            name
            for option in self.params
            if isinstance(option, click.Option) and not option.is_flag
            for name in option.opts
        }
        spelt = list(args)
        position = 0
        while position < len(spelt):
            word = spelt[position]
            if word == "--timing":
                spelt[position] = "--timing=table"
            elif not word.startswith("-") or word in ("-", "--"):
                break  # Here the image is; what follows is the command's own.
            elif _takes_next(word, with_value):
                position += 1
            position += 1
        return spelt


@click.command(
    "run", cls=_RunCommand, context_settings={"allow_interspersed_args": False, "help_option_names": ["--help"]}
)
@click.option("-i", "--interactive", is_flag=True, help="Pass standard input on.")
@click.option("-t", "--tty", is_flag=True, help="Give the command a terminal.")
@click.option("-d", "--detach", is_flag=True, help="Leave it running and print its id.")
@click.option("--rm", "remove", is_flag=True, help="Remove the zone when the command has ended.")
@click.option("-e", "--env", multiple=True, metavar="NAME[=VALUE]", help="Set a variable; without value, this shell's.")
@click.option("--env-file", multiple=True, type=click.Path(path_type=Path), help="A file of such lines.")
@click.option("-w", "--workdir", default="", metavar="DIR", help="Working directory.")
@click.option("-u", "--user", default="", metavar="USER[:GROUP]", help="Name or number.")
@click.option("--entrypoint", metavar="PROGRAM", help="Instead of the image's; empty for none.")
@click.option("-m", "--memory", default="", metavar="SIZE", help="Of the zone, such as 256M.")
@click.option("--cpus", type=click.IntRange(1, MAX_CPUS), help="Of the zone; 1 by default.")
@resource_options
@click.option("--name", default="", help="Of the zone; made up by default.")
@click.option("--zone", default="", metavar="ZONE", help="A zone to share with others, rather than one of its own.")
@click.option("-h", "--hostname", default="", help="Inside; the zone's short id by default.")
@click.option("--kernel", default="", metavar="NAME|PATH", help="To boot; with a slash, a file here.")
@virt_option
@click.option(
    "--pull",
    "policy",
    type=click.Choice(["missing", "always", "never"]),
    default="missing",
    help="When to ask the image's registry; missing by default.",
)
@tls_option
@mount_options
@network_options
@pci_options
@policy_options
@click.option("--storage-size", default="", metavar="SIZE", help="Of the disk for what is written; 10G by default.")
@click.option("--read-only", is_flag=True, help="No writing to the image's files.")
@click.option("--stop-signal", default="", metavar="SIGNAL", help="Instead of the image's, or SIGTERM.")
@click.option("--log-opt", "log_options", multiple=True, metavar="NAME=VALUE", help="max-size=10m, max-file=3.")
@runtime_options
@click.option("--cidfile", "cid_file", type=click.Path(path_type=Path), help="A new file that gets the zone's id.")
@detach_keys_option
@click.option("--timing", metavar="[=json]", help="Show where the time went; =json for programs.")
@host_option
@lab_option
@click.argument("image")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND]…")
def run(
    interactive: bool,
    tty: bool,
    detach: bool,
    remove: bool,
    env: tuple[str, ...],
    env_file: tuple[Path, ...],
    workdir: str,
    user: str,
    entrypoint: str | None,
    memory: str,
    cpus: int | None,
    name: str,
    zone: str,
    hostname: str,
    kernel: str,
    virt: str | None,
    policy: str,
    tls_verify: bool | None,
    volumes: tuple[str, ...],
    mounts: tuple[str, ...],
    memory_mounts: tuple[str, ...],
    devices: tuple[str, ...],
    storage_size: str,
    read_only: bool,
    stop_signal: str,
    log_options: tuple[str, ...],
    runtime: Mapping[str, Any],
    cid_file: Path | None,
    detach_keys: str,
    timing: str | None,
    host: str | None,
    lab: str | None,
    image: str,
    command: tuple[str, ...],
    create: bool = False,
    **more: Any,
) -> int:
    """Run COMMAND, or what the image says, in a new zone made from IMAGE."""
    if zone and click.get_current_context().get_parameter_source("network") is ParameterSource.ENVIRONMENT:
        more["network"] = ""  # the zone's is meant
    if zone and click.get_current_context().get_parameter_source("virt") is ParameterSource.ENVIRONMENT:
        virt = None  # likewise
    stopwatch = Stopwatch()
    if timing not in (None, *_TIMINGS):
        raise InvalidInputError(f"--timing={timing} is unknown", hint="--timing or --timing=json")
    keys = parse_detach_keys(detach_keys)
    if interactive and tty and not detach and not os.isatty(0):
        raise InvalidInputError("standard input is not a terminal", hint="leave out -t")
    variables = [line for path in env_file for line in read_env_file(path)] + [variable(text) for text in env]
    memory_bytes = parse_size(memory) if memory else 0
    if memory and not memory_bytes:
        raise InvalidInputError("a zone cannot have no memory", hint="such as -m 256M")
    storage_bytes = parse_size(storage_size) if storage_size else 0
    if storage_size and not storage_bytes:
        raise InvalidInputError("a scratch disk cannot have no room", hint="such as --storage-size 1G, or --read-only")
    _check_unicode([*volumes, *mounts, *memory_mounts, *devices])
    wanted_mounts = parse_mounts(volumes, mounts, memory_mounts, devices)
    _check_unicode([image, name, zone, hostname, workdir, user, entrypoint or "", stop_signal, *variables, *command])
    policies = take_policies(more)
    pci = take_devices(more)
    from zonal.api import control_pb2 as pb

    spec = pb.RunSpec(
        image=image,
        name=name,
        zone=zone,
        create=create,
        command=command,
        entrypoint=entrypoint,
        env=variables,
        working_directory=workdir,
        user=user,
        hostname=hostname,
        terminal=tty,
        stdin=interactive,
        memory_bytes=memory_bytes,
        cpus=cpus,
        kernel=kernel,
        virt=virt,
        remove=remove,
        detach=detach,
        stop_signal=stop_signal,
        read_only=read_only,
        storage_bytes=storage_bytes,
        mounts=wanted_mounts,
        pci=pci,
        resources=parse_resources(more),
        network=parse_network(**more),
    )
    set_policies(spec, **policies)
    set_log_options(spec, log_options)
    add_runtime(spec, runtime)
    from zonal.cli.attach import run_attached
    from zonal.cli.supply import Supply

    with id_file(cid_file) as told, Supply(host, lab, image) as supply:
        stopwatch.lap("command line")
        control = supply.control()
        stopwatch.lap("connect")
        if wanted_mounts:
            publish_directories(spec.mounts, host, lab)
            stopwatch.lap("directories")
        if is_kernel_path(kernel):
            spec.kernel = ensure_kernel(control, Path(kernel))
            stopwatch.lap("kernel upload")
        elif kernel:
            spec.kernel = named_kernel(control, kernel, policy, tls_verify=tls_verify)
        if policy == "always":
            supply.fetched_image(control, tls_verify=tls_verify)
            stopwatch.lap("image")
        if create:
            leave_to_start(spec, host, lab)
        else:
            supply.stack.enter_context(published(control, spec, host, lab))
        supplied = 0
        while True:
            try:
                outcome = run_attached(control, spec, keys, told.write)
                break
            except NotFoundError as error:
                # A missing command or kernel is not found either; only a missing image can be supplied. It may be gone
                # again before it is used, when others remove images.
                wanted = policy != "never" and error.exit_status == NotFoundError.exit_status
                if not wanted or supplied == _MOST_SUPPLIES or not supply.image_missing(control):
                    raise
            supply.missing_image(control, tls_verify=tls_verify)
            supplied += 1
            stopwatch.lap("image")
    if detach and outcome.zone_id:
        click.echo(outcome.zone_id)
    if outcome.reason:
        warn(outcome.reason)
    if timing:
        _show_timing(timing, stopwatch, outcome)
    return outcome.status


def set_log_options(spec: pb.RunSpec, options: Sequence[str]) -> None:
    """``max-size`` and ``max-file``, as docker's log drivers take them. Raises ``InvalidInputError``."""
    for option in options:
        name, _, value = option.partition("=")
        if name == "max-size" and parse_size(value):
            spec.log_max_bytes = parse_size(value)
        elif name == "max-file" and re.fullmatch(r"[1-9][0-9]{0,3}", value, re.ASCII):
            spec.log_max_files = int(value)
        else:
            raise InvalidInputError(f"--log-opt {option!r} cannot be", hint="such as max-size=10m or max-file=3")


def _show_timing(timing: str, stopwatch: Stopwatch, outcome: Outcome) -> None:
    from zonal.cli.timing import as_json, table

    total_ns = time.monotonic_ns() - stopwatch.begin_ns
    spans = stopwatch.spans(outcome, total_ns)
    say(as_json(spans, total_ns, outcome) if timing == "json" else table(spans, total_ns))


def _check_unicode(texts: Sequence[str]) -> None:
    for text in texts:
        if not text.isprintable():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise InvalidInputError(f"{text!r} is not valid UTF-8", hint="use UTF-8") from error


def _takes_next(word: str, with_value: set[str]) -> bool:
    """Whether an option's value is the next word: ``--name x`` and ``-itm 1G``, but not ``--name=x`` or ``-m1G``."""
    if word.startswith("--"):
        return word in with_value
    for position, letter in enumerate(word[1:], start=1):
        if f"-{letter}" in with_value:
            return position == len(word) - 1
    return False
