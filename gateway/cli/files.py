"""Files that commands read and make.

Owns how a file comes into being: whole, for its owner alone or for whoever reads the one beside it, and in nobody's
place. Refuses files that are larger than any that is meant, and to write over what is there unless that is asked for.
"""

from __future__ import annotations

import os
import pwd
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedWriter, FileIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import click

from gateway.cli.errors import Failure
from gateway.cli.output import note
from gateway.named_files import draft_of, sync_folder

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# What stands for standard input or output in place of a file's name.
STREAM: Final = "-"

# One line; the longest that the registry takes for a key is far shorter.
_MAX_KEY_FILE: Final = 4096


def once(*paths: str | None) -> None:
    """paths: of all that is read. Whoever reads standard input first leaves nothing of it to others.

    Raises UsageError if it is named more than once.
    """
    if paths.count(STREAM) > 1:
        raise click.UsageError("standard input cannot be two files at once")


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

    Never an argument: every user of the machine can read those of a process. No reason quotes the key. Whoever keeps
    it where others can read it is told. Raises Failure, OSError.
    """
    try:
        key = read(path, _MAX_KEY_FILE).decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise Failure(f"{path}: is not UTF-8") from None
    if not key:
        raise Failure(f"{path}: is empty")
    if not key.isprintable():
        raise Failure(f"{path}: has to be one line of printable characters")
    warn_of_readers(path, "who have its secret: chmod 600, and another secret in its place")
    return key


def warn_of_readers(path: str, who: str, folder: Path = Path()) -> None:
    """Of a file with a secret that others can read. who: what they can do, and what to do about it. folder: where path
    is meant from. Raises OSError."""
    from gateway.pem import exposed

    if path != STREAM and (folder / path).is_file() and exposed(folder / path):
        note(f"Warning: {path} can be read by others, {who}.")


@dataclass(slots=True)
class Draft:
    """A file that has not got its name yet. meant: that name."""

    meant: Path
    path: Path
    file: BinaryIO
    precious: bool = False

    def keep(self) -> None:
        """From now on what is written so far outlives a crash of the machine, and an interruption. Raises OSError."""
        self.file.flush()
        with draft_of(self.meant):
            os.fsync(self.file.fileno())
        self.precious = True


@contextmanager
def private(path: Path, force: bool) -> Iterator[Draft]:
    """A file, 0600, that appears with its last byte once the body has ended, and not at all if that fails.

    force: it may replace another file. Raises Failure before the body if it must not. What the body has kept stays
    under the name that the reason gives, whatever fails after the body; so does all of it, if it cannot get its name.
    """
    _refuse_taken(path, force)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    draft, done = Draft(path, Path(name), BufferedWriter(_Raw(descriptor, path))), False
    try:
        yield draft
        done = draft.precious  # what it was kept for, which nobody takes back
        draft.keep()
    except Exception as error:
        if done:
            raise _left(draft, error) from error
        draft.path.unlink()
        raise
    except BaseException:
        # Nobody knows whether what the content is for was done: Ctrl-C can come right behind it.
        if draft.precious:
            note(f"Interrupted: what would have been {path} is in {draft.path}.")
        else:
            draft.path.unlink()
        raise
    finally:
        with suppress(OSError):  # it writes what is left, which has failed then before
            draft.file.close()
    try:
        _publish(draft.path, path, force)
    except OSError as error:
        raise _left(draft, error) from error


def _left(draft: Draft, error: Exception) -> Failure:
    """Without what `draft_of` says: something was changed."""
    reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
    return Failure(f"{draft.meant}: {reason}; its content is in {draft.path}")


class _Raw(FileIO):
    """A draft's descriptor, which it closes. meant: what a failure is told with."""

    def __init__(self, descriptor: int, meant: Path) -> None:
        super().__init__(descriptor, "wb")
        self._meant = meant

    def write(self, data: ReadableBuffer, /) -> int:
        with draft_of(self._meant):
            return super().write(data)


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
    sync_folder(path.parent)


# --- for others to read ---------------------------------------------------------------------------------------------


def folder_beside(other: Path, path: Path) -> None:
    """A folder, if there is none yet, for whoever can read that other file. Raises Failure, OSError."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        entrust(descriptor, other)
    finally:
        os.close(descriptor)


def entrust(descriptor: int, other: Path) -> None:
    """Let whoever can read that other file read this one, too, or enter this folder, which is open, and ours.

    That is its owner, whom only root can give something; and its group, if it is not merely the one that its owner's
    files have anyway. Others never can. Raises Failure, OSError.
    """
    like, is_root = other.stat(), os.geteuid() == 0
    grouped = bool(like.st_mode & stat.S_IRGRP) and like.st_gid != _usual_group(like)
    owner, group = (like.st_uid if is_root else -1, like.st_gid if is_root or grouped else -1)
    try:
        os.fchown(descriptor, owner, group)
    except PermissionError:
        reason = "is read by a group that has to be able to read this, too, and that you are not in"
        raise Failure(f"{other}: {reason}") from None
    mode = 0o750 if stat.S_ISDIR(os.fstat(descriptor).st_mode) else 0o640
    os.fchmod(descriptor, mode if grouped else mode & 0o700)


def _usual_group(like: os.stat_result) -> int:
    """Of the owner's files. Where the owner has no account here, this may be the one."""
    try:
        return pwd.getpwuid(like.st_uid).pw_gid
    except KeyError:
        return like.st_gid
