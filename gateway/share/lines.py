"""What people have to add to the INI and to pg_hba.conf for a share, spelled so that it means exactly that."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from gateway.rules import client_address, parse_network
from gateway.share.names import quoted, slug
from gateway.share.share import Share
from gateway.upstream import TLSMode, Upstream

# Where the database does not see the gateway's address from here.
UNKNOWN: Final = "GATEWAY-ADDRESS/32"


def login(share: Share, upstream: str, password_file: Path) -> list[str]:
    """A section of the INI."""
    name = slug(share.name)
    role = [] if name == share.name else [f"role = {share.name}"]
    return [f"[login:{name}]", *role, f"upstream = {upstream}", f"password_file = {password_file}"]


def rule(share: Share) -> str:
    """For `rules` of a [postgres:NAME] (gateway.policy)."""
    networks = ",".join(share.networks)
    return f"allow {quoted(share.database)} {quoted(share.subject)} {networks} role={quoted(share.name)}"


def hba(share: Share, upstream: Upstream, address: str | None) -> list[str]:
    """address: of the gateway, as the database sees it; None: it is not known. The role gets in from there alone, and
    into this database alone, whatever stands below (manual, "The pg_hba.conf File": the first line that matches)."""
    role, database = quoted(share.name), quoted(share.database)
    if not any(one.port for one in upstream.addresses):
        way = f"local    {database}  {role}  scram-sha-256"
    else:
        network = UNKNOWN if address is None else str(parse_network(str(client_address(address))))
        kind = "host     " if upstream.tls.mode is TLSMode.DISABLE else "hostssl  "
        way = f"{kind}{database}  {role}  {network}  scram-sha-256"
    return [way, f"local    all  {role}  reject", f"host     all  {role}  all  reject"]
