"""The frame of `securegw`: its groups of commands, and the option that all of them share.

Owns how it ends: status 0, 2 when it was called wrongly, and 1 when what was asked could not be done, with one sentence
on standard error that says what and why. Standard output is for results alone.
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from gateway.cli.channel import channel
from gateway.cli.connection import connect, disconnect
from gateway.cli.errors import told
from gateway.cli.settings import Installation
from gateway.cli.thing import thing

NAME = "securegw"


class Frame(click.Group):
    """Says in one sentence what the commands let through."""

    def invoke(self, ctx: click.Context) -> object:
        with told():
            return super().invoke(ctx)


@click.group(NAME, cls=Frame, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-c",
    "--config",
    metavar="INI",
    help="The gateway's configuration. Default: $SECUREGW_CONFIG, else conf/gw.ini, else gw.ini in this folder.",
)
@click.pass_context
def securegw(ctx: click.Context, config: str | None) -> None:
    """Things, the channels that they talk through, and who may do what in which.

    A thing is a device or a program: it has a name, an id, and a secret key that nobody is shown twice. A channel is
    what messages go through. A connection lets one thing publish to one channel, subscribe to it, or both. The gateway
    knows of a change within a second, without a restart.

    \b
    Examples:
      securegw thing create boiler
      securegw channel create heating
      securegw connect boiler heating --no-subscribe
      securegw thing disable boiler
      securegw thing import fleet.csv --keys-out fleet-keys.csv

    \b
    Completion, as a line of ~/.bashrc or ~/.zshrc:
      eval "$(_SECUREGW_COMPLETE=bash_source securegw)"
      eval "$(_SECUREGW_COMPLETE=zsh_source securegw)"
    """
    ctx.obj = Installation(config, os.environ, Path.cwd())


for _command in (thing, channel, connect, disconnect):
    securegw.add_command(_command)


def main() -> None:
    """The entry point: it ends the process."""
    securegw.main(prog_name=NAME)
