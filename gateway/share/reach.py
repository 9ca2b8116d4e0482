"""Whom the rules of the configuration let in as the share's role, and where the partner gets to: without a gateway.

Owns the proof that nobody is forgotten. A list of rules decides in the same way for all addresses between two of the
boundaries of all the networks in it, so one address out of each such stretch stands for all of them; and so it is with
names, of which each that some rule mentions is tried, and one that none does. Where that would be too much to ask, it
says so, and proves nothing.

A rule without `role=` is as wide as the names that tokens bring: a subject that happens to be the share's name, or,
with `role = claim:NAME`, whoever the issuer writes that claim for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import islice
from math import inf
from typing import Final

from gateway.identity import Identity
from gateway.policy import Allow, Decision, Policy, Request, Rule
from gateway.rules import IPAddress, Names, Network, client_address, parse_network
from gateway.settings import PostgresListener
from gateway.share.share import Share
from gateway.share.tried import Tried, Verdict

# Nobody's name: no role, no database and no subject has a NUL in it.
_NOBODY: Final = "\0"
# Any role, by the token's word.
_CLAIMED: Final = "\0claimed"
# What replication asks for (gateway.policy).
_REPLICATION: Final = ""
_REFUSED: Final = "refused"

# Rules of one listener that are asked about something, over all that is asked: some seconds.
MAX_ASKED: Final = 2_000_000


class Reach:
    """What the rules of one listener say. databases: all that the server has.

    inside: addresses of the partner's networks, at least one of each, that stand for all of them. outside: those of
    everybody else; the empty one is a Unix socket's client.
    """

    def __init__(self, share: Share, listener: PostgresListener, databases: Iterable[str]) -> None:
        self.share, self.listener = share, listener
        self._policy = Policy(listener.rules)
        # How many rules are asked until that one decides, by how decisions name it.
        self._depths = {f"{rule.source}: {rule.text}": depth for depth, rule in enumerate(listener.rules, 1)}
        self._networks = tuple(map(parse_network, share.networks))
        self._databases = self._names("databases", {*databases, share.database, share.subject})
        self._subjects = self._names("subjects", {share.name})
        stretches = self._stretches()
        self.inside = [address for address in stretches if self._partners(address)]
        self.outside = [address for address in stretches if not self._partners(address)]
        self._asked = 0

    def rows(self, *, entered: bool) -> Iterator[Tried]:
        """entered: this is the listener through which the partner comes; others need not let it in."""
        where = f"rules of [postgres:{self.listener.name}]"
        rest = f"{where}: any other network, database or subject"
        yield from self._inside(where, entered)
        bad = [*self._outside(where), *self._elsewhere(where), *self._others(where)]
        if self._too_many:
            bad.append(Tried(rest, _REFUSED, "too many rules to try all that they are about", Verdict.UNPROVEN))
        yield from bad or [Tried(rest, _REFUSED, _REFUSED, Verdict.OK)]

    # --- whom they let in

    def _inside(self, where: str, entered: bool) -> Iterator[Tried]:
        wanted = f"allowed as {self.share.name}"
        for address in self.inside:
            found = self._decide(self._request(self.share.subject, self.share.database, address), self.share.subject)
            if not entered and not isinstance(found, Allow):
                continue
            right = isinstance(found, Allow) and found.role == self.share.name and not found.superuser
            verdict = Verdict.OK if right else Verdict.LOOSENED if isinstance(found, Allow) else Verdict.UNPROVEN
            yield Tried(f"{where}: {self.share.subject} from {address}", wanted, _told(found), verdict)

    def _outside(self, where: str) -> Iterator[Tried]:
        """The partner, from somewhere else."""
        subject, openings = self.share.subject, self._openings(self.share.subject)
        for address in self.outside:
            for database, decision in islice(self._let_in(openings, subject, self._databases, address), 1):
                what = f"{where}: {subject} from {address or 'a Unix socket'} into {_shown(database)}"
                yield Tried(what, _REFUSED, _told(decision), Verdict.LOOSENED)

    def _elsewhere(self, where: str) -> Iterator[Tried]:
        """The partner, into something else. Replication is no database, and could be of any."""
        subject, openings = self.share.subject, self._openings(self.share.subject)
        others = [*(one for one in self._databases if one != self.share.database), _REPLICATION]
        for address in self.inside:
            for database, decision in self._let_in(openings, subject, others, address):
                into = ", replication" if database == _REPLICATION else f" into {_shown(database)}"
                yield Tried(f"{where}: {subject} from {address}{into}", _REFUSED, _told(decision), Verdict.LOOSENED)

    def _others(self, where: str) -> Iterator[Tried]:
        """Somebody else, as the share's role. A rule that allows replication is about all databases (gateway.policy),
        so it is found by any of them."""
        roles = frozenset({self.share.name, _CLAIMED})
        for subject in self._subjects:
            somebody = subject != self.share.subject and not self._too_many
            openings = self._openings(subject, roles) if somebody else []
            for address in (*self.inside, *self.outside) if openings else ():
                let_in = self._let_in(openings, subject, self._databases, address)
                for _, decision in islice((one for one in let_in if one[1].role in roles), 1):
                    what = f"{where}: {_shown(subject)} from {address or 'a Unix socket'} as {self.share.name}"
                    yield Tried(what, _REFUSED, _told(decision), Verdict.LOOSENED)

    def _openings(self, subject: str, roles: frozenset[str] | None = None) -> list[Rule]:
        """The rules that could let it in, in one of the roles, or in any."""
        own = self._own_role(subject)
        return [
            rule
            for rule in self.listener.rules
            if rule.allow and rule.subjects.match(subject) and (roles is None or (rule.role or own) in roles)
        ]

    def _let_in(
        self, openings: Sequence[Rule], subject: str, databases: Iterable[str], address: str
    ) -> Iterator[tuple[str, Allow]]:
        """Into which of the databases it is let, and how. openings: what could let it in. Ends early where too much has
        been asked."""
        client = client_address(address)
        here = [] if self._too_many else [rule for rule in openings if rule.networks.match(client)]
        self._asked += len(openings)
        for database in databases if here else ():
            if self._too_many:
                return
            request = self._request(subject, database, address)
            self._asked += len(here)
            if any(rule.match(subject, request, client) for rule in here):
                decision = self._decide(request, subject)
                if isinstance(decision, Allow):
                    yield database, decision

    def _request(self, subject: str, database: str, address: str) -> Request:
        replication = database == _REPLICATION
        return Request(self.listener.name, database, subject, self._own_role(subject), address, replication=replication)

    def _own_role(self, subject: str) -> str:
        """Where a rule names none."""
        return subject if self.listener.role_claim is None else _CLAIMED

    def _decide(self, request: Request, subject: str) -> Decision:
        found = self._policy.decide(Identity("jwt", subject, inf), request)
        self._asked += self._depths.get(found.rule if isinstance(found, Allow) else found.reason, len(self._depths))
        return found

    @property
    def _too_many(self) -> bool:
        return self._asked > MAX_ASKED

    def _names(self, field: str, there: set[str]) -> list[str]:
        """Every name that matters in that field of the rules: what they mention, what there is, and another."""
        mentioned: Iterable[Names] = (getattr(rule, field) for rule in self.listener.rules)
        return sorted({name for names in mentioned for name in names.exact} | there | {_NOBODY})

    # --- from where

    def neighbours(self) -> list[str]:
        """Addresses just below and just above the partner's networks, for a gateway to be asked."""
        near = [one for network in self._networks for one in _around(network)]
        return [address for address in dict.fromkeys(near) if not self._partners(address)]

    def _partners(self, address: str) -> bool:
        return bool(address) and any(ip_address(address) in network for network in self._networks)

    def _stretches(self) -> list[str]:
        """One address of each stretch between the boundaries of all networks."""
        every = [*self._networks, *(network for rule in self.listener.rules for network in rule.networks.exact)]
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
