"""Linux signal numbers (x86-64) and their names, as ``docker stop --signal`` and an image's ``StopSignal`` say them."""

from __future__ import annotations

import re

from zonal.errors import InvalidInputError

MAX_SIGNAL = 64
_RTMIN, _RTMAX = 34, 64
_NAMES = (
    "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU URG "
    "XCPU XFSZ VTALRM PROF WINCH IO PWR SYS"
)
_NUMBERS = {name: number for number, name in enumerate(_NAMES.split(), start=1)} | {"IOT": 6, "CLD": 17, "POLL": 29}


def parse_signal(text: str) -> int:
    """``9``, ``KILL``, ``sigkill`` or ``SIGRTMIN+3`` as a number. Raises ``InvalidInputError``."""
    name = text.strip().upper().removeprefix("SIG")
    if re.fullmatch(r"[0-9]{1,2}", name, re.ASCII) and 1 <= int(name) <= MAX_SIGNAL:
        return int(name)
    if name in _NUMBERS:
        return _NUMBERS[name]
    if match := re.fullmatch(r"RT(MIN|MAX)(?:([+-])([0-9]{1,2}))?", name, re.ASCII):
        base, sign, offset = match.groups()
        if sign != ("-" if base == "MIN" else "+"):
            number = (_RTMIN if base == "MIN" else _RTMAX) + int(f"{sign or ''}{offset or 0}")
            if _RTMIN <= number <= _RTMAX:
                return number
    raise InvalidInputError(f"{text!r} is not a signal", hint="such as SIGTERM, HUP, 9 or RTMIN+3")
