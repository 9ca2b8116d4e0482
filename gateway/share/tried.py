"""One row of a proof: what was tried, what should have come of it, and what did."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """KNOWN: PostgreSQL gives every role that, and no grant takes it away. UNPROVEN: something else went wrong before
    it could be seen."""

    OK = "ok"
    KNOWN = "known"
    LOOSENED = "LOOSENED"
    UNPROVEN = "UNPROVEN"

    @property
    def good(self) -> bool:
        return self in (Verdict.OK, Verdict.KNOWN)


@dataclass(frozen=True, slots=True)
class Tried:
    what: str
    expected: str
    got: str
    verdict: Verdict


def together(what: str, rows: Sequence[Tried]) -> list[Tried]:
    """Those that are not as expected; and one row for all the others, which say the same."""
    good = [row for row in rows if row.verdict is Verdict.OK]
    bad = [row for row in rows if row.verdict is not Verdict.OK]
    if not good:
        return bad
    if len(rows) == 1:
        return good
    got = ", ".join(sorted({row.got for row in good}))
    return [Tried(f"{what} ({len(good)} tried)", good[0].expected, got, Verdict.OK), *bad]


def holds(rows: Iterable[Tried]) -> bool:
    return all(row.verdict.good for row in rows)
