"""Whom the rules of the configuration let in as the share's role, and where the partner gets to: without a gateway.

Owns the proof that nobody is forgotten. A list of rules decides in the same way for all addresses between two of the
boundaries of all the networks in it, so one address out of each such stretch stands for all of them; and so it is with
names, of which each that some rule mentions is tried, and one that none does.

A rule without `role=` is as wide as the names that tokens bring: a subject that happens to be the share's name, or,
with `role = claim:NAME`, whoever the issuer writes that claim for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from math import inf
from typing import Final

from gateway.identity import Identity
from gateway.policy import Allow, Decision, Policy, Request
from gateway.rules import IPAddress, Names, Network, parse_network
from gateway.settings import PostgresListener
from gateway.share.share import Share
from gateway.share.tried import Tried, Verdict

# Nobody's name: no role, no database and no subject has a NUL in it.
_NOBODY: Final = "\0"
# Any role, by the token's word.
_CLAIMED: Final = "\0claimed"
_REFUSED: Final = "refused"


@dataclass(frozen=True, slots=True)
class Reach:
    """What the rules of one listener say. databases: all that the server has."""

    share: Share
    listener: PostgresListener
    databases: tuple[str, ...]

    @property
    def policy(self) -> Policy:
        return Policy(self.listener.rules)

    @property
    def networks(self) -> tuple[Network, ...]:
        return tuple(map(parse_network, self.share.networks))

    def rows(self, *, entered: bool) -> Iterator[Tried]:
        """entered: this is the listener through which the partner comes; others need not let it in."""
        where = f"rules of [postgres:{self.listener.name}]"
        yield from self._inside(where, entered)
        bad = [*self._outside(where), *self._elsewhere(where), *self._others(where)]
        yield from bad or [Tried(f"{where}: any other network, database or subject", _REFUSED, _REFUSED, Verdict.OK)]

    # --- whom they let in

    def _inside(self, where: str, entered: bool) -> Iterator[Tried]:
        wanted = f"allowed as {self.share.name}"
        for address in self.inside():
            found = self._decide(self.share.subject, self.share.database, address)
            if not entered and not isinstance(found, Allow):
                continue
            right = isinstance(found, Allow) and found.role == self.share.name and not found.superuser
            verdict = Verdict.OK if right else Verdict.LOOSENED if isinstance(found, Allow) else Verdict.UNPROVEN
            yield Tried(f"{where}: {self.share.subject} from {address}", wanted, _told(found), verdict)

    def _outside(self, where: str) -> Iterator[Tried]:
        """The partner, from somewhere else."""
        for address in self.outside():
            found = self._anywhere(self.share.subject, address)
            if found is not None:
                database, decision = found
                what = f"{where}: {self.share.subject} from {address or 'a Unix socket'} into {database}"
                yield Tried(what, _REFUSED, _told(decision), Verdict.LOOSENED)

    def _elsewhere(self, where: str) -> Iterator[Tried]:
        """The partner, into something else."""
        for address in self.inside():
            for database in sorted(self._names("databases") - {self.share.database}):
                found = self._decide(self.share.subject, database, address)
                if isinstance(found, Allow):
                    what = f"{where}: {self.share.subject} from {address} into {_shown(database)}"
                    yield Tried(what, _REFUSED, _told(found), Verdict.LOOSENED)
            replication = self._decide(self.share.subject, "", address, replication=True)
            if isinstance(replication, Allow):
                what = f"{where}: {self.share.subject} from {address}, replication"
                yield Tried(what, _REFUSED, _told(replication), Verdict.LOOSENED)

    def _others(self, where: str) -> Iterator[Tried]:
        """Somebody else, as the share's role."""
        for subject in sorted(self._names("subjects") - {self.share.subject}):
            for address in (*self.inside(), *self.outside()):
                found = self._anywhere(subject, address, frozenset({self.share.name, _CLAIMED}))
                if found is not None:
                    what = f"{where}: {_shown(subject)} from {address or 'a Unix socket'} as {self.share.name}"
                    yield Tried(what, _REFUSED, _told(found[1]), Verdict.LOOSENED)

    def _anywhere(self, subject: str, address: str, roles: frozenset[str] | None = None) -> tuple[str, Allow] | None:
        """The first database that they are let into, in one of the roles, or in any. A rule that allows replication is
        about all databases (gateway.policy), so it is found by any of them."""
        for database in sorted(self._names("databases")):
            found = self._decide(subject, database, address)
            if isinstance(found, Allow) and (roles is None or found.role in roles):
                return _shown(database), found
        return None

    def _decide(self, subject: str, database: str, address: str, replication: bool = False) -> Decision:
        role = subject if self.listener.role_claim is None else _CLAIMED
        identity = Identity("jwt", subject, inf)
        return self.policy.decide(
            identity, Request(self.listener.name, database, subject, role, address, replication=replication)
        )

    def _names(self, field: str) -> set[str]:
        """Every name that matters in that field of the rules: what the rules mention, what there is, and another."""
        mentioned: Iterable[Names] = (getattr(rule, field) for rule in self.listener.rules)
        found = {name for names in mentioned for name in names.exact} | {_NOBODY}
        if field == "databases":
            return found | {*self.databases, self.share.database, self.share.subject}
        return found | {self.share.name}

    # --- from where

    def inside(self) -> list[str]:
        """Addresses of the partner's networks, at least one of each, that stand for all of them."""
        return [address for address in self._stretches() if self._partners(address)]

    def outside(self) -> list[str]:
        """Addresses of everybody else that stand for all of them; the empty one is a Unix socket's client."""
        return [address for address in self._stretches() if not self._partners(address)]

    def neighbours(self) -> list[str]:
        """Addresses just below and just above the partner's networks, for a gateway to be asked."""
        near = [one for network in self.networks for one in _around(network)]
        return [address for address in dict.fromkeys(near) if not self._partners(address)]

    def _partners(self, address: str) -> bool:
        return bool(address) and any(ip_address(address) in network for network in self.networks)

    def _stretches(self) -> list[str]:
        """One address of each stretch between the boundaries of all networks."""
        every = [*self.networks, *(network for rule in self.listener.rules for network in rule.networks.exact)]
        firsts: set[IPAddress] = {IPv4Address(0), IPv6Address(0)}
        for network in every:
            firsts.add(network.network_address)
            firsts |= {ip_address(one) for one in _around(network)[1:]}
        return ["", *map(str, sorted(firsts, key=lambda one: (one.version, one)))]


def _around(network: Network) -> list[str]:
    """The addresses before and behind a network; itself, twice, where there is none."""
    last = 2**network.max_prefixlen - 1
    kind = type(network.network_address)
    first, final = int(network.network_address), int(network.broadcast_address)
    return [str(kind(max(first - 1, 0))), str(kind(min(final + 1, last)))]


def _shown(name: str) -> str:
    return "any other" if name == _NOBODY else name


def _told(decision: Decision) -> str:
    if isinstance(decision, Allow):
        role = "whatever role the token says" if decision.role == _CLAIMED else _shown(decision.role)
        return f"allowed as {role} by {decision.rule}"
    return _REFUSED
