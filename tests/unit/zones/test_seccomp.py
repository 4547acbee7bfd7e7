"""Filters of system calls, in this machine's own kernel: each is set in a child, which then tries."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zonal.errors import InvalidInputError
from zonal.zones.bpf import ALLOW, ERRNO, MAX_INSTRUCTIONS, Condition, Verdict, compile_filter
from zonal.zones.capabilities import ALL_CAPABILITIES, CAPABILITIES
from zonal.zones.seccomp import MAX_PROFILE, UNCONFINED, seccomp_program
from zonal.zones.system_calls import CALLS_32, CALLS_64

HEADERS = Path("/usr/include/x86_64-linux-gnu/asm")
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
NO_SUCH_CALL = 900
OPERATORS: dict[str, Callable[[int, Condition], bool]] = {
    "EQ": lambda value, c: value == c.value,
    "NE": lambda value, c: value != c.value,
    "GT": lambda value, c: value > c.value,
    "GE": lambda value, c: value >= c.value,
    "LT": lambda value, c: value < c.value,
    "LE": lambda value, c: value <= c.value,
    "MASKED_EQ": lambda value, c: value & c.value == c.other,
}


def attempts(program: bytes, calls: Sequence[tuple[int, Sequence[int]]]) -> list[int]:
    """The errno of each call, 0 for none, of a process under the filter."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    instructions = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(instructions))
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
                os._exit(2)
            if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, fprog):
                os._exit(3)
            for number, arguments in calls:
                result = libc.syscall(ctypes.c_long(number), *(ctypes.c_ulong(each) for each in arguments))
                os.write(writing, struct.pack("i", ctypes.get_errno() if result == -1 else 0))
        finally:
            os._exit(0)
    os.close(writing)
    said = b""
    while piece := os.read(reading, 4096):
        said += piece
    os.close(reading)
    assert os.waitpid(child, 0)[1] == 0
    return list(struct.unpack(f"{len(said) // 4}i", said))


def profile(*rules: dict[str, Any], default: str = "SCMP_ACT_ALLOW", **more: Any) -> str:
    return json.dumps({"defaultAction": default, "syscalls": list(rules), **more})


def program(text: str, capabilities: Sequence[str] = CAPABILITIES) -> bytes:
    made = seccomp_program(text, capabilities)
    assert made is not None
    return made


@pytest.mark.parametrize(("name", "calls"), [("unistd_64.h", CALLS_64), ("unistd_32.h", CALLS_32)])
def test_the_numbers_are_the_kernels(name: str, calls: dict[str, int]) -> None:
    words = [line.split() for line in (HEADERS / name).read_text().splitlines() if line.startswith("#define __NR_")]
    theirs = {line[1].removeprefix("__NR_"): int(line[2]) for line in words}
    assert {each: calls.get(each) for each in theirs if theirs[each] <= max(calls.values())} == {
        each: number for each, number in theirs.items() if number <= max(calls.values())
    }


def test_ours_refuses_what_acts_on_the_whole_kernel_and_lets_programs_work() -> None:
    calls = {
        "getpid": 0,
        "mount": errno.EPERM,
        "unshare": errno.EPERM,
        "keyctl": errno.EPERM,
        "io_uring_setup": errno.EPERM,
        "init_module": errno.EPERM,
        "clone3": errno.ENOSYS,
        "cachestat": None,
    }
    found = attempts(program(""), [(CALLS_64[name], ()) for name in calls])
    for (name, wanted), got in zip(calls.items(), found, strict=True):
        assert got == wanted if wanted is not None else got != errno.EPERM, name
    special = [
        (NO_SUCH_CALL, ()),
        (CALLS_64["personality"], (0xFFFFFFFF,)),
        (CALLS_64["personality"], (0x40000,)),
        (CALLS_64["clone"], (0x10000000 | 17,)),  # CLONE_NEWUSER
        (CALLS_64["socket"], (40, 1, 0)),
        (CALLS_64["socket"], (1, 1, 0)),
        (CALLS_64["getpid"] | 0x40000000, ()),
    ]
    assert attempts(program(""), special) == [
        *(errno.ENOSYS, 0, errno.EPERM, errno.EPERM, errno.EPERM, 0, errno.ENOSYS),
    ]


def test_a_capability_opens_the_calls_that_it_stands_for() -> None:
    mount, chroot, ptrace = CALLS_64["mount"], CALLS_64["chroot"], CALLS_64["kcmp"]
    # With what the kernel itself has to say of such arguments: anything but EPERM of the filter.
    assert attempts(program("", ALL_CAPABILITIES), [(mount, (1,)), (ptrace, ())])[0] == errno.EFAULT
    assert attempts(program("", ["CAP_SYS_CHROOT"]), [(chroot, (1,))]) == [errno.EFAULT]
    assert attempts(program("", []), [(chroot, (1,))]) == [errno.EPERM]


