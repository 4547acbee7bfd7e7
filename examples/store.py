"""Prints the Xen store as a tree, or every change of it as it happens.

Run as root in Xen's host:

python3 examples/store.py /local/domain
python3 examples/store.py --watch /local/domain
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import suppress

from zonal.errors import ZonalError
from zonal.xen.store import Store, decode_text


async def print_tree(store: Store, path: str, depth: int = 0) -> None:
    """One line a node: its name, value and permissions."""
    names = await store.list(path)
    children = [f"{path.rstrip('/')}/{name}" for name in names]
    # All requests go out before the first answer comes back.
    values = await asyncio.gather(*map(store.find, children))
    permissions = await asyncio.gather(*map(store.permissions, children))
    for child, value, allowed in zip(children, values, permissions, strict=True):
        if value is None:  # removed meanwhile
            continue
        name = child.rpartition("/")[2]
        print(f"{'  ' * depth}{name} = {decode_text(value)!r}  ({', '.join(map(str, allowed))})")
        await print_tree(store, child, depth + 1)


async def print_changes(store: Store, path: str) -> None:
    """One line a change, until interrupted."""
    async with store.watch(path) as watch:
        async for changed in watch:
            value = await store.find(changed)
            print(f"{changed} {'is gone' if value is None else f'= {decode_text(value)!r}'}", flush=True)


async def run(arguments: argparse.Namespace) -> None:
    """Connects and prints."""
    async with await Store.connect() as store:
        await (print_changes if arguments.watch else print_tree)(store, arguments.path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", nargs="?", default="/")
    parser.add_argument("--watch", action="store_true", help="print changes instead")
    with suppress(KeyboardInterrupt):
        try:
            asyncio.run(run(parser.parse_args()))
        except ZonalError as error:
            sys.exit(f"store: {error}")


if __name__ == "__main__":
    main()
