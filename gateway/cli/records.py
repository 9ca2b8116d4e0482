"""Things, channels and connections as results: what a program reads of each, and what a person does.

Refuses to show a secret key on a terminal, which others look at, and which remembers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.output import compact, record, table

if TYPE_CHECKING:
    from gateway.registry.ledger import ChannelRecord, ConnectionRecord, ThingRecord

# How much of a key's SHA-256 rules and the audit use as the name of whoever shows it where no registry is asked.
_KNOWN_AS = 16


def refuse_terminal(option: str) -> None:
    """Before there is a new key for standard output. option: the one for a file. Raises UsageError."""
    if sys.stdout and sys.stdout.isatty():
        raise click.UsageError(
            f"a secret key is not for a terminal: say {option} FILE ({option} - shows it nevertheless)"
        )


def yes_no(value: bool) -> str:
    return "yes" if value else "no"


def moment(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M:%S}"


def thing_fields(one: ThingRecord) -> dict[str, Any]:
    return {
        "id": one.id,
        "name": one.name,
        "enabled": one.enabled,
        "metadata": one.metadata,
        "created": one.created.isoformat(),
        "key_sha256": one.key_sha256,
    }


def thing_table(things: Iterable[ThingRecord]) -> Iterator[str]:
    headings = ("id", "name", "enabled", "created (UTC)")
    return table(headings, ((one.id, one.name, yes_no(one.enabled), moment(one.created)) for one in things))


def thing_page(one: ThingRecord, channels: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield from record(
        {
            "id": one.id,
            "name": one.name,
            "enabled": yes_no(one.enabled),
            "created (UTC)": moment(one.created),
            "known as": f"key:{one.key_sha256[:_KNOWN_AS]}",
            "metadata": compact(one.metadata),
        }
    )
    yield from _rights_table("channel", channels)


def channel_fields(one: ChannelRecord) -> dict[str, Any]:
    return {"id": one.id, "name": one.name, "created": one.created.isoformat()}


def channel_table(channels: Iterable[ChannelRecord]) -> Iterator[str]:
    return table(("id", "name", "created (UTC)"), ((one.id, one.name, moment(one.created)) for one in channels))


def channel_page(one: ChannelRecord, things: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield from record({"id": one.id, "name": one.name, "created (UTC)": moment(one.created)})
    yield from _rights_table("thing", things)


def connection_fields(one: ConnectionRecord) -> dict[str, Any]:
    return {"thing": one.thing, "channel": one.channel, "publish": one.publish, "subscribe": one.subscribe}


def other_end(identifier: str, name: str, connection: ConnectionRecord) -> dict[str, Any]:
    """What stands below a thing or a channel that is shown: what it is connected to, and with which rights."""
    return {"id": identifier, "name": name, "publish": connection.publish, "subscribe": connection.subscribe}


def _rights_table(what: str, ends: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if ends:
        yield ""
        rows = ((end["id"], end["name"], yes_no(end["publish"]), yes_no(end["subscribe"])) for end in ends)
        yield from table((what, "name", "publish", "subscribe"), rows)
