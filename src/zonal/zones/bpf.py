"""Filters of system calls as programs for the kernel: classic BPF, as seccomp(2) takes it.

The kernel runs such a program at each call, but for those that it finds to be allowed whatever their arguments are (it
tries all numbers when the filter is set). The numbers are searched by halves, so that both are quick. Sources: Linux,
Documentation/userspace-api/seccomp_filter.rst, linux/filter.h, linux/bpf_common.h, linux/seccomp.h, linux/audit.h.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

ALLOW: Final = 0x7FFF0000
LOG: Final = 0x7FFC0000
TRACE: Final = 0x7FF00000
ERRNO: Final = 0x00050000
TRAP: Final = 0x00030000
KILL_THREAD: Final = 0x00000000
KILL_PROCESS: Final = 0x80000000
"""What a filter may say; the lower 16 bits of ERRNO are an errno, of TRACE a message (linux/seccomp.h)."""
MAX_INSTRUCTIONS: Final = 4096
"""BPF_MAXINSNS of linux/bpf_common.h."""

_ARCH_64, _ARCH_32 = 0xC000003E, 0x40000003  # AUDIT_ARCH_X86_64 and AUDIT_ARCH_I386 of linux/audit.h
_X32_BIT = 0x40000000  # __X32_SYSCALL_BIT of asm/unistd.h
# struct seccomp_data: int nr; __u32 arch; __u64 instruction_pointer; __u64 args[6].
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16
_LOAD, _RETURN, _AND = 0x20, 0x06, 0x54  # BPF_LD|BPF_W|BPF_ABS, BPF_RET|BPF_K, BPF_ALU|BPF_AND|BPF_K
_JUMP, _EQUAL, _GREATER, _AT_LEAST = 0x05, 0x15, 0x25, 0x35  # BPF_JMP with BPF_JA, JEQ, JGT, JGE; all with BPF_K
_WORD = 0xFFFFFFFF
_NOSYS = 38


@dataclass(frozen=True)
class Condition:
    """On one of a call's arguments, which are unsigned and have 64 bits."""

    index: int
    """0 to 5."""
    operator: str
    """``EQ``, ``NE``, ``GT``, ``GE``, ``LT``, ``LE``; ``MASKED_EQ``: at the bits of ``value`` it is as ``other``."""
    value: int
    other: int = 0


@dataclass(frozen=True)
class Verdict:
    """On one call: the action of the first rule all of whose conditions hold, or else ``action``."""

    action: int
    rules: tuple[tuple[tuple[Condition, ...], int], ...] = ()


def compile_filter(calls_64: Mapping[int, Verdict], calls_32: Mapping[int, Verdict] | None, default: int) -> bytes:
    """The program: an array of ``struct sock_filter``.

    It knows 64-bit programs and, unless there is none for them, 32-bit ones; anything else ends the process, as does
    the whole of x32 with ENOSYS, which hardly a kernel has. ``default`` is for numbers that are not mentioned. Raises
    ``OverflowError`` when the kernel would not take so long a program.
    """
    wide = [
        _instruction(_LOAD, _NUMBER),
        # seccomp_filter.rst: an x32 call looks like a 64-bit one but for this bit.
        _instruction(_AT_LEAST, _X32_BIT, 0, 1),
        _instruction(_RETURN, ERRNO | _NOSYS),
        *_search(_ranges(calls_64, default)),
    ]
    narrow = [_instruction(_RETURN, KILL_PROCESS)]
    if calls_32 is not None:
        body = [_instruction(_LOAD, _NUMBER), *_search(_ranges(calls_32, default))]
        narrow = [_instruction(_EQUAL, _ARCH_32, 1, 0), _instruction(_RETURN, KILL_PROCESS), *body]
    program = [
        _instruction(_LOAD, _ARCH),
        _instruction(_EQUAL, _ARCH_64, 1, 0),
        _instruction(_JUMP, len(wide)),
        *wide,
        *narrow,
    ]
    if len(program) > MAX_INSTRUCTIONS:
        raise OverflowError(f"{len(program)} instructions, and the kernel takes {MAX_INSTRUCTIONS}")
    return b"".join(program)


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """``struct sock_filter``: code, offsets of the jumps if the comparison holds or not, value."""
    return struct.pack("<HBBI", code, if_true, if_false, value)


