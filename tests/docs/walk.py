"""A reader who follows a page of docs/ to the letter: types its commands, writes its files, and sees what it says.

Of what a page says one thing alone is changed, **ports**: each number that stands behind a `:` or `-p ` somewhere in
its blocks is a free port instead, the same wherever it occurs, so that it can be followed where something listens
already; or the port of a server that the page presupposes, which the test of that page has given. All else is as it
stands there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.docs.pages import Block, Kind, blocks, text_of
from tests.docs.terminals import Running, Shell
from tests.servers import free_port

_PORT: Final = re.compile(r"(?::|-p )([1-9][0-9]{3,4})\b")
_NUMBER: Final = re.compile(r"(?<![0-9A-Za-z.])[1-9][0-9]{3,4}(?![0-9A-Za-z])")


@dataclass(slots=True)
class Reader:
    """His folder is fresh, but for what a page presupposes.

    notes: a folder that he does not see. environ: of his terminals. ports: of servers that are there, by the port in
    the page.
    """

    folder: Path
    notes: Path
    environ: dict[str, str]
    ports: dict[str, int] = field(default_factory=dict)

    def follow(self, page: str) -> None:
        self.walk(blocks(page, text_of(page)))

    def walk(self, found: list[Block]) -> None:
        """Fails where it goes otherwise than the page says."""
        _Walk(self, found).go()


class _Walk:
    def __init__(self, reader: Reader, found: list[Block]) -> None:
        self._reader, self._blocks = reader, found
        self._ports = {number: free_port() for block in found for number in _ports_in(block)}
        self._ports |= reader.ports
        self._shell = Shell.opened(reader.folder, reader.notes, reader.environ)
        self._running: list[tuple[Block, Running]] = []
        # What the block before printed; None: it goes on.
        self._printed: str | None = None

    def go(self) -> None:
        steps = {
            Kind.RUN: self._type,
            Kind.REFUSED: self._type,
            Kind.BACKGROUND: self._start,
            Kind.SEEN: self._look,
            Kind.SEEN_THERE: self._look_there,
            Kind.FILE: self._write,
            Kind.EXAMPLE: lambda _: None,
        }
        try:
            for block in self._blocks:
                steps[block.kind](block)
        finally:
            self._leave()
        for block, one in self._running:
            assert "Traceback" not in one.said(), f"{block}:\n{one.said()}"

    def _leave(self) -> None:
        """All are told before one is waited for: gateways take their time."""
        for _, one in self._running:
            one.stop()
        self._shell.close()
        for _, one in self._running:
            one.close()

    # --- steps ------------------------------------------------------------------------------------------------------

    def _write(self, block: Block) -> None:
        path = self._reader.folder / block.file
        path.parent.mkdir(exist_ok=True)
        path.write_text(self._here(block), "utf-8")

    def _type(self, block: Block) -> None:
        name = f"line-{block.line}"
        expected, self._printed = self._shell.type(self._here(block), name, refused=block.kind is Kind.REFUSED)
        assert expected, f"{block}: it went otherwise:\n{block.text}\n{self._printed}\n{self._others()}"

    def _start(self, block: Block) -> None:
        one = Running.started(self._here(block), self._reader.folder, self._reader.environ)
        self._running.append((block, one))
        self._printed = None
        if self._next_is_seen(block):
            return
        assert one.listens(), f"{block}: it does not listen:\n{one.said()}"

    def _next_is_seen(self, block: Block) -> bool:
        after = self._blocks[self._blocks.index(block) + 1 :]
        return bool(after) and after[0].kind is Kind.SEEN

    def _look(self, block: Block) -> None:
        if self._printed is None:
            self._look_there(block)
            return
        expected = pattern(self._here(block))
        assert re.fullmatch(expected, self._printed), f"{block}: seen was\n{self._printed}\n{self._others()}"

    def _look_there(self, block: Block) -> None:
        _, one = self._running[-1]
        expected = re.compile(f"^{pattern(self._here(block))}", re.MULTILINE)
        assert one.saw(expected), f"{block}: seen was\n{one.said()}\n{self._others()}"

    # --- the page, here ---------------------------------------------------------------------------------------------

    def _here(self, block: Block) -> str:
        return _NUMBER.sub(lambda number: str(self._ports.get(number[0], number[0])), block.text)

    def _others(self) -> str:
        return "".join(f"--- {block}\n{one.said()}" for block, one in self._running)


def _ports_in(block: Block) -> list[str]:
    return [] if block.kind is Kind.EXAMPLE else _PORT.findall(block.text)


def pattern(text: str) -> str:
    """What matches the output that is shown; spaces at the ends of lines do not count."""
    lines = [r"(?:.*\n)*" if line == "…" else _line(line) for line in text.splitlines()]
    return "".join(lines)


def _line(line: str) -> str:
    return ".*".join(re.escape(part) for part in line.rstrip().split("…")) + r" *\n"
