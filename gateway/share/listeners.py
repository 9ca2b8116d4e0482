"""Which listeners of the configuration lead to the server of a share, by whatever name and address they do.

Owns the comparison. What the rules of any of them allow is what the partner, or somebody else, can reach.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping

from gateway.settings import PostgresListener
from gateway.upstream import Address, Upstream


def leading_to(
    server: Upstream, listeners: Iterable[PostgresListener], upstreams: Mapping[str, Upstream]
) -> list[PostgresListener]:
    """Those whose upstream has an address in common with it. Asks the system's resolver."""
    wanted = _places(server)
    return [one for one in listeners if one.upstream in upstreams and wanted & _places(upstreams[one.upstream])]


def _places(upstream: Upstream) -> set[Address]:
    return {place for address in upstream.addresses for place in (address, *_resolved(address))}


def _resolved(address: Address) -> list[Address]:
    """A Unix socket, and a name that is not known now, are only themselves."""
    if not address.port:
        return []
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return [Address(str(place[0]), int(place[1])) for *_, place in found]
