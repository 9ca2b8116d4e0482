"""`securegw connect` and `securegw disconnect`: what a thing may do in a channel."""

from __future__ import annotations

import click

from gateway.cli.options import as_json
from gateway.cli.output import compact, say, write
from gateway.cli.records import connection_fields
from gateway.cli.settings import Installation


@click.command()
@click.argument("thing")
@click.argument("channel")
@click.option("--no-publish", is_flag=True, help="It may only listen.")
@click.option("--no-subscribe", is_flag=True, help="It may only send.")
@as_json
@click.pass_obj
def connect(
    installation: Installation, thing: str, channel: str, no_publish: bool, no_subscribe: bool, as_json: bool
) -> None:
    """Let a thing use a channel.

    Both are ids, or names that only one has. Where they are connected already, what the thing may do becomes what is
    said here.

    \b
    Examples:
      securegw connect boiler heating
      securegw connect boiler heating --no-subscribe
    """
    if no_publish and no_subscribe:
        raise click.UsageError("a thing that may do neither is not connected: use securegw disconnect")
    with installation.ledger() as ledger:
        made = ledger.connect(thing, channel, publish=not no_publish, subscribe=not no_subscribe)
    if as_json:
        write([compact(connection_fields(made))])
    else:
        may = " and ".join(["publish"] * made.publish + ["subscribe"] * made.subscribe)
        say(f"{thing} may {may} in {channel}.")


@click.command()
@click.argument("thing")
@click.argument("channel")
@as_json
@click.pass_obj
def disconnect(installation: Installation, thing: str, channel: str, as_json: bool) -> None:
    """Take a channel from a thing.

    Its live sessions end within a second, on every gateway.
    """
    with installation.ledger() as ledger:
        gone = ledger.disconnect(thing, channel)
    if as_json:
        write([compact(connection_fields(gone))])
    else:
        say(f"{thing} has no part in {channel} any more.")
