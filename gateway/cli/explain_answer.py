"""The answer of `securegw explain`, for people and for programs; and its status."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from gateway.cli.output import compact, note, record, write

if TYPE_CHECKING:
    from gateway.inspection.explanation import Explanation

_LABELS: Final = {"let_in_by": "let in by"}


def answer(explanation: Explanation, path: Path, as_json: bool) -> None:
    """Ends the command with status 1 if nobody would be let in. path: the INI."""
    write([compact(_fields(explanation, path))] if as_json else _page(explanation, path))
    if not as_json:
        for one in explanation.notes:
            note(f"Note: {one}")
    if not explanation.allowed:
        click.get_current_context().exit(1)


def _page(explanation: Explanation, path: Path) -> Iterator[str]:
    yield "allowed" if explanation.allowed else "not allowed"
    found = {"listener": f"[{explanation.listener}]"}
    # A rule that denies is the reason already.
    if explanation.reason is not None and explanation.rule is None:
        found["reason"] = explanation.reason
    if explanation.rule is not None:
        found["decided by"] = f"{path} {explanation.rule}"
        if explanation.reason is not None and explanation.rule not in explanation.reason:
            found["reason"] = explanation.reason
    found |= {_LABELS.get(name, name): text for name, text in explanation.details.items()}
    yield from record(found)


def _fields(explanation: Explanation, path: Path) -> dict[str, Any]:
    return {
        "allowed": explanation.allowed,
        "listener": explanation.listener,
        "reason": explanation.reason,
        "file": str(path),
        "rule": explanation.rule,
        **explanation.details,
        "notes": list(explanation.notes),
    }
