"""``zonal exec`` and ``zonal attach``: at a zone that runs already."""

from __future__ import annotations

import os
from pathlib import Path

import click

from zonal.cli.connect import host_option, lab_option, zonald
from zonal.cli.environment import read_env_file, variable
from zonal.cli.errors import warn
from zonal.cli.terminal import detach_keys_option, parse_detach_keys
from zonal.errors import InvalidInputError, WrongStateError


@click.command("exec", context_settings={"allow_interspersed_args": False})
@click.option("-i", "--interactive", is_flag=True, help="Pass standard input on.")
@click.option("-t", "--tty", is_flag=True, help="Give the command a terminal.")
@click.option("-d", "--detach", is_flag=True, help="Leave it running.")
@click.option("-e", "--env", multiple=True, metavar="NAME[=VALUE]", help="Set a variable; without value, this shell's.")
@click.option("--env-file", multiple=True, type=click.Path(path_type=Path), help="A file of such lines.")
@click.option("-w", "--workdir", default="", metavar="DIR", help="Working directory; the workload's by default.")
@click.option("-u", "--user", default="", metavar="USER[:GROUP]", help="Name or number; the workload's by default.")
@click.option("--privileged", is_flag=True, help="With every capability.")
@detach_keys_option
@host_option
@lab_option
@click.argument("zone", metavar="ZONE")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND…")
def exec_command(
    interactive: bool,
    tty: bool,
    detach: bool,
    env: tuple[str, ...],
    env_file: tuple[Path, ...],
    workdir: str,
    user: str,
    privileged: bool,
    detach_keys: str,
    host: str | None,
    lab: str | None,
    zone: str,
    command: tuple[str, ...],
) -> int:
    """Run COMMAND in the container of a zone that runs."""
    keys = parse_detach_keys(detach_keys)
    if interactive and tty and not detach and not os.isatty(0):
        raise InvalidInputError("standard input is not a terminal", hint="leave out -t")
    variables = [line for path in env_file for line in read_env_file(path)] + [variable(text) for text in env]
    from zonal.api import control_pb2 as pb
    from zonal.cli.attach import exec_attached

    spec = pb.ExecSpec(
        zone=zone,
        command=command,
        env=variables,
        working_directory=workdir,
        user=user,
        terminal=tty,
        stdin=interactive and not detach,
        detach=detach,
        privileged=privileged,
    )
    with zonald(host, lab) as control:
        return exec_attached(control, spec, keys).status


@click.command("attach")
@click.option("--no-stdin", is_flag=True, help="Do not pass standard input on.")
@click.option("--sig-proxy", type=bool, default=True, metavar="BOOL", help="Pass signals on; true by default.")
@detach_keys_option
@click.argument("ref", metavar="ZONE")
@host_option
@lab_option
def attach_command(
    no_stdin: bool, sig_proxy: bool, detach_keys: str, ref: str, host: str | None, lab: str | None
) -> int:
    """Take part in the workload of a zone that runs: its output from now on, its input, its signals."""
    keys = parse_detach_keys(detach_keys)
    from zonal.api import control_pb2 as pb
    from zonal.cli.attach import Manner, attach

    with zonald(host, lab) as control:
        found = control.call("InspectZone", pb.ZoneRef(zone=ref), pb.Zone)
        config = found.config
        stdin = config.stdin and not no_stdin
        if stdin and config.terminal and not os.isatty(0):
            raise WrongStateError(
                "the workload has a terminal, and standard input is none", hint="use --no-stdin to only look"
            )
        # A terminal's signals are its keys.
        signals = sig_proxy and not config.terminal
        manner = Manner(terminal=config.terminal, stdin=stdin, keys=keys, signals=signals)
        outcome = attach(control, pb.AttachSpec(zone=found.id, stdin=stdin), manner)
    if outcome.reason:
        warn(outcome.reason)
    return outcome.status
