"""The files that a configuration names: each is opened in a way that cannot make the gateway wait for somebody.

Owns that way, for the INI itself and for certificates, keys, secrets and lists; and what whoever writes such a file
needs, so that it lasts, so that nobody else does at the same time, and so that a full disk is told with its name.
Refuses, as OSError with the file's name, what is no regular file (a pipe holds up whoever opens it until somebody
writes to it, and a device may never end), what is larger than its reader has use for, and a lock that somebody else
could hold.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

# Where the reader knows no bound of its own. A bundle of every authority that browsers trust has a quarter of a MiB.
MAX_FILE: Final = 16 * 1024 * 1024

# Another command takes a second, with a passphrase and RSA; a script may start several at once.
PATIENCE_SECONDS: Final = 10.0
_PAUSE_SECONDS: Final = 0.05

_OTHERS: Final = 0o077


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


@contextmanager
def draft_of(path: Path) -> Iterator[None]:
    """The body writes what will take the place of that file, which is as it was until then. Raises OSError, which says
    so: that of a full disk has no name by itself, because write(2) knows none."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        reason = f"{os.strerror(error.errno)}; nothing was changed"
        raise OSError(error.errno, reason, os.fspath(path)) from error


@contextmanager
def alone(lock: Path, owner: int, patience: float) -> Iterator[None]:
    """Nobody else is in such a body with that lock: a file for nothing else, which is made and stays.

    owner: whose it is to be, where root makes it. patience: seconds. Raises OSError with the lock's name, TimeoutError
    if somebody holds it for longer. It is for that user alone, because whoever can open a file can hold it for ever,
    and it is open for writing, without which another host's lock would not count where the folder is on NFS (flock(2)).

    What is there already is never given to the owner: whose folder it is can move any file of root's in there to that
    place, and one that is empty can be somebody's draft.
    """
    deadline, held = time.monotonic() + patience, False
    while not held:
        descriptor, made = _opened_lock(lock)
        try:
            with _named(lock):
                _refuse_foreign(descriptor, lock, owner)
                if made:
                    _give(descriptor, owner)
                _wait(descriptor, lock, deadline)
                # Of one that was removed while we waited, whoever comes next makes another.
                held = _still(descriptor, lock)
            if held:
                yield
        finally:
            os.close(descriptor)


def _opened_lock(lock: Path) -> tuple[int, bool]:
    """Its descriptor, and whether there was none before. Raises OSError."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    while True:
        try:
            return os.open(lock, flags | os.O_CREAT | os.O_EXCL, 0o600), True
        except FileExistsError:
            with suppress(FileNotFoundError):  # it was removed meanwhile
                return os.open(lock, flags), False


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """What fails of an open file has its name, which the call does not know. Raises OSError."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def _refuse_foreign(descriptor: int, lock: Path, owner: int) -> None:
    found, user = os.fstat(descriptor), os.geteuid()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "is not a file, so it is no lock; remove it", str(lock))
    if found.st_size or found.st_nlink > 1:
        raise OSError(errno.EINVAL, "is not empty, or has another name, so it is no lock; remove it", str(lock))
    if found.st_uid not in (user, owner):
        reason = f"is a lock of user {found.st_uid}, who could hold it for ever; remove it"
        raise PermissionError(errno.EPERM, reason, str(lock))
    if found.st_mode & _OTHERS:
        reason = "is a lock that others can open, and so hold for ever; chmod 600, or remove it"
        raise PermissionError(errno.EPERM, reason, str(lock))


def _give(descriptor: int, owner: int) -> None:
    if os.fstat(descriptor).st_uid != owner:
        os.fchown(descriptor, owner, -1)


def _wait(descriptor: int, lock: Path, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                reason = "another command holds this lock; try again when that has ended"
                raise TimeoutError(errno.ETIMEDOUT, reason, str(lock)) from None
            time.sleep(_PAUSE_SECONDS)
        else:
            return


def _still(descriptor: int, lock: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), lock.lstat())
    except FileNotFoundError:
        return False


def sync_folder(path: Path) -> None:
    """What files are called in there outlives a crash of the machine from now on. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _at_once(path: str, flags: int) -> int:
    """Without O_NONBLOCK a pipe would be waited for, and without O_NOCTTY a terminal could become ours (open(2))."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
