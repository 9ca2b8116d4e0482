"""Who may use a route or a tunnel: rules of one line each about certificate identities, and the decision from them.

Owns the grammar of such a rule and the first match through a list of them. Pure and synchronous. Refuses everything
that no rule allows: an empty list admits nobody. Every comparison is exact; only an unquoted `*` in an identity stands
for any characters, or none.

    allow|deny IDENTITY NETWORK [method=GET,HEAD] [ca=PATH]
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from gateway.identity import Identity
from gateway.rules import (
    IPAddress,
    Items,
    Names,
    Networks,
    client_address,
    parse_action,
    parse_fields,
    parse_names,
    parse_networks,
    parse_options,
)


class Verdict(NamedTuple):
    """`rule` is the line and where it stands, or, if none decided, the reason; both for the audit only."""

    allowed: bool
    rule: str


@dataclass(frozen=True, slots=True)
class Pattern:
    """A name with `*` in it, as the texts between them: `a*b` is `("a", "b")`."""

    texts: tuple[str, ...]

    def match(self, name: str) -> bool:
        # Each text as early as it can be: no other place could leave more room. So, unlike with a regular expression,
        # no name makes this slow.
        first, *middle, last = self.texts
        start, end = len(first), len(name) - len(last)
        if start > end or not name.startswith(first) or not name.endswith(last):
            return False
        for text in middle:
            found = name.find(text, start, end)
            if found < 0:
                return False
            start = found + len(text)
        return True


@dataclass(frozen=True, slots=True)
class Identities:
    """Whom a rule is about. Of the keywords, `all` is everybody and `anonymous` who showed no certificate."""

    names: Names
    patterns: tuple[Pattern, ...]

    def match(self, identity: Identity | None) -> bool:
        if identity is None:
            return bool(self.names.keywords)
        subject = identity.subject
        return self.names.match(subject) or any(pattern.match(subject) for pattern in self.patterns)


@dataclass(frozen=True, slots=True)
class AdmissionRule:
    """One line. `source` says where it stands, `text` is the line itself; both are for the audit.

    methods: None is all of them, and what is no HTTP request too.
    authorities: SHA-256 of certificates, one of which has to vouch for the identity; None: any that TLS believed.
    """

    allow: bool
    identities: Identities
    networks: Networks
    methods: frozenset[str] | None
    authorities: frozenset[bytes] | None
    text: str
    source: str

    def match(self, identity: Identity | None, client: IPAddress | None, method: str) -> bool:
        if self.methods is not None and method not in self.methods:
            return False
        if self.authorities is not None and (identity is None or self.authorities.isdisjoint(identity.issuers)):
            return False
        return self.identities.match(identity) and self.networks.match(client)


class Admission:
    """The rules of one route or tunnel."""

    def __init__(self, rules: tuple[AdmissionRule, ...]) -> None:
        self.rules = rules

    def decide(self, identity: Identity | None, address: str, method: str = "") -> Verdict:
        """The first rule that matches decides; without one the answer is no. None: a client that showed no certificate.

        address: the client's IP address, or empty for one on a Unix socket.
        """
        try:
            client = client_address(address)
        except ValueError:
            return Verdict(False, f"the client address {address!r} is not an IP address")
        for rule in self.rules:
            if rule.match(identity, client, method):
                return Verdict(rule.allow, f"{rule.source}: {rule.text}")
        return Verdict(False, "no rule matches")


# --- the grammar ------------------------------------------------------------------------------------------------------

# A method is case-sensitive (RFC 9110, 9.1), and all that are registered are written so.
_METHOD = re.compile(r"[A-Z]+(?:-[A-Z]+)*")


def parse_admission_rule(line: str, source: str, authorities: Callable[[str], frozenset[bytes]]) -> AdmissionRule:
    """Raises ValueError, saying what is wrong, for anything that is not exactly one rule.

    authorities: SHA-256 of the DER of each certificate in the file of that path; may raise ValueError or OSError.
    """
    fields = list(parse_fields(line))
    plain, options = fields[:3], fields[3:]
    if len(plain) < 3 or any(field.option for field in plain):
        raise ValueError("a rule is: allow|deny IDENTITY NETWORK [method=GET,HEAD] [ca=PATH]")
    action, identities, networks = (field.items for field in plain)
    given = parse_options(options, "method=GET,HEAD", "ca=PATH")
    return AdmissionRule(
        allow=parse_action(action),
        identities=_identities(identities),
        networks=parse_networks(networks),
        methods=_methods(given["method"]) if "method" in given else None,
        authorities=_authorities(given["ca"], authorities) if "ca" in given else None,
        text=line.strip(),
        source=source,
    )


def _identities(items: Items) -> Identities:
    names = parse_names(items, frozenset({"all", "anonymous"}))
    # They stay among the exact names, too: a pattern matches its own text.
    starred = (item.name for item in items if "*" in item.name and not item.quoted)
    return Identities(names, tuple(Pattern(tuple(name.split("*"))) for name in starred))


def _methods(items: Items) -> frozenset[str]:
    for item in items:
        if not _METHOD.fullmatch(item.name):
            raise ValueError(f"{item.name} is not a method such as GET, in capital letters")
    return frozenset(item.name for item in items)


def _authorities(items: Items, read: Callable[[str], frozenset[bytes]]) -> frozenset[bytes]:
    if len(items) != 1:
        raise ValueError("ca takes one path")
    found = read(items[0].name)
    if not found:
        # Such a rule would never match; one that denies would let in.
        raise ValueError(f"{items[0].name} holds no certificate")
    return found
