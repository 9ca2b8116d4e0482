"""The frame of `securegw`: its groups of commands, and the option that all of them share.

Owns how it ends: status 0, 2 when it was called wrongly, and 1 when what was asked could not be done, with one sentence
on standard error that says what and why. Standard output is for results alone.
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from gateway.cli.channel import channel
from gateway.cli.check import check
from gateway.cli.connection import connect, disconnect
from gateway.cli.errors import told
from gateway.cli.explain import explain
from gateway.cli.pki import pki
from gateway.cli.sessions import sessions
from gateway.cli.settings import Installation
from gateway.cli.share import share
from gateway.cli.thing import thing
from gateway.cli.token import token

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
@click.version_option(package_name=NAME)
@click.pass_context
def securegw(ctx: click.Context, config: str | None) -> None:
    """What a gateway's operator does: certificates, tokens, things and shares, and a look at what it decides.

    All of it is about the gateway of one configuration, and each command says with --help what it takes, with
    examples. What takes something away (revoke, disable, kill) ends the live sessions that it concerns.

    \b
    Examples:
      securegw pki ca && securegw pki server --dns gateway.example
      securegw token issue --key issuer.key --sub alice --ttl 8h
      securegw thing create boiler --key-out boiler.secret
      securegw check
      securegw sessions list

    \b
    Completion, as a line of ~/.bashrc or ~/.zshrc:
      eval "$(_SECUREGW_COMPLETE=bash_source securegw)"
      eval "$(_SECUREGW_COMPLETE=zsh_source securegw)"
    """
    ctx.obj = Installation(config, os.environ, Path.cwd())


for _command in (thing, channel, connect, disconnect, pki, token, share, check, explain, sessions):
    securegw.add_command(_command)


def main() -> None:
    """The entry point: it ends the process."""
    securegw.main(prog_name=NAME)