def _ranges(calls: Mapping[int, Verdict], default: int) -> list[tuple[int, Verdict]]:
    """The first number of each run of equal verdicts, in order, from 0 on."""
    other = Verdict(default)
    found: list[tuple[int, Verdict]] = []
    for number in range(max(calls, default=-1) + 2):
        verdict = calls.get(number, other)
        if not found or found[-1][1] != verdict:
            found.append((number, verdict))
    return found


def _search(ranges: Sequence[tuple[int, Verdict]]) -> list[bytes]:
    if len(ranges) == 1:
        return _decide(ranges[0][1])
    middle = len(ranges) // 2
    lower, upper = _search(ranges[:middle]), _search(ranges[middle:])
    # A comparison jumps over 255 instructions at most, a plain jump over any number.
    return [_instruction(_AT_LEAST, ranges[middle][0], 0, 1), _instruction(_JUMP, len(lower)), *lower, *upper]


def _decide(verdict: Verdict) -> list[bytes]:
    code: list[bytes] = []
    for conditions, action in verdict.rules:
        # From the last to the first: each one that fails jumps behind what follows it.
        block = [_instruction(_RETURN, action)]
        for condition in reversed(conditions):
            block = [*_test(condition, len(block)), *block]
        code += block
    return [*code, _instruction(_RETURN, verdict.action)]


def _test(condition: Condition, length: int) -> list[bytes]:
    """Goes on where the condition holds; else jumps over the ``length`` instructions that follow."""
    low, high = _ARGUMENTS + 8 * condition.index, _ARGUMENTS + 8 * condition.index + 4
    value = (condition.value >> 32 & _WORD, condition.value & _WORD)
    match condition.operator:
        case "EQ":
            return _equal(high, low, value, length)
        case "NE":
            return _negated(_equal(high, low, value, 1), length)
        case "MASKED_EQ":
            other = (condition.other >> 32 & _WORD, condition.other & _WORD)
            return _equal(high, low, other, length, masks=value)
        case "GT":
            return _above(high, low, value, _GREATER, length)
        case "GE":
            return _above(high, low, value, _AT_LEAST, length)
        case "LE":
            return _negated(_above(high, low, value, _GREATER, 1), length)
        case "LT":
            return _negated(_above(high, low, value, _AT_LEAST, 1), length)
        case _:
            raise ValueError(f"no operator: {condition.operator}")


def _equal(
    high: int, low: int, value: tuple[int, int], length: int, masks: tuple[int, int] | None = None
) -> list[bytes]:
    first = [_instruction(_AND, masks[0])] if masks else []
    second = [_instruction(_AND, masks[1])] if masks else []
    tail = [_instruction(_LOAD, low), *second, _instruction(_EQUAL, value[1], 0, length)]
    return [
        *(_instruction(_LOAD, high), *first, _instruction(_EQUAL, value[0], 0, len(tail) + length)),
        *tail,
    ]


def _above(high: int, low: int, value: tuple[int, int], comparison: int, length: int) -> list[bytes]:
    return [
        _instruction(_LOAD, high),
        _instruction(_GREATER, value[0], 3, 0),
        _instruction(_EQUAL, value[0], 0, 2 + length),
        _instruction(_LOAD, low),
        _instruction(comparison, value[1], 0, length),
    ]


def _negated(test: list[bytes], length: int) -> list[bytes]:
    """``test`` was made to jump over one instruction: that one leaves, and what is jumped to goes on."""
    return [*test, _instruction(_JUMP, length)]
