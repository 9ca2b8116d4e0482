"""The whole proof that a share is as tight as it was made, row by row.

Owns what is proven with what: the database's catalogs by an administrator, the rules by their text, the lines of
pg_hba.conf by whom the server refuses, and everything else by the partner's own way through the running gateway.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import psycopg2

from gateway.registry.postgres_store import reason
from gateway.settings import PostgresListener
from gateway.share import bypass, probes
from gateway.share.administrator import Administrator
from gateway.share.catalog import Excess, answers
from gateway.share.entrance import Gate, TurnedAway, ending
from gateway.share.provision import record
from gateway.share.reach import Reach
from gateway.share.share import Record, ShareError
from gateway.share.survey import Survey, survey
from gateway.share.tried import Tried, Verdict, together
from gateway.upstream import Upstream

# Of one kind of excess; a role that was made a superuser has every right there is.
_TOLD: Final = 10
# Other databases, and other networks, that are really tried.
_DATABASES: Final = 20
_NETWORKS: Final = 12


@dataclass(frozen=True, slots=True)
class Known:
    """What an administrator sees. excesses: by question, what should not be there."""

    record: Record
    excesses: Mapping[str, Sequence[Excess]]
    survey: Survey


async def look(admin: Administrator, name: str) -> Known:
    """admin: in the share's database. Raises ShareError."""
    found = await record(admin, name)
    if found is None:
        raise ShareError(f"there is no share {name}")
    return Known(found, await answers(admin, found), await survey(admin))


def rows(
    known: Known, upstream: Upstream, listeners: Iterable[PostgresListener], listener: PostgresListener, way: Gate
) -> list[Tried]:
    """listeners: all that lead to the share's database, whose server is `upstream`. listener: that `way` enters."""
    share, databases = known.record.share, known.survey.databases
    found = [*_catalog(known)]
    for one in listeners:
        found += Reach(share, one, databases).rows(entered=one is listener)
    others = [one for one in databases if one != share.database][:_DATABASES]
    through = _through(way, Reach(share, listener, databases), known.survey, others)
    return [*found, *through, *bypass.rows(share, upstream, others)]


def _catalog(known: Known) -> Iterator[Tried]:
    for question, excesses in known.excesses.items():
        for excess in excesses[:_TOLD]:
            got = excess.got if excess.remedy is None else f"{excess.got}: {excess.remedy.string}"
            yield Tried(f"catalog: {excess.what}", "nothing more", got, Verdict.LOOSENED)
        if len(excesses) > _TOLD:
            more = f"{len(excesses) - _TOLD} more"
            yield Tried(f"catalog: {question}", "nothing more", more, Verdict.LOOSENED)
        if not excesses:
            yield Tried(f"catalog: {question}", "nothing more", "nothing more", Verdict.OK)


def _through(way: Gate, reach: Reach, found: Survey, others: Sequence[str]) -> Iterator[Tried]:
    """others: databases."""
    inside = next(iter(reach.inside))
    yield from _session(way, inside, found)
    tried = [way.refused(f"connect to the database {one}", inside, one) for one in others]
    yield from together("connect to another database", tried)
    yield way.refused("connect in plain text", inside, plain=True)
    networks = list(dict.fromkeys([*reach.neighbours(), *filter(None, reach.outside)]))[:_NETWORKS]
    tried = [way.refused(f"connect from {one}", one) for one in networks]
    yield from together("connect from another network", tried)


def _session(way: Gate, address: str, found: Survey) -> Iterator[Tried]:
    try:
        entered = way.session(address)
    except TurnedAway as error:
        yield Tried(f"connect from {address}", "let in", str(error), Verdict.UNPROVEN)
        return
    with ending(entered) as session:
        yield Tried(f"connect from {address}, with TLS", "let in", "let in", Verdict.OK)
        try:
            yield from probes.settings(session)
            probes.limit(session)
        except psycopg2.Error as error:
            yield Tried("the settings at the start", "as made", reason(error), Verdict.UNPROVEN)
            return
        yield probes.read(session, way.share)
        yield from probes.tried(session, way.share, found)