def test_none_is_none() -> None:
    assert seccomp_program(UNCONFINED, CAPABILITIES) is None
    assert seccomp_program("", ALL_CAPABILITIES, privileged=True) is None
    assert seccomp_program(profile(), ALL_CAPABILITIES, privileged=True) is not None


def test_ours_is_short_enough() -> None:
    for capabilities in ((), CAPABILITIES, ALL_CAPABILITIES):
        assert len(program("", capabilities)) // 8 < MAX_INSTRUCTIONS // 4


def test_a_users_profile_in_dockers_format() -> None:
    text = profile(
        {"names": ["mkdir", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSPC},
        {"name": "rmdir", "action": "SCMP_ACT_ERRNO"},
        {"names": ["chdir"], "action": "SCMP_ACT_ERRNO", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["sync"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["getuid"], "action": "SCMP_ACT_ERRNO", "includes": {"arches": ["arm64"]}},
        {"names": ["getgid"], "action": "SCMP_ACT_ERRNO", "includes": {"arches": ["amd64"], "minKernel": "4.8"}},
        {
            "names": ["dup"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": errno.EDOM,
            "args": [{"index": 0, "value": 1_000_000, "op": "SCMP_CMP_EQ"}],
        },
        archMap=[{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}],
        defaultErrnoRet=errno.EPERM,
    )
    names = ["mkdir", "rmdir", "chdir", "sync", "getuid", "getgid"]
    calls: list[tuple[int, Sequence[int]]] = [(CALLS_64[name], ()) for name in names]
    calls += [(CALLS_64["dup"], (1_000_000,)), (CALLS_64["dup"], (1_000_001,))]
    found = attempts(program(text), calls)
    assert found[:2] == [errno.ENOSPC, errno.EPERM]
    assert found[2] not in (0, errno.EPERM)
    assert found[3:] == [errno.EPERM, 0, errno.EPERM, errno.EDOM, errno.EBADF]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ("[]", "something else than an object"),
        ("[" * 100_000, "is not JSON"),
        ("{}", "no action that is known at defaultAction"),
        (profile(default="SCMP_ACT_MAYBE"), "SCMP_ACT_MAYBE"),
        (profile({"names": ["x"], "action": "SCMP_ACT_NOTIFY"}), "nobody listens"),
        (profile({"names": ["x y"], "action": "SCMP_ACT_ALLOW"}), "no name of a call"),
        (profile({"names": [1], "action": "SCMP_ACT_ALLOW"}), "no name of a call"),
        (profile({"names": "mkdir", "action": "SCMP_ACT_ALLOW"}), "something else than an array"),
        (profile({"names": [], "action": "SCMP_ACT_ERRNO", "errnoRet": 1 << 16}), "65536"),
        (profile({"names": [], "action": "SCMP_ACT_ALLOW", "args": [{"index": 6, "op": "SCMP_CMP_EQ"}]}), "index"),
        (profile({"names": [], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "op": "SCMP_CMP_X"}]}), "operator"),
        (profile({"names": [], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_X"]}}), "CAP_X"),
        (profile({"names": [], "action": "SCMP_ACT_ALLOW", "includes": {"moon": "full"}}), "moon"),
        (profile(listenerPath="/run/x"), "listener"),
        (profile(architectures=["SCMP_ARCH_X86"], archMap=[{}]), "both"),
        (" " * (MAX_PROFILE + 1), "more than"),
        (
            profile(
                *(
                    {
                        "names": [name],
                        "action": "SCMP_ACT_ERRNO",
                        "args": [{"index": index, "value": number, "op": "SCMP_CMP_EQ"}],
                    }
                    for name, number in CALLS_64.items()
                    for index in range(3)
                )
            ),
            "too long",
        ),
    ],
)
def test_what_is_wrong_with_a_profile_is_said(text: str, said: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        seccomp_program(text, CAPABILITIES)
    assert said in str(raised.value)


_WORDS = st.one_of(st.integers(0, 3), st.integers(0, (1 << 64) - 1), st.just(1 << 32), st.just((1 << 32) + 1))
_CONDITIONS = st.builds(Condition, st.integers(0, 1), st.sampled_from(sorted(OPERATORS)), _WORDS, _WORDS)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(_CONDITIONS, min_size=1, max_size=3).map(tuple), max_size=3),
    st.lists(st.tuples(_WORDS, _WORDS), min_size=1, max_size=20),
)
def test_conditions_are_the_kernels_own_arithmetic(
    rules: list[tuple[Condition, ...]], tries: list[tuple[int, int]]
) -> None:
    number = NO_SUCH_CALL
    verdict = Verdict(ERRNO | 100, tuple((rule, ERRNO | 101 + place) for place, rule in enumerate(rules)))
    filtered = compile_filter({number: verdict}, None, ALLOW)
    wanted = [
        next(
            (
                101 + place
                for place, rule in enumerate(rules)
                if all(OPERATORS[each.operator](values[each.index], each) for each in rule)
            ),
            100,
        )
        for values in tries
    ]
    assert attempts(filtered, [(number, values) for values in tries]) == wanted
