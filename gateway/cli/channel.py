"""`securegw channel`: what messages go through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from gateway.cli.namesakes import told_of_namesakes
from gateway.cli.options import as_json, confirm, yes
from gateway.cli.output import compact, listed, printable, record, say, write
from gateway.cli.records import channel_fields, channel_page, channel_table, other_end
from gateway.cli.settings import Installation

if TYPE_CHECKING:
    from gateway.registry.ledger import ChannelRecord, Ledger


@click.group()
def channel() -> None:
    """Channels, through which things talk.

    CHANNEL is an id, or a name that only one channel has.
    """


@channel.command()
@click.argument("name")
@click.option("--id", "uuid", metavar="UUID", help="Its id, instead of a random one.")
@click.option("--force", is_flag=True, help="Make another one of a name that is taken.")
@as_json
@click.pass_obj
def create(installation: Installation, name: str, uuid: str | None, force: bool, as_json: bool) -> None:
    """Make a channel, to which nobody is connected yet."""
    with installation.ledger() as ledger, told_of_namesakes(force, "makes another one of that name") as alone:
        made = ledger.create_channel(name, id=uuid, alone=alone)
    write([compact(channel_fields(made))] if as_json else record({"id": made.id, "name": made.name}))


@channel.command("list")
@click.option("--thing", metavar="THING", help="Only those that this thing is connected to.")
@as_json
@click.pass_obj
def list_(installation: Installation, thing: str | None, as_json: bool) -> None:
    """List channels."""
    with installation.ledger() as ledger:
        found = ledger.channels(thing=thing)
        write(listed(map(channel_fields, found)) if as_json else channel_table(found))


@channel.command()
@click.argument("channel")
@as_json
@click.pass_obj
def show(installation: Installation, channel: str, as_json: bool) -> None:
    """Show a channel, and the things that are connected to it."""
    with installation.ledger() as ledger:
        found = ledger.channel(channel)
        connected = _connected(ledger, found)
    write([compact(channel_fields(found) | {"things": connected})] if as_json else channel_page(found, connected))


@channel.command()
@click.argument("channel")
@yes
@as_json
@click.pass_obj
def delete(installation: Installation, channel: str, yes: bool, as_json: bool) -> None:
    """Delete a channel for good: its things lose it at once."""
    with installation.ledger() as ledger:
        found = ledger.channel(channel)
        connections = sum(1 for _ in ledger.connections(channel=found.id))
        confirm(f"Delete the channel {printable(found.name)} ({found.id}), connections: {connections}?", yes)
        gone = ledger.delete_channel(found.id)
    if as_json:
        write([compact(channel_fields(gone))])
    else:
        say(f"The channel {gone.name} ({gone.id}) is deleted.")


def _connected(ledger: Ledger, found: ChannelRecord) -> list[dict[str, Any]]:
    names = {one.id: one.name for one in ledger.things(channel=found.id)}
    return [other_end(one.thing, names.get(one.thing, ""), one) for one in ledger.connections(channel=found.id)]
