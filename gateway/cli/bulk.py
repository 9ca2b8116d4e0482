"""`securegw thing import` and `securegw thing export`: many things at once, all of them or none.

Owns the order that no key is lost in: new keys are safely in their file before the registry has heard of them. On
standard output they come after it, and where they do not arrive that is said.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Final

import click

from gateway.cli import namesakes
from gateway.cli.errors import Failure
from gateway.cli.files import STREAM, private, read
from gateway.cli.options import as_json, force
from gateway.cli.output import note, write
from gateway.cli.records import refuse_terminal
from gateway.cli.settings import Installation
from gateway.cli.thing_rows import keys_csv, keys_json, read_rows, things_csv, things_json
from gateway.registry.records import ConnectionRecord, ThingRow, checked_id, new_key

# Bytes; half a million things with some metadata. What is larger is some other file.
_MAX_FILE: Final = 256 * 1024 * 1024

# Fewer are done before anybody has read the bar.
_LONG: Final = 5_000

Located = tuple[int, ThingRow]


@click.command("import")
@click.argument("file")
@click.option("--keys-out", metavar="KEYS", help="Write the new keys to this file (0600), not to standard output (-).")
@namesakes.force
@as_json
@click.pass_obj
def import_(installation: Installation, file: str, keys_out: str | None, force: bool, as_json: bool) -> None:
    """Make all the things of a file, or none.

    FILE (- is standard input) is CSV, whose first line names its columns, or JSON: a list of objects, or one object
    after the other.

    \b
      name        required
      id          a UUID; without it a random one
      key         the secret key
      key_sha256  or its SHA-256, in hexadecimal, as exported; without both
                  a random key, which is printed as id,name,key
      enabled     true (default) or false
      metadata    a JSON object
      channels    what it is connected to, by id or name, with ; between them;
                  CHANNEL:publish and CHANNEL:subscribe may only do that.
                  In JSON a list, whose items may also be objects:
                  {"channel": "heating", "publish": true, "subscribe": false}

    Channels have to be there. A name that another thing has, in the registry or in FILE, needs --force. Where a name
    begins like a formula (= + - @), spreadsheets want an apostrophe before it; it is taken off.

    \b
    Examples:
      securegw thing import fleet.csv --keys-out fleet-keys.csv
      securegw thing import - --json --keys-out fleet-keys.json < fleet.json
      securegw -c old.ini thing export | securegw -c new.ini thing import -
    """
    given = read_rows(read(file, _MAX_FILE))
    ready = [(line, _complete(row)) for line, row in given]
    new = [row for (_, row), (_, before) in zip(ready, given, strict=True) if row.key != before.key]
    keys = keys_json(new) if as_json else keys_csv(new)
    if new and keys_out is None:
        refuse_terminal("--keys-out")
    out = keys_out if new and keys_out != STREAM else None
    if out is None:
        _take(installation, ready, force, None)
        if new:
            _show(keys)
        elif as_json:
            write(keys)
    else:
        with private(Path(out), force) as draft:
            write(keys, draft.file)
            draft.keep()
            _take(installation, ready, force, out)
    note(f"{len(ready):,} things are imported, {len(new):,} of them with a new key.")
    if new:
        note(f"Their keys are in {out}." if out else "Keep the keys now: they are never shown again.")


@click.command()
@click.option("--format", "form", type=click.Choice(["csv", "json"]), default="csv", show_default=True)
@click.option("-o", "--output", metavar="FILE", default=STREAM, help="Write it there (0600), not to standard output.")
@force
@click.pass_obj
def export(installation: Installation, form: str, output: str, force: bool) -> None:
    """Write all things, for securegw thing import.

    Keys are not known, so it has their SHA-256 instead: things go on with the keys that they have. Channels
    stand there by their ids, and have to be there where it is imported: securegw channel create NAME --id UUID.

    \b
    Examples:
      securegw thing export -o things.csv
      securegw thing export --format json | jq '.[].name'
    """
    if output == STREAM:
        _export(installation, form, None, watched=sys.stderr.isatty() and not sys.stdout.isatty())
    else:
        with private(Path(output), force) as draft:
            _export(installation, form, draft.file, watched=sys.stderr.isatty())


def _complete(row: ThingRow) -> ThingRow:
    """With what the registry would make up, so that it can be written down first."""
    key = new_key() if row.key is None and row.key_sha256 is None else row.key
    return replace(row, id=checked_id(row.id), key=key)


def _show(keys: Iterable[str]) -> None:
    """Raises Failure if that fails, also because nobody reads it any more: the keys count, and nobody has them."""
    try:
        write(keys)
    except OSError:
        remedy = "rotate-key each, or delete and import with --keys-out"
        raise Failure(f"the things are imported, but their new keys could not be shown: {remedy}") from None


def _take(installation: Installation, rows: list[Located], force: bool, out: str | None) -> None:
    """out: the file that keys go to."""
    hidden = len(rows) < _LONG or not sys.stderr.isatty()
    with (
        installation.ledger() as ledger,
        namesakes.told_of_namesakes(force, "imports all the same", out) as alone,
        click.progressbar(length=len(rows), label="Importing", hidden=hidden, file=sys.stderr) as bar,
    ):
        ledger.import_things(
            (row for _, row in rows),
            progress=lambda done: bar.update(done - bar.pos),
            describe=lambda number: f"line {rows[number - 1][0]}: ",
            alone=alone,
        )


def _export(installation: Installation, form: str, out: BinaryIO | None, watched: bool) -> None:
    """watched: somebody would see a bar; there is no length to it, because the registry is read as it is written."""
    connections: dict[str, list[ConnectionRecord]] = defaultdict(list)
    with installation.ledger() as ledger:
        for one in ledger.connections():
            connections[one.thing].append(one)
        with click.progressbar(
            ledger.things(),
            label="Exporting",
            hidden=not watched,
            show_pos=True,
            update_min_steps=_LONG,
            file=sys.stderr,
        ) as things:
            write((things_csv if form == "csv" else things_json)(things, connections), out)
