"""Past the gateway: what the server itself answers to a login as the share's role that comes straight from here.

Owns the proof of what the lines for pg_hba.conf (`lines.hba`) promise, as far as one machine can see it. The server
chooses the line before it asks for a password (manual, "The pg_hba.conf File"), and libpq hangs up once it is asked
(34.1.2, require_auth): so it takes none, and whoever answers there learns none. Partners may set a password of their
own, so to be asked for one is as good as to be let in.

Refuses to take anything for a refusal but pg_hba.conf's. Says nothing of other machines: their lines are not tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

import psycopg2

from gateway.share.conninfo import arguments
from gateway.share.share import Share
from gateway.share.tried import Tried, Verdict, together
from gateway.upstream import ClientTLS, TLSMode, Upstream

# Said beside the rows.
ELSEWHERE: Final = (
    "Not tried, for it takes another machine: who else pg_hba.conf lets past the gateway, and from where."
)

# Seconds for one login.
_PATIENCE: Final = 10
_REMEDY: Final = "add the lines for pg_hba.conf (share create prints them)"

# The server's words may be in another language; the file's name is in all of them (auth.c, ClientAuthentication). The
# other sentence is libpq's own.
_REFUSED: Final = "pg_hba.conf"
_ASKED: Final = 'authentication method requirement "none" failed'


def rows(share: Share, upstream: Upstream, others: Iterable[str]) -> Iterator[Tried]:
    """others: databases that are not the share's. Its own is tried where the gateway would not come in that way."""
    for address in upstream.addresses:
        server = replace(upstream, addresses=(address,))
        yield from _way(share, server, "another database", f"past the gateway, at {address}", others)
        if address.port and upstream.tls.mode is not TLSMode.DISABLE:
            plain = replace(server, tls=ClientTLS(TLSMode.DISABLE))
            where = f"past the gateway in plain text, at {address}"
            yield from _way(share, plain, "any database", where, [share.database, *others])


def _way(share: Share, server: Upstream, what: str, where: str, databases: Iterable[str]) -> Iterator[Tried]:
    """A server that gives no answer is not asked again."""
    found: list[Tried] = []
    for database in databases:
        found.append(_log_in(share, server, database, f"log in to the database {database} {where}"))
        if found[-1].verdict is Verdict.UNPROVEN:
            break
    return iter(together(f"log in to {what} {where}", found))


def _log_in(share: Share, server: Upstream, database: str, what: str) -> Tried:
    wanted = arguments(server, server.login(share.name), share.name, database)
    wanted |= {"password": "", "require_auth": "none", "target_session_attrs": "any", "connect_timeout": _PATIENCE}
    try:
        psycopg2.connect(**wanted).close()
    except psycopg2.Error as error:
        return _outcome(what, " ".join(str(error).split()))
    return Tried(what, "refused", f"let in, and asked for no password: {_REMEDY}", Verdict.LOOSENED)


def _outcome(what: str, said: str) -> Tried:
    if _ASKED in said:
        return Tried(what, "refused", f"let in, with a password: {_REMEDY}", Verdict.LOOSENED)
    if _REFUSED in said:
        return Tried(what, "refused", "refused", Verdict.OK)
    return Tried(what, "refused", f"not by pg_hba.conf: {said}", Verdict.UNPROVEN)
