"""Two of one name: ids tell them apart, but no command can name either of them any more, so they have to be meant.

Owns the option that says so, and the refusal without it. It is never taken for both of its meanings at once: a file
that it would replace may hold the key of the one that is there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import click

from gateway.cli.errors import Failure
from gateway.cli.files import STREAM
from gateway.registry.records import Taken

# How many are told: whoever has more has imported a file twice.
_MAX_TOLD: Final = 20

force = click.option(
    "--force", is_flag=True, help="Make another one of a name that is taken; replace a file that is there."
)


@contextmanager
def told_of_namesakes(force: bool, makes: str, out: str | None = None) -> Iterator[bool]:
    """Whether each has to be the only one of its name. makes: what --force does. out: the file that keys go to,
    or the stream.

    Raises Failure where one is not.
    """
    replaces = force and out not in (None, STREAM) and os.path.lexists(out)
    try:
        yield replaces or not force
    except Taken as error:
        more = len(error.lines) - _MAX_TOLD
        lines = [*error.lines[:_MAX_TOLD], *[f"and {more:,} lines more"] * (more > 0)]
        if replaces:
            remedy = f"--force would replace {out}, which may hold a key of what is there: name another file"
        else:
            remedy = f"--force {makes}"
        raise Failure("\n".join(lines) + ("\n" if len(lines) > 1 else "; ") + remedy) from None
