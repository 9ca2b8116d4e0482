"""The reader of a page, and the servers that some pages presuppose."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.walk import Reader

# Where the environment has `securegw`, `twistd` and `python3`; and where Debian keeps servers.
_PROGRAMS = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"


@pytest.fixture
def reader() -> Iterator[Reader]:
    # Short, because Unix sockets will be in it (unix(7): 108 bytes).
    with tempfile.TemporaryDirectory(prefix="securegw-test-") as home:
        folder, notes = Path(home) / "reader", Path(home) / "notes"
        for one in (folder, notes):
            one.mkdir()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "SECUREGW"))}
        yield Reader(folder, notes, {**kept, "PATH": _PROGRAMS})


def require(*programs: str) -> None:
    """Skips the test, by name, where one of them is missing."""
    missing = [one for one in programs if shutil.which(one, path=_PROGRAMS) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
