"""Files of the user's that are there whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def whole_file(path: Path, mode: int) -> Generator[IO[bytes]]:
    """A file to write, which takes the name ``path`` at the block's end; none is left when it fails.

    Raises ``OSError``.
    """
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        making = Path(file.name)
        try:
            yield file.file
            file.flush()
            making.chmod(mode)
            making.replace(path)
        except BaseException:
            making.unlink(missing_ok=True)
            raise
