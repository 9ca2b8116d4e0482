"""Results on standard output: tables for people, and JSON for programs.

Owns what a record looks like. Everything is UTF-8, whatever the terminal says it speaks (RFC 8259, 8.1).
Refuses to send a terminal what it would obey: names come from wherever things do.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, BinaryIO
from unicodedata import combining, east_asian_width

import click


def printable(text: str) -> str:
    r"""Control characters, changes of direction, and whatever else shows nothing by itself, as escapes like \x1b."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def compact(value: Any) -> str:
    """JSON in one line, which can go to a terminal as it is."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value)


def write(lines: Iterable[str], out: BinaryIO | None = None) -> None:
    """To a file or to standard output; flushed, so that a failure is told here and not when the process ends.

    Raises OSError; what is left of the output is then dropped.
    """
    if out is None:
        if not sys.stdout:
            # Closed by whoever has called us (`>&-`); Python has none then.
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        with _dropping(sys.stdout.buffer) as stdout:
            write(lines, stdout)
        return
    for line in lines:
        out.write(f"{line}\n".encode())
    out.flush()


@contextmanager
def _dropping(stdout: BinaryIO) -> Iterator[BinaryIO]:
    """What could not be written is not tried again at the end of the process, which would fail with a status of its own
    (Python manual, "signal", note on SIGPIPE)."""
    try:
        yield stdout
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stdout.fileno())
        os.close(nowhere)
        raise


def say(text: str) -> None:
    """What was done, where that is the whole result."""
    write([printable(text)])


def note(text: str) -> None:
    """A word for the person beside the result."""
    click.echo(printable(text), err=True)


# --- JSON -----------------------------------------------------------------------------------------------------------


def listed(records: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """One JSON document, with one record in each line, however many there are."""
    yield "["
    held = None
    for one in records:
        if held is not None:
            yield f"{held},"
        held = compact(one)
    if held is not None:
        yield held
    yield "]"


# --- tables ---------------------------------------------------------------------------------------------------------


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Aligned columns below their headings."""
    cells = [[printable(cell) for cell in row] for row in rows]
    return _aligned(list(chain([[heading.upper() for heading in headings]], cells)))


def record(fields: Mapping[str, str]) -> Iterator[str]:
    """One field in each line."""
    return _aligned([[name, printable(text)] for name, text in fields.items()])


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = (cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(padded).rstrip()


def _width(text: str) -> int:
    """In columns of a terminal."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(one) else 2 if east_asian_width(one) in "WF" else 1 for one in text)
