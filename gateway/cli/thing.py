"""`securegw thing`: devices and programs, one at a time; `bulk` has many at once."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli import namesakes
from gateway.cli.bulk import export, import_
from gateway.cli.errors import Failure
from gateway.cli.files import STREAM, private, read_key
from gateway.cli.options import as_json, confirm, force, key_file, yes
from gateway.cli.output import compact, listed, note, printable, record, say, write
from gateway.cli.records import other_end, refuse_terminal, thing_fields, thing_page, thing_table
from gateway.cli.settings import Installation
from gateway.cli.strict_json import json_object

if TYPE_CHECKING:
    from gateway.registry.ledger import Ledger, ThingRecord


key_out = click.option(
    "--key-out", metavar="FILE", help="Write the new key to this file (0600), not to standard output (-)."
)


@click.group()
def thing() -> None:
    """Things: devices and programs with a secret key.

    THING is an id, or a name that only one thing has.
    """


@thing.command()
@click.argument("name")
@click.option("--id", "uuid", metavar="UUID", help="Its id, instead of a random one.")
@key_file
@key_out
@namesakes.force
@click.option("--metadata", metavar="JSON", default="{}", help="A JSON object of your own, kept with it.")
@as_json
@click.pass_obj
def create(
    installation: Installation,
    name: str,
    uuid: str | None,
    key_file: str | None,
    key_out: str | None,
    force: bool,
    metadata: str,
    as_json: bool,
) -> None:
    """Make a thing, and print its key, this once.

    The key goes to a file or a pipe, but not to a terminal.

    \b
    Examples:
      securegw thing create boiler --key-out boiler.secret
      securegw thing create boiler --metadata '{"room": "cellar"}' --key-out FILE
      securegw thing create boiler --json | jq -r .key
      securegw thing create boiler --key-file - < boiler.secret
    """
    try:
        about = json_object(metadata)
    except ValueError as error:
        raise click.BadParameter(f"{error}", param_hint="--metadata") from None

    def make(key: str | None) -> tuple[ThingRecord, str]:
        with (
            installation.ledger() as ledger,
            namesakes.told_of_namesakes(force, "makes another one of that name", key_out) as alone,
        ):
            return ledger.create_thing(name, id=uuid, key=key, metadata=about, alone=alone)

    _with_key(make, "was made, but its key", key_file, key_out, force, as_json)


@thing.command("list")
@click.option("--channel", metavar="CHANNEL", help="Only those that are connected to this channel.")
@as_json
@click.pass_obj
def list_(installation: Installation, channel: str | None, as_json: bool) -> None:
    """List things."""
    with installation.ledger() as ledger:
        found = ledger.things(channel=channel)
        write(listed(map(thing_fields, found)) if as_json else thing_table(found))


@thing.command()
@click.argument("thing")
@as_json
@click.pass_obj
def show(installation: Installation, thing: str, as_json: bool) -> None:
    """Show a thing, and the channels that it is connected to.

    Rules and the audit call it by its id where channels or MQTT are served, and by what stands at "known as" where a
    certificate that carries its key is shown for another route.
    """
    with installation.ledger() as ledger:
        found = ledger.thing(thing)
        connected = _connected(ledger, found)
    write([compact(thing_fields(found) | {"channels": connected})] if as_json else thing_page(found, connected))


@thing.command()
@click.argument("thing")
@as_json
@click.pass_obj
def disable(installation: Installation, thing: str, as_json: bool) -> None:
    """Let a thing in no more.

    Its live sessions end within a second, on every gateway. Nothing of it is forgotten.
    """
    _set_enabled(installation, thing, False, as_json)


@thing.command()
@click.argument("thing")
@as_json
@click.pass_obj
def enable(installation: Installation, thing: str, as_json: bool) -> None:
    """Let a thing in again."""
    _set_enabled(installation, thing, True, as_json)


@thing.command("rotate-key")
@click.argument("thing")
@key_file
@key_out
@force
@as_json
@click.pass_obj
def rotate_key(
    installation: Installation, thing: str, key_file: str | None, key_out: str | None, force: bool, as_json: bool
) -> None:
    """Give a thing another key, and print it, this once.

    It goes to a file or a pipe, but not to a terminal. Its old key counts no more, nor do certificates that carry it;
    its live sessions end.
    """

    def change(key: str | None) -> tuple[ThingRecord, str]:
        with installation.ledger() as ledger:
            return ledger.rotate_key(thing, key)

    one = _with_key(change, "has a new key, but it", key_file, key_out, force, as_json)
    file = next((one for one in (key_out, key_file) if one and one != STREAM), "FILE")
    follows = shlex.join(("securegw", "pki", "thing", one.name, "--key-file", file, "--force"))
    note(f"If its certificate carries its key (cn = key), it needs a new one: {follows}")


@thing.command()
@click.argument("thing")
@yes
@as_json
@click.pass_obj
def delete(installation: Installation, thing: str, yes: bool, as_json: bool) -> None:
    """Delete a thing for good: its live sessions end."""
    with installation.ledger() as ledger:
        found = ledger.thing(thing)
        connections = sum(1 for _ in ledger.connections(thing=found.id))
        confirm(f"Delete the thing {printable(found.name)} ({found.id}), connections: {connections}?", yes)
        gone = ledger.delete_thing(found.id)
    if as_json:
        write([compact(thing_fields(gone))])
    else:
        say(f"The thing {gone.name} ({gone.id}) is deleted.")


thing.add_command(import_)
thing.add_command(export)


def _with_key(
    change: Callable[[str | None], tuple[ThingRecord, str]],
    became: str,
    key_file: str | None,
    key_out: str | None,
    force: bool,
    as_json: bool,
) -> ThingRecord:
    """change: makes the registry know that key, or a new one, which it answers with the thing. became: the thing, where
    the key is lost."""
    if key_file is not None and key_out is not None:
        raise click.UsageError("--key-out is for a new key, and --key-file gives one that you have")
    if key_file is None and key_out is None:
        refuse_terminal("--key-out")
    if key_out in (None, STREAM):
        given = None if key_file is None else read_key(key_file)
        one, key = change(given)
        with _shown(one, became) if given is None else nullcontext():
            _hand_over(one, None if given else key, as_json)
        return one
    from gateway.registry.records import new_key

    # In its file before the registry hears of it, so that it cannot be lost.
    with private(Path(key_out), force) as draft:
        key = new_key()
        write([key], draft.file)
        draft.keep()
        one, _ = change(key)
    note(f"Its key is in {key_out}.")
    _hand_over(one, None, as_json)
    return one


@contextmanager
def _shown(one: ThingRecord, became: str) -> Iterator[None]:
    """Raises Failure if that fails, also because nobody reads it any more: the key counts, and nobody has it."""
    try:
        yield
    except OSError:
        again = shlex.join(("securegw", "thing", "rotate-key", one.id))  # others may have its name
        raise Failure(f"{one.name} {became} could not be shown: {again}") from None


def _hand_over(one: ThingRecord, key: str | None, as_json: bool) -> None:
    """key: None if whoever called knows it already."""
    secret = {} if key is None else {"key": key}
    write([compact(thing_fields(one) | secret)] if as_json else record({"id": one.id, "name": one.name} | secret))
    if key is not None:
        note("Keep the key now: only its hash is stored, and it is never shown again.")


def _set_enabled(installation: Installation, thing: str, enabled: bool, as_json: bool) -> None:
    with installation.ledger() as ledger:
        changed = ledger.set_enabled(thing, enabled)
    if as_json:
        write([compact(thing_fields(changed))])
    else:
        say(f"The thing {changed.name} ({changed.id}) is {'enabled' if enabled else 'disabled'}.")


def _connected(ledger: Ledger, found: ThingRecord) -> list[dict[str, Any]]:
    names = {one.id: one.name for one in ledger.channels(thing=found.id)}
    return [other_end(one.channel, names.get(one.channel, ""), one) for one in ledger.connections(thing=found.id)]
