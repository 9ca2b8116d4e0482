"""Files that commands read and make.

Owns how a file comes into being: whole, for its owner alone, and in nobody's place. Refuses files that are larger than
any that is meant, and to write over what is there unless that is asked for.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from gateway.cli.errors import Failure
from gateway.cli.output import note

# What stands for standard input or output in place of a file's name.
STREAM: Final = "-"

# One line; the longest that the registry takes for a key is far shorter.
_MAX_KEY_FILE: Final = 4096


def read(path: str, limit: int) -> bytes:
    """All of a file, or of standard input; at most `limit` bytes. Raises Failure, OSError."""
    if path == STREAM:
        content = sys.stdin.buffer.read(limit + 1)
    else:
        with Path(path).open("rb") as file:
            content = file.read(limit + 1)
    if len(content) > limit:
        raise Failure(f"{path}: is larger than {limit} bytes")
    return content


def read_key(path: str) -> str:
    """The secret key in a file, or on standard input: one line, whose line feed is the editor's.

    Never an argument: every user of the machine can read those of a process. No reason quotes the key.
    Raises Failure, OSError.
    """
    try:
        key = read(path, _MAX_KEY_FILE).decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise Failure(f"{path}: is not UTF-8") from None
    if not key:
        raise Failure(f"{path}: is empty")
    if not key.isprintable():
        raise Failure(f"{path}: has to be one line of printable characters")
    return key


@dataclass(slots=True)
class Draft:
    """A file that has not got its name yet."""

    path: Path
    file: BinaryIO
    precious: bool = False

    def keep(self) -> None:
        """From now on what is written so far outlives a crash of the machine, and an interruption."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.precious = True


@contextmanager
def private(path: Path, force: bool) -> Iterator[Draft]:
    """A file, 0600, that appears with its last byte once the body has ended, and not at all if that fails.

    force: it may replace another file. Raises Failure before the body if it must not. If it cannot get its name after
    the body, all of it is still there under the name that the reason gives.
    """
    _refuse_taken(path, force)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "wb") as file:
        draft = Draft(Path(name), file)
        try:
            yield draft
            draft.keep()
        except Exception:
            draft.path.unlink()
            raise
        except BaseException:
            # Nobody knows whether what the content is for was done: Ctrl-C can come right behind it.
            if draft.precious:
                note(f"Interrupted: what would have been {path} is in {draft.path}.")
            else:
                draft.path.unlink()
            raise
    try:
        _publish(draft.path, path, force)
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}; its content is in {draft.path}") from error


def _refuse_taken(path: Path, force: bool) -> None:
    if not path.parent.is_dir():
        raise Failure(f"{path.parent}: there is no such folder")
    if path.exists() and not path.is_file():
        raise Failure(f"{path}: is there, and is not a file")
    if os.path.lexists(path) and not force:
        raise Failure(f"{path}: exists; --force replaces it")


def _publish(draft: Path, path: Path, force: bool) -> None:
    if force:
        draft.replace(path)
    else:
        path.hardlink_to(draft)  # unlike a rename it never takes the place of a file that came meanwhile
        draft.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
