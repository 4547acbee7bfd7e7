"""What the pool of booted zones is to hold, kept over restarts of the daemon."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path

from zonal.errors import InvalidInputError, UnavailableError
from zonal.images.files import write_file
from zonal.zones.pool_plan import PoolPlan, PoolSize, check_plan
from zonal.zones.resources import Resources, check_resources

log = logging.getLogger(__name__)


def save_plan(path: Path, plan: PoolPlan) -> None:
    """Replaces the file. Raises ``OSError``."""
    write_file(path, json.dumps(asdict(plan)).encode(), path.parent)


def load_plan(path: Path) -> PoolPlan:
    """What was saved; an empty plan when nothing was, or when it makes no sense, which is logged.

    Raises ``UnavailableError`` when the file cannot be read.
    """
    try:
        data = json.loads(path.read_bytes())
        sizes = [PoolSize(check_resources(Resources(**size["resources"])), size["count"]) for size in data["sizes"]]
        return check_plan(PoolPlan(tuple(sizes), data["budget"]))
    except FileNotFoundError:
        return PoolPlan()
    except OSError as error:
        raise UnavailableError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, InvalidInputError) as error:
        # It is only for speed: a zonald that does not start would be worse.
        log.warning("the pool stays empty, for %s makes no sense: %s; zonal pool set writes it anew", path, error)
        return PoolPlan()
