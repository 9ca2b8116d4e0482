"""What the layers below raise, as the one sentence that a person is told.

Owns the way from an exception to standard error. Refuses to show a character that a terminal would obey.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from gateway.cli.output import printable
from gateway.errors import ConfigError


class Failure(click.ClickException):
    """What was asked could not be done, and why: status 1."""

    def __init__(self, reason: str) -> None:
        super().__init__("\n".join(map(printable, reason.split("\n"))))


@contextmanager
def told() -> Iterator[None]:
    """Raises Failure for what can go wrong with the configuration and with files."""
    try:
        yield
    except BrokenPipeError:
        raise  # whoever read our output has had enough, which is no mistake: click ends without a word
    except ConfigError as error:
        raise Failure(f"the configuration cannot be used:\n{error}") from error
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        raise Failure(f"{name}{error.strerror or error}") from error
