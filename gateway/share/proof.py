"""The whole proof that a share is as tight as it was made, row by row.

Owns what is proven with what: the database's catalogs by an administrator, the rules by their text, and everything else
by the partner's own way through the running gateway.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final

import psycopg2

from gateway.registry.postgres_store import reason
from gateway.settings import PostgresListener
from gateway.share import probes
from gateway.share.administrator import Administrator
from gateway.share.catalog import Finding, answers
from gateway.share.entrance import Entrance, TurnedAway
from gateway.share.provision import record
from gateway.share.reach import Reach
from gateway.share.share import Record, ShareError
from gateway.share.survey import Survey, survey
from gateway.share.tried import Tried, Verdict, together

# Of one kind of finding; a role that was made a superuser has every right there is.
_TOLD: Final = 10
# Other databases, and other networks, that are really tried.
_DATABASES: Final = 20
_NETWORKS: Final = 12


@dataclass(frozen=True, slots=True)
class Known:
    """What an administrator sees. findings: by question, what should not be there."""

    record: Record
    findings: Mapping[str, Sequence[Finding]]
    survey: Survey


async def look(admin: Administrator, name: str) -> Known:
    """admin: in the share's database. Raises ShareError."""
    found = await record(admin, name)
    if found is None:
        raise ShareError(f"there is no share {name}")
    return Known(found, await answers(admin, found), await survey(admin))


def rows(known: Known, listeners: Iterable[PostgresListener], listener: PostgresListener, way: Entrance) -> list[Tried]:
    """listeners: all that lead to the share's database. listener: the one that `way` enters."""
    databases = known.survey.databases
    found = [*_catalog(known)]
    for one in listeners:
        found += Reach(known.record.share, one, databases).rows(entered=one is listener)
    reach = Reach(known.record.share, listener, databases)
    return [*found, *_through(way, reach, known.survey)]


def _catalog(known: Known) -> Iterator[Tried]:
    for question, findings in known.findings.items():
        for finding in findings[:_TOLD]:
            got = finding.got if finding.remedy is None else f"{finding.got}: {finding.remedy.string}"
            yield Tried(f"catalog: {finding.what}", "nothing more", got, Verdict.LOOSENED)
        if len(findings) > _TOLD:
            more = f"{len(findings) - _TOLD} more"
            yield Tried(f"catalog: {question}", "nothing more", more, Verdict.LOOSENED)
        if not findings:
            yield Tried(f"catalog: {question}", "nothing more", "nothing more", Verdict.OK)


def _through(way: Entrance, reach: Reach, found: Survey) -> Iterator[Tried]:
    inside = next(iter(reach.inside()))
    yield from _session(way, inside, found)
    others = [one for one in found.databases if one != way.share.database][:_DATABASES]
    tried = [way.refused(f"connect to the database {one}", inside, one) for one in others]
    yield from together("connect to another database", tried)
    yield way.refused("connect in plain text", inside, plain=True)
    networks = list(dict.fromkeys([*reach.neighbours(), *filter(None, reach.outside())]))[:_NETWORKS]
    tried = [way.refused(f"connect from {one}", one) for one in networks]
    yield from together("connect from another network", tried)


def _session(way: Entrance, address: str, found: Survey) -> Iterator[Tried]:
    try:
        session = way.session(address)
    except TurnedAway as error:
        yield Tried(f"connect from {address}", "let in", str(error), Verdict.UNPROVEN)
        return
    with closing(session):
        yield Tried(f"connect from {address}, with TLS", "let in", "let in", Verdict.OK)
        yield probes.read(session, way.share)
        try:
            yield from probes.settings(session)
        except psycopg2.Error as error:
            yield Tried("the settings at the start", "as made", reason(error), Verdict.UNPROVEN)
        yield from probes.tried(session, way.share, found)
