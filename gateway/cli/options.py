"""What several commands ask in the same way."""

from __future__ import annotations

import sys

import click

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")

key_file = click.option(
    "--key-file",
    metavar="FILE",
    help="The secret key is the one line of FILE (- is standard input), instead of a random one.",
)

yes = click.option("--yes", is_flag=True, help="Do not ask; required where there is no terminal to ask on.")

force = click.option("--force", is_flag=True, help="Replace a file that is there.")


def confirm(question: str, yes: bool) -> None:
    """Goes on only if the person agrees. Raises UsageError if there is nobody to ask, and Abort."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("say --yes: there is no terminal to ask on")
    click.confirm(question, abort=True, err=True)
