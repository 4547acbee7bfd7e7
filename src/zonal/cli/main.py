"""The ``zonal`` command: which group of commands is where, and the one way out for errors.

Modules are imported only when their command is used: on an emulated host each costs a noticeable time.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence

import click

from zonal.cli.errors import show_error
from zonal.errors import ResourceExhaustedError, ZonalError

_USAGE_STATUS = 125
"""Of a command line that makes no sense; docker's status for its own refusals."""
_INTERRUPTED = 130

_COMMANDS = {
    "run": ("zonal.cli.run:run", "Run a command in a new zone."),
    "create": ("zonal.cli.create:create", "Write down what run would run, for start."),
    "exec": ("zonal.cli.exec:exec_command", "Run a command in a zone that runs."),
    "attach": ("zonal.cli.exec:attach_command", "Take part in the workload of a zone that runs."),
    "start": ("zonal.cli.verbs:start_zones", "Start zones that have ended (zone start)."),
    "restart": ("zonal.cli.verbs:restart_zones", "Stop zones and start them (zone restart)."),
    "pause": ("zonal.cli.verbs:pause", "Hold zones as they are (zone pause)."),
    "unpause": ("zonal.cli.verbs:unpause", "Let them go on (zone unpause)."),
    "rename": ("zonal.cli.verbs:rename", "Give a zone another name (zone rename)."),
    "update": ("zonal.cli.update:update", "Change zones that are there."),
    "wait": ("zonal.cli.zone:wait", "Wait for zones' ends (zone wait)."),
    "inspect": ("zonal.cli.zone:inspect", "Show all that is known of zones (zone inspect)."),
    "stats": ("zonal.cli.measures:stats", "Show what zones use (zone stats)."),
    "top": ("zonal.cli.measures:top", "Show all zones live, or a zone's processes (zone top)."),
    "events": ("zonal.cli.events:events", "Show what happens to zones."),
    "ps": ("zonal.cli.zone:list_zones", "List zones (zone ls)."),
    "logs": ("zonal.cli.zone:logs", "Show a workload's output (zone logs)."),
    "stop": ("zonal.cli.zone:stop", "Stop zones (zone stop)."),
    "kill": ("zonal.cli.zone:kill", "Send a signal to zones' workloads (zone kill)."),
    "cp": ("zonal.cli.copy:copy", "Copy files between a zone and here."),
    "diff": ("zonal.cli.copy:diff", "List what a zone has changed of its image."),
    "commit": ("zonal.cli.commit:commit", "Make an image of what a zone has changed."),
    "rm": ("zonal.cli.zone:remove", "Remove zones (zone rm)."),
    "images": ("zonal.cli.image:list_images", "List images (image ls)."),
    "pull": ("zonal.cli.registry:pull", "Fetch an image from its registry (image pull)."),
    "push": ("zonal.cli.registry:push", "Send an image to its registry (image push)."),
    "save": ("zonal.cli.image:save", "Write images to an archive (image save)."),
    "load": ("zonal.cli.image:load", "Take in an archive of images (image load)."),
    "login": ("zonal.cli.login:login", "Keep credentials for a registry."),
    "logout": ("zonal.cli.login:logout", "Forget the credentials for a registry."),
    "zone": ("zonal.cli.zone:zone", "Zones: create, list, look into, stop, remove."),
    "workload": ("zonal.cli.workload:workload", "Workloads in zones that they share."),
    "pool": ("zonal.cli.pool:pool", "Zones that are booted ahead of time."),
    "image": ("zonal.cli.image:image", "Images: pull, push, import, bootstrap, list, remove."),
    "volume": ("zonal.cli.volume:volume", "Volumes: create, list, remove."),
    "network": ("zonal.cli.network:network", "Networks: create, list, remove."),
    "device": ("zonal.cli.device:device", "PCI devices: list, set aside for zones, give back."),
    "kernel": ("zonal.cli.kernel:kernel", "Kernels: import, list."),
    "k8s": ("zonal.cli.k8s:k8s", "A Kubernetes node whose pods are zones: install, uninstall, status."),
    "lab": ("zonal.cli.lab:lab", "The lab: a Xen host in QEMU, for machines without Xen."),
    "host": ("zonal.cli.host:host_group", "The Xen host: info, its console, what is wrong with it."),
    "info": ("zonal.cli.info:info", "Show what zonald and its machine are."),
    "version": ("zonal.cli.info:version", "Show the version."),
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name][0].partition(":")
        return getattr(importlib.import_module(module), name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in _COMMANDS.items()])


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
def zonal() -> None:
    """Run containers in Xen zones, each with a Linux kernel of its own."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The ``zonal`` command; always exits."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        status = zonal.main(args=arguments, prog_name="zonal", standalone_mode=False)
        sys.stdout.flush()
    except ZonalError as error:
        show_error(error)
        status = error.exit_status
    except click.exceptions.Exit as end:
        status = end.exit_code
    except click.ClickException as error:
        error.show()
        status = _USAGE_STATUS
    except (KeyboardInterrupt, click.Abort):
        status = _INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left, and nothing more can be said. Python itself must not try again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        full = _full_disk(error)
        show_error(full)
        status = full.exit_status
    sys.exit(status if isinstance(status, int) else 0)


def _full_disk(error: OSError) -> ZonalError:
    from zonal.lab.paths import SPACE_HINT

    where = f" for {error.filename}" if error.filename else ""
    return ResourceExhaustedError(f"there is no space left{where}", hint=SPACE_HINT)


if __name__ == "__main__":
    main()
