"""Two of one name: allowed, since ids tell them apart, but seldom meant.

Owns the word about it.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.cli.output import note, printable


def warn_of_namesakes(look: Callable[[str], object], what: str, name: str) -> None:
    """look: finds one by its name. Says so on standard error if there is one, or several, already."""
    from gateway.registry.records import LedgerError, NotFound

    try:
        look(name)
    except NotFound:
        return
    except LedgerError:
        pass  # there are several
    note(f"there is another {what} named {printable(name)} now: only ids tell them apart")
