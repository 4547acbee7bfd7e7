"""How the command line tells of an error: what was wrong, then what to do."""

from __future__ import annotations

import sys

from zonal.errors import ZonalError


def show_error(error: ZonalError) -> None:
    """Prints an error and its hint to stderr."""
    say(f"zonal: {error.message}")
    if error.hint:
        say(f"hint: {error.hint}")


def warn(text: str) -> None:
    """Prints something that went otherwise than meant, but that is no error."""
    say(f"zonal: {text}")


def printable(text: str) -> str:
    """The text without control characters, which a zone may have put there to play with the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)


def say(text: str) -> None:
    """Prints lines to stderr."""
    # A message may quote bytes that are no text in the terminal's encoding; that must not hide it.
    data = (printable(text) + "\n").encode(sys.stderr.encoding or "utf-8", errors="backslashreplace")
    sys.stderr.flush()
    sys.stderr.buffer.write(data)
    sys.stderr.buffer.flush()
