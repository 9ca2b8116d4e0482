"""The list of revoked tokens: a text file that the operator's command writes and that each reload reads.

A line is a `jti`, and optionally, after a tab, the token's `exp` in seconds since the epoch, so that the line can go
once no token of that name could be used anyway. Lines that begin with # are comments. Owns this grammar, and how the
file changes: as a whole, by one writer at a time. Refuses what it cannot read whole, as ValueError with the file and
the line: a line that is not understood could be the one that matters. What is quoted is no secret.
"""

from __future__ import annotations

import errno
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
    """The file behind all links, and it open, held against every other writer.

    By a file beside it, since others may read the list, and whoever reads a file may hold a lock on it for as long as
    he likes. Who may write in its folder can make that lock first, and hold it: then the list is his anyway, because he
    can put another in its place. Raises OSError with the lock's name.
    """
    while True:
        real = path.resolve(strict=True)
        owner = real.stat().st_uid
        if os.geteuid() not in (0, owner):
            raise PermissionError(errno.EPERM, "belongs to another user; run the command as that one", str(real))
        with named_files.alone(real.with_name(f".{real.name}.lock"), owner, named_files.PATIENCE_SECONDS):
            # The link may lead to another list by now. What it leads to may have been replaced, so it is opened here.
            if path.resolve(strict=True) == real:
                with named_files.opened(real) as file:
                    yield real, file
                return


def _replace(path: Path, before: BinaryIO, lines: Sequence[str]) -> None:
    """A reader finds either the old lines or the new ones."""
    if len(lines) > MAX_LINES:
        raise ValueError(f"{path}: would have more than {MAX_LINES} lines")
    content = "".join(f"{line}\n" for line in lines).encode("utf-8")
    if len(content) > MAX_FILE:
        raise ValueError(f"{path}: would be larger than {MAX_FILE} bytes")
    draft, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with named_files.draft_of(path), os.fdopen(draft, "wb") as file:
            _take_over(file.fileno(), os.fstat(before.fileno()))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(name).unlink()
        raise
    named_files.sync_folder(path.parent)


def _take_over(descriptor: int, before: os.stat_result) -> None:
    """The gateway, which may be another user, has to be able to read the new file as it could the old one."""
    made = os.fstat(descriptor)
    if (made.st_uid, made.st_gid) != (before.st_uid, before.st_gid):
        os.fchown(descriptor, before.st_uid, before.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(before.st_mode))
