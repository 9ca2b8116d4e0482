"""The list of revoked tokens: a text file that the operator's command writes and that each reload reads.

A line is a `jti`, and optionally, after a tab, the token's `exp` in seconds since the epoch, so that the line can go
once no token of that name could be used anyway. Lines that begin with # are comments. Owns this grammar, and how the
file changes: as a whole, by one writer at a time. Refuses what it cannot read whole, as ValueError with the file and
the line: a line that is not understood could be the one that matters. What is quoted is no secret.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from gateway import named_files
from gateway.tokens import MAX_DATE, check_jti

MAX_LINES: Final = 1_000_000

# Some 128 bytes a line, where one with a UUID and a date has 48.
MAX_FILE: Final = 128 * 1024 * 1024

# A clock may be set back and a listener may keep sessions beyond `exp`: nobody needs a line to go in time.
_MARGIN: Final = 7 * 86_400

_LINE: Final = re.compile(r"(?P<jti>[^\t]+)(?:\t(?P<exp>[0-9]{1,12}))?")

# A line that needs no closer look, once it is known that all that is in it can be seen: a jti of `check_jti`, short
# enough whatever its letters are (a quarter of MAX_JTI), without exp or with one of before the year 5138; a comment; or
# nothing.
_PLAIN: Final = re.compile(r"""^(?:([^\t\n #,;"']{1,256}+)(?:\t[0-9]{1,11}+)?|#.*|)$""", re.MULTILINE)


def read(path: Path) -> frozenset[str]:
    """Every `jti` in that file. Raises ValueError, OSError.

    The gateway stands still meanwhile, so a list of the usual kind is taken apart in one go.
    """
    with named_files.opened(path) as file:
        text = _text(path, file)
    found = _PLAIN.findall(text)
    if len(found) == text.count("\n") + 1 and "".join(found).isprintable():
        return frozenset(filter(None, found))
    return frozenset(entry[0] for _, entry in _lines(path, text) if entry is not None)


def add(path: Path, jti: str, expires: int | None, now: float, leeway: float = 0) -> bool:
    """Revoke a token; False if it was already. Lines that no token can need any more go.

    now, expires: seconds since the epoch; None: the line stays for ever. A line that is there already stays for the
    longer of the two. leeway: the largest that a verifier grants. The file has to be there, and keeps its owner and
    mode. Raises ValueError, OSError; it is then as it was.
    """
    check_jti(jti)
    if expires is not None and not 0 <= expires <= MAX_DATE:
        raise ValueError("exp is not a date")
    with _locked(path) as (real, file):
        lines = list(_lines(path, _text(path, file)))
        known = [entry[1] for _, entry in lines if entry is not None and entry[0] == jti]
        if any(until is None or (expires is not None and expires <= until) for until in known):
            return False
        limit = now - leeway - _MARGIN
        kept = [line for line, entry in lines if entry is None or not (entry[0] == jti or _past(entry, limit))]
        added = jti if expires is None else f"{jti}\t{expires}"
        _replace(real, file, [*kept, added])
        return not known


# --- reading --------------------------------------------------------------------------------------------------------

Entry = tuple[str, int | None]


def _text(path: Path, file: BinaryIO) -> str:
    content = named_files.content(file, MAX_FILE)
    if content.count(b"\n") + (not content.endswith(b"\n")) > MAX_LINES:
        raise ValueError(f"{path}: has more than {MAX_LINES} lines")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {number}: is not UTF-8") from None


def _lines(path: Path, text: str) -> Iterator[tuple[str, Entry | None]]:
    """Each as it is, and what it says; comments and empty ones say nothing."""
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else (), 1):
        try:
            yield line, _entry(line) if line and not line.startswith("#") else None
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None


def _entry(line: str) -> Entry:
    found = _LINE.fullmatch(line)
    if found is None:
        raise ValueError("is not a jti, or a jti, a tab and its exp in seconds since the epoch")
    check_jti(found["jti"])
    expires = None if found["exp"] is None else int(found["exp"])
    if expires is not None and expires > MAX_DATE:
        raise ValueError("has an exp that is not a date")
    return found["jti"], expires


def _past(entry: Entry, limit: float) -> bool:
    return entry[1] is not None and entry[1] < limit


# --- writing --------------------------------------------------------------------------------------------------------


@contextmanager
def _locked(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """The file behind all links, and it open, held against every other writer."""
    while True:
        real = path.resolve(strict=True)
        with named_files.opened(real) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(file.fileno()), real.stat()):
                yield real, file
                return
        # While we waited, the file before us was replaced by the one that is meant now.


def _replace(path: Path, before: BinaryIO, lines: Sequence[str]) -> None:
    """A reader finds either the old lines or the new ones."""
    if len(lines) > MAX_LINES:
        raise ValueError(f"{path}: would have more than {MAX_LINES} lines")
    content = "".join(f"{line}\n" for line in lines).encode("utf-8")
    if len(content) > MAX_FILE:
        raise ValueError(f"{path}: would be larger than {MAX_FILE} bytes")
    draft, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(draft, "wb") as file:
            _take_over(file.fileno(), os.fstat(before.fileno()))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(name).unlink()
        raise
    _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _take_over(descriptor: int, before: os.stat_result) -> None:
    """The gateway, which may be another user, has to be able to read the new file as it could the old one."""
    made = os.fstat(descriptor)
    if (made.st_uid, made.st_gid) != (before.st_uid, before.st_gid):
        os.fchown(descriptor, before.st_uid, before.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(before.st_mode))
