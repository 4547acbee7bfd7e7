"""``zonal workload``: workloads in zones that they share. Each verb is that of zones, which knows workloads too."""

from __future__ import annotations

import click

from zonal.cli.create import create
from zonal.cli.exec import attach_command, exec_command
from zonal.cli.measures import stats, top
from zonal.cli.run import run
from zonal.cli.update import update
from zonal.cli.verbs import pause, rename, restart_zones, start_zones, unpause
from zonal.cli.zone import inspect, kill, list_zones, logs, mount, remove, stop, unmount, wait


@click.group()
def workload() -> None:
    """Workloads in zones that they share: run, create, list, look into, start, stop, remove.

    `zonal zone create` makes such a zone.
    """


for _verb in (
    *(
        run,
        create,
        list_zones,
        inspect,
        logs,
        exec_command,
        attach_command,
        start_zones,
        stop,
        kill,
        wait,
        restart_zones,
    ),
    *(pause, unpause, rename, update, stats, top, mount, unmount, remove),
):
    workload.add_command(_verb)
