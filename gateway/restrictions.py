"""What a token says of where it may be used: its claim `securegw`, which narrows what the rules allow.

    "securegw": {"db": ["sales"], "cidr": ["192.0.2.0/24"]}

Owns this grammar and its meaning. Refuses, always as Denied, a claim of which anything is not understood: to overlook a
restriction would be to lift it. It never allows what no rule does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.errors import Denied
from gateway.rules import Network, client_address, parse_network
from gateway.wire.postgres import MAX_NAME

CLAIM: Final = "securegw"

# A token is somebody's, for some purpose; who needs more than this needs a rule.
MAX_ITEMS: Final = 100


@dataclass(frozen=True, slots=True)
class Restrictions:
    """databases, networks: only these; None: whatever the rules allow."""

    databases: frozenset[str] | None = None
    networks: tuple[Network, ...] | None = None

    def refusal(self, database: str, address: str, replication: bool) -> str | None:
        """Why not, for the audit; None: nothing here is against it.

        address: the client's IP address, or empty for the client of a Unix socket, who is in no network.
        """
        if self.databases is not None and replication:
            return "the token is for some databases only, and replication can read all of them"
        if self.databases is not None and database not in self.databases:
            return "the token is not for this database"
        if self.networks is not None and not self._reaches(address):
            return "the token is not for this client address"
        return None

    def _reaches(self, address: str) -> bool:
        try:
            client = client_address(address)
        except ValueError:
            return False
        return client is not None and any(client in network for network in self.networks or ())


def restrictions(claims: Mapping[str, Any]) -> Restrictions:
    """Of a token's claims. Raises Denied."""
    if CLAIM not in claims:
        return Restrictions()
    claim = claims[CLAIM]
    if not isinstance(claim, dict) or not claim.keys() <= {"db", "cidr"}:
        raise Denied(f"the token's {CLAIM} is not an object with db, cidr or both")
    databases, networks = _items(claim, "db"), _items(claim, "cidr")
    return Restrictions(
        None if databases is None else frozenset(map(_database, databases)),
        None if networks is None else tuple(map(_network, networks)),
    )


def _items(claim: Mapping[str, Any], name: str) -> list[str] | None:
    if name not in claim:
        return None
    items = claim[name]
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise Denied(f"the token's {name} is not a list of strings")
    if not 1 <= len(items) <= MAX_ITEMS:
        raise Denied(f"the token's {name} has not from 1 to {MAX_ITEMS} items")
    return items


def _database(name: str) -> str:
    if "\0" in name or not 1 <= len(name.encode()) <= MAX_NAME:
        raise Denied(f"the token's db has a name that is not of 1 to {MAX_NAME} bytes without NUL")
    return name


def _network(text: str) -> Network:
    try:
        return parse_network(text)
    except ValueError:
        # Its reason quotes the text, which can be long.
        raise Denied("the token's cidr has an item that is not an address or a CIDR such as 192.0.2.0/24") from None
