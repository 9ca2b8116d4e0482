"""What is in a page of docs/: its fenced blocks, each with what a reader does with it.

Owns the page's grammar; tests/docs/walk.py follows it. A block's info string says its kind:

    sh              typed into the reader's terminal, and it succeeds
    sh refused      typed into it, and it ends with an error, as the page says
    sh background   typed into another terminal in the same folder, where it goes on
    text            what the reader sees after the block above; … stands for anything, alone in a line for any lines
    text background what he sees by now in the last of the other terminals
    LANGUAGE FILE   the reader writes it to that file, whose name is in the text above, too
    LANGUAGE example  nobody runs or writes it

Refuses every other block, blocks within lists, and code that is indented instead of fenced: nobody would follow those.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Final

DOCS: Final = Path(__file__).parents[2] / "docs"

_FENCE: Final = re.compile(r"^```(.*)$")
_INDENTED: Final = re.compile(r"^ {4,}\S|^\t|^ +```")
_FILE: Final = re.compile(r"[a-z]+ (?P<name>[A-Za-z0-9_-][A-Za-z0-9_./-]*\.[a-z]+)")
_EXAMPLE: Final = re.compile(r"[a-z]+ example")


class Kind(Enum):
    RUN = auto()
    REFUSED = auto()
    BACKGROUND = auto()
    SEEN = auto()
    SEEN_THERE = auto()
    FILE = auto()
    EXAMPLE = auto()


_KINDS: Final = {
    "sh": Kind.RUN,
    "sh refused": Kind.REFUSED,
    "sh background": Kind.BACKGROUND,
    "text": Kind.SEEN,
    "text background": Kind.SEEN_THERE,
}


class BadPage(Exception):
    """Nobody could follow it; says where and why."""


@dataclass(frozen=True, slots=True)
class Block:
    """line: of its opening fence, from 1. file: what it is written to. said: the text between the one before and it."""

    page: str
    line: int
    kind: Kind
    language: str
    text: str
    file: str
    said: str

    def __str__(self) -> str:
        return f"{self.page}, line {self.line}"


def pages() -> list[str]:
    return sorted(path.name for path in DOCS.glob("*.md"))


def text_of(page: str) -> str:
    return (DOCS / page).read_text("utf-8")


def blocks(page: str, text: str) -> list[Block]:
    """In their order. Raises BadPage."""
    found: list[Block] = []
    said: list[str] = []
    inside: list[str] | None = None
    info, begun = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        fence = _FENCE.match(line)
        if inside is not None:
            if fence is None:
                inside.append(f"{line}\n")
                continue
            found.append(_block(page, begun, info, "".join(inside), "\n".join(said)))
            said, inside = [], None
        elif fence is not None:
            info, begun, inside = fence[1], number, []
        elif _INDENTED.match(line):
            raise BadPage(f"{page}, line {number}: indented code, which nobody follows")
        else:
            said.append(line)
    if inside is not None:
        raise BadPage(f"{page}, line {begun}: a block without an end")
    _check_order(found)
    return found


def _block(page: str, line: int, info: str, text: str, said: str) -> Block:
    place, language, name = f"{page}, line {line}", info.partition(" ")[0], ""
    if info in _KINDS:
        kind = _KINDS[info]
    elif _EXAMPLE.fullmatch(info):
        kind = Kind.EXAMPLE
    elif file := _FILE.fullmatch(info):
        kind, name = Kind.FILE, file["name"]
        if f"`{name}`" not in said:
            raise BadPage(f"{place}: the text above does not say that it is for `{name}`")
    else:
        raise BadPage(f"{place}: a block of an unknown kind: {info!r}")
    return Block(page, line, kind, language, text, name, said)


def _check_order(found: list[Block]) -> None:
    speaking = {Kind.RUN, Kind.REFUSED, Kind.BACKGROUND}
    for index, block in enumerate(found):
        before = [one.kind for one in found[:index]]
        if block.kind is Kind.SEEN and not (before and before[-1] in speaking):
            raise BadPage(f"{block}: output of what?")
        if block.kind is Kind.SEEN_THERE and Kind.BACKGROUND not in before:
            raise BadPage(f"{block}: output of what?")
