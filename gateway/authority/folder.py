"""The authority's folder: one command at a time, and all files of a change or none.

Owns the lock and the order of writes. A change is written whole into a folder beside (`.next`), which gets its other
name (`.ready`) in one step: before that nothing has happened, and after it everything has, even if the machine goes
down, since whoever comes next moves the rest to its place before anything else.

Refuses a folder that belongs to somebody else or that others can write in: they could put links where files will be.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.authority.errors import AuthorityError
from gateway.named_files import PATIENCE_SECONDS, alone, draft_of, sync_folder

_LOCK: Final = ".lock"
_NEXT: Final = ".next"
_READY: Final = ".ready"

_OTHERS_WRITE: Final = 0o022
_OTHERS: Final = 0o077

PRIVATE: Final = 0o600
PUBLIC: Final = 0o644

# Of those that are certificates, keys or lists; the index has its own.
_MAX_FILE: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Content:
    """A file that is to be there. mode: whatever the umask."""

    data: bytes
    mode: int = PUBLIC


def make(path: Path) -> None:
    """A folder for an authority, where none is yet. Raises AuthorityError, OSError."""
    if not path.parent.is_dir():
        raise AuthorityError(f"{path.parent}: there is no such folder")
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
        sync_folder(path.parent)
    if path.is_dir() and path.stat().st_mode & _OTHERS:
        raise AuthorityError(f"{path}: others can look into it; change that first: chmod 700 {path}")


@contextmanager
def locked(path: Path, patience: float = PATIENCE_SECONDS) -> Iterator[Folder]:
    """That folder, with what a command that was cut off had decided put in its place. patience: seconds.

    Raises AuthorityError, OSError.
    """
    _refuse_foreign(path)
    with alone(path / _LOCK, os.geteuid(), patience):
        folder = Folder(path)
        folder.recover()
        yield folder


def _refuse_foreign(path: Path) -> None:
    if not path.is_dir():
        raise AuthorityError(f"{path}: there is no such folder; `securegw pki ca` makes one with a CA in it")
    status = path.stat()
    if status.st_uid != os.geteuid():
        raise AuthorityError(f"{path}: belongs to another user; run the command as that one")
    if status.st_mode & _OTHERS_WRITE:
        raise AuthorityError(f"{path}: others can write in it; change that first: chmod 700 {path}")


@dataclass(frozen=True, slots=True)
class Folder:
    """While it is locked."""

    path: Path

    def has(self, name: str) -> bool:
        """Whether anything is called so, a dangling link too."""
        return os.path.lexists(self.path / name)

    def read(self, name: str, limit: int = _MAX_FILE) -> bytes:
        """Raises AuthorityError for a file that is larger, and OSError."""
        with (self.path / name).open("rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise AuthorityError(f"{self.path / name}: is larger than {limit} bytes")
        return data

    def commit(self, files: Mapping[str, Content]) -> None:
        """All of them, in place of whatever has their names. Raises AuthorityError and OSError, and then either nothing
        has happened, or the reason says that it will."""
        for name in files:
            if (self.path / name).is_dir():
                raise AuthorityError(f"{self.path / name}: is a folder")
        try:
            (self.path / _NEXT).mkdir(mode=0o700)
            for name, content in files.items():
                with draft_of(self.path / name):
                    _write(self.path / _NEXT / name, content)
            sync_folder(self.path / _NEXT)
            (self.path / _NEXT).rename(self.path / _READY)
        except BaseException:
            shutil.rmtree(self.path / _NEXT, ignore_errors=True)
            raise
        try:
            sync_folder(self.path)
            self._finish()
        except OSError as error:
            raise AuthorityError(
                f"{error.filename or self.path}: {error.strerror}; what was asked is decided, and the next command "
                "puts the files in their place"
            ) from error

    def recover(self) -> None:
        """Raises OSError."""
        shutil.rmtree(self.path / _NEXT, ignore_errors=True)
        if (self.path / _READY).is_dir():
            self._finish()

    def _finish(self) -> None:
        for path in sorted((self.path / _READY).iterdir()):
            path.replace(self.path / path.name)
        sync_folder(self.path)
        (self.path / _READY).rmdir()


def _write(path: Path, content: Content) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), content.mode)
        file.write(content.data)
        file.flush()
        os.fsync(file.fileno())
