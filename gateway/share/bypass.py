"""Past the gateway: what the server itself answers to a login as the share's role that comes straight from here.

Owns the proof of what the lines for pg_hba.conf (`lines.hba`) promise, as far as one machine can see it. The server
chooses the line before it asks for a password (manual, "The pg_hba.conf File"), and libpq hangs up once it is asked
(34.1.2, require_auth): so it takes none, and whoever answers there learns none. Partners may set a password of their
own, so to be asked for one is as good as to be let in.

A name may have several addresses, and pg_hba.conf another line for each; libpq goes on to the next where nobody
answers, but not where it is refused (34.1.1.3). So each is asked by itself.

Refuses to take anything for a refusal but pg_hba.conf's. Says nothing of other machines: their lines are not tried.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import psycopg2

from gateway.share.conninfo import arguments
from gateway.share.listeners import resolved
from gateway.share.share import Share
from gateway.share.tried import Tried, Verdict, together
from gateway.upstream import Address, ClientTLS, TLSMode, Upstream

# Said beside the rows.
ELSEWHERE: Final = (
    "Not tried: the server's Unix socket, unless the upstream is one, and who else pg_hba.conf lets past the gateway "
    "from other addresses."
)

# Seconds for one login.
_PATIENCE: Final = 10
# Of one name. Each is logged in to, for each database.
_ADDRESSES: Final = 8
_REMEDY: Final = "add the lines for pg_hba.conf (share create prints them)"

# The server's words may be in another language; the file's name is in all of them (auth.c, ClientAuthentication). The
# other sentence is libpq's own.
_REFUSED: Final = "pg_hba.conf"
_ASKED: Final = 'authentication method requirement "none" failed'


def rows(share: Share, upstream: Upstream, others: Iterable[str]) -> Iterator[Tried]:
    """others: databases that are not the share's. Its own is tried where the gateway would not come in that way."""
    for address in upstream.addresses:
        server, places = replace(upstream, addresses=(address,)), _places(address)
        way = _Way(share, server, places, f"past the gateway, at {address}")
        yield from way.rows("another database", others)
        if address.port and upstream.tls.mode is not TLSMode.DISABLE:
            plain = replace(server, tls=ClientTLS(TLSMode.DISABLE))
            way = _Way(share, plain, places, f"past the gateway in plain text, at {address}")
            yield from way.rows("any database", [share.database, *others])


def _places(address: Address) -> list[str]:
    """libpq's hostaddr, for each one. Where nobody is at some of them nobody gets in; where nobody is at any, or there
    is none, as for a Unix socket, the name is left to libpq, which says why."""
    found = dict.fromkeys(place.host for place in resolved(address))
    if 1 < len(found) <= _ADDRESSES:
        return [place for place in found if _is_there(place, address.port)] or [""]
    return [*found] or [""]


def _is_there(place: str, port: int) -> bool:
    """No answer at all is for libpq to tell of."""
    try:
        socket.create_connection((place, port), _PATIENCE).close()
    except TimeoutError:
        return True
    except OSError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class _Way:
    """To one of the upstream's addresses, which is all that the server has here. places: what it stands for."""

    share: Share
    server: Upstream
    places: list[str]
    where: str

    def rows(self, what: str, databases: Iterable[str]) -> list[Tried]:
        """A server that gives no answer is not asked again."""
        found: list[Tried] = []
        for database in databases:
            found.append(self._log_in(database))
            if found[-1].verdict is Verdict.UNPROVEN:
                break
        return together(f"log in to {what} {self.where}", found)

    def _log_in(self, database: str) -> Tried:
        """The first that is not refused, or the last that is."""
        what = f"log in to the database {database} {self.where}"
        if len(self.places) > _ADDRESSES:
            return Tried(what, "refused", f"not tried: it has more than {_ADDRESSES} addresses", Verdict.UNPROVEN)
        wanted = arguments(self.server, self.server.login(self.share.name), self.share.name, database)
        for place in self.places:
            named = f"{what} ({place})" if len(self.places) > 1 else what
            found = _outcome(named, wanted | {"hostaddr": place})
            if found.verdict is not Verdict.OK:
                break
        return found


def _outcome(what: str, wanted: dict[str, Any]) -> Tried:
    wanted |= {"password": "", "require_auth": "none", "target_session_attrs": "any", "connect_timeout": _PATIENCE}
    try:
        psycopg2.connect(**wanted).close()
    except psycopg2.Error as error:
        return _said(what, " ".join(str(error).split()))
    return Tried(what, "refused", f"let in, and asked for no password: {_REMEDY}", Verdict.LOOSENED)


def _said(what: str, words: str) -> Tried:
    if _ASKED in words:
        return Tried(what, "refused", f"let in, with a password: {_REMEDY}", Verdict.LOOSENED)
    if _REFUSED in words:
        return Tried(what, "refused", "refused", Verdict.OK)
    return Tried(what, "refused", f"not by pg_hba.conf: {words}", Verdict.UNPROVEN)
