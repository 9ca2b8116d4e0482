"""Which listeners of the configuration lead to the server of a share, by whatever name and address they do.

Owns the comparison. What the rules of any of them allow is what the partner, or somebody else, can reach. One address
in common says that it is the same server; no address says that it is another, for it may have many, and replicas. So
where the rules would matter, the servers themselves are asked: each with the logins that the gateway has for it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice, product
from typing import Final

from gateway.settings import PostgresListener
from gateway.share.administrator import Refused, perform
from gateway.share.conninfo import arguments
from gateway.share.reach import Reach
from gateway.share.share import Share, ShareError
from gateway.share.survey import Survey, identifier
from gateway.share.tried import Tried, Verdict, holds
from gateway.upstream import Address, Upstream

# Logins at one server, until one of them is let in.
_TRIES: Final = 8
# Where the share's own database is not there; every server has it.
_MAINTENANCE: Final = "postgres"


def leading_to(
    server: Upstream, listeners: Iterable[PostgresListener], upstreams: Mapping[str, Upstream]
) -> list[PostgresListener]:
    """Those whose upstream has an address in common with it. Asks the system's resolver."""
    wanted = _places(server)
    return [one for one in listeners if one.upstream in upstreams and wanted & _places(upstreams[one.upstream])]


def _places(upstream: Upstream) -> set[Address]:
    return {place for address in upstream.addresses for place in (address, *resolved(address))}


def resolved(address: Address) -> list[Address]:
    """A Unix socket, and a name that is not known now, are only themselves."""
    if not address.port:
        return []
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return [Address(str(place[0]), int(place[1])) for *_, place in found]


# --- those with other addresses ---------------------------------------------------------------------------------------


def rows(
    share: Share, found: Survey, listeners: Iterable[PostgresListener], upstreams: Mapping[str, Upstream], admin: str
) -> Iterator[Tried]:
    """listeners: whose upstreams have no address in common with the share's server. admin: a role that may be known
    there, too. What their rules allow is told where it is the same server all the same, or where nobody knows; what is
    fine anyway is not."""
    for one in listeners:
        allowed = list(Reach(share, one, found.databases).rows(entered=False))
        if one.upstream not in upstreams or holds(allowed):
            continue
        named = [rule.role for rule in one.rules if rule.allow]
        server, reason = _asked(upstreams[one.upstream], [*named, share.subject, admin], share.database)
        if server is None or found.server is None:
            got = f"is that the server of [upstream:{one.upstream}]? {reason or 'it may not be asked'}"
            yield Tried(f"rules of [postgres:{one.name}]", "about another server", got, Verdict.UNPROVEN)
        elif server == found.server:
            yield from allowed


def _asked(upstream: Upstream, roles: Iterable[str | None], database: str) -> tuple[str | None, str]:
    """Its identifier; or None, and why. roles: to try, besides those that it has a login for."""
    known = dict.fromkeys([*(login.role for login in upstream.logins), *roles])
    reason = ""
    for role, where in islice(product(filter(None, known), (database, _MAINTENANCE)), _TRIES):
        try:
            wanted = arguments(upstream, upstream.login(role), role, where)
            return perform({**wanted, "target_session_attrs": "any"}, identifier), ""
        except Refused as error:
            reason = reason or str(error)
        except ShareError as error:
            return None, str(error)
    return None, reason
