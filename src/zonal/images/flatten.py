"""Resolve an image's layers to one tree, without ever unpacking one: their headers are read, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from zonal.errors import InvalidInputError
from zonal.images.limits import DEFAULT, Limits
from zonal.images.tarformat import Source
from zonal.images.tarreader import read_members
from zonal.images.tree import Tree


def flatten(layers: Sequence[Source], limits: Limits = DEFAULT, *, need_end: bool = False) -> Tree:
    """The tree that ``layers`` make, the lowest first; its files name ranges of the layers' descriptors.

    Raises:
        InvalidInputError: a layer is corrupt, has members that an image cannot have, or a limit is passed.
    """
    if len(layers) > limits.layers:
        raise InvalidInputError(f"the image has {len(layers)} layers, more than {limits.layers}")
    tree = Tree(limits)
    for layer in layers:
        tree.apply(read_members(layer, limits, need_end=need_end), layer.label)
    return tree
