"""The files that a configuration names: each is opened in a way that cannot make the gateway wait for somebody.

Owns that way, for the INI itself and for certificates, keys, secrets and lists. Refuses, as OSError with the file's
name, what is no regular file (a pipe holds up whoever opens it until somebody writes to it, and a device may never end)
and what is larger than its reader has use for.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

# Where the reader knows no bound of its own. A bundle of every authority that browsers trust has a quarter of a MiB.
MAX_FILE: Final = 16 * 1024 * 1024


def read(path: Path, limit: int = MAX_FILE) -> bytes:
    """All that is in that file, at most `limit` bytes. Raises OSError."""
    with opened(path) as file:
        return content(file, limit)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """To be read; links are followed. Raises OSError."""
    # For a folder `open` has an error of its own.
    with open(path, "rb", opener=_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "is not a file", str(path))
        yield file


def content(file: BinaryIO, limit: int) -> bytes:
    """What is in it from here on. Raises OSError."""
    data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"is larger than {limit} bytes", str(file.name))
    return data


def _at_once(path: str, flags: int) -> int:
    """Without O_NONBLOCK a pipe would be waited for, and without O_NOCTTY a terminal could become ours (open(2))."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
