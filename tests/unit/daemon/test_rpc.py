"""What a failed call leaves in zonald's memory: its error, and nothing of what its frames had."""

from __future__ import annotations

import weakref

import pytest

from zonal.daemon.rpc import free_frames
from zonal.errors import InvalidInputError


class Kernel:
    """Something large."""


def read(kernels: list[weakref.ref[Kernel]]) -> None:
    kernel = Kernel()
    kernels.append(weakref.ref(kernel))
    raise ValueError("corrupt")


def load(kernels: list[weakref.ref[Kernel]]) -> None:
    kernel = Kernel()
    kernels.append(weakref.ref(kernel))
    try:
        read(kernels)
    except ValueError as error:
        raise InvalidInputError("the kernel is corrupt") from error


def test_what_the_frames_of_an_error_and_of_its_causes_had_is_free_while_the_error_lives() -> None:
    kernels: list[weakref.ref[Kernel]] = []
    with pytest.raises(InvalidInputError) as caught:
        load(kernels)
    error = ExceptionGroup("in a task", [caught.value])
    assert [kernel() is None for kernel in kernels] == [False, False]
    free_frames(error)
    assert [kernel() is None for kernel in kernels] == [True, True]
