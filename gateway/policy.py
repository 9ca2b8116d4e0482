"""Who may open what: rules of one line each, modelled on pg_hba.conf, and the decision made from them.

Owns the grammar of a rule and the first match through a list of them. Pure and synchronous, so that no byte can race a
verdict. Refuses everything that no rule allows: an empty list denies everyone.

    allow|deny DATABASE SUBJECT NETWORK [role=NAME] [superuser=yes] [replication=yes]
"""

from __future__ import annotations

from dataclasses import dataclass

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
from gateway.wire.postgres import MAX_NAME


@dataclass(frozen=True, slots=True)
class Request:
    """What a proven identity asks for.

    database: empty for replication, which can read all of them whichever it names.
    user: the user of the start-up packet. role: the upstream role mapped from the token.
    address: the client's IP address, or empty for the client of a Unix socket.
    """

    listener: str
    database: str
    user: str
    role: str
    address: str
    replication: bool = False


@dataclass(frozen=True, slots=True)
class Allow:
    """Go in as `role`; only where `superuser` is set may that role be a superuser. `rule` is for the audit."""

    role: str
    superuser: bool
    rule: str


@dataclass(frozen=True, slots=True)
class Deny:
    """Stay out. The reason is for the audit, never for the client."""

    reason: str


Decision = Allow | Deny


@dataclass(frozen=True, slots=True)
class Rule:
    """One line. `source` says where it stands, `text` is the line itself; both are for the audit."""

    allow: bool
    databases: Names
    subjects: Names
    networks: Networks
    role: str | None
    superuser: bool
    replication: bool
    text: str
    source: str

    def match(self, subject: str, request: Request, client: IPAddress | None) -> bool:
        if request.replication and self.allow and not self.replication:
            # Only an allowing rule has to name replication: "deny all bob all" keeps bob from replicating too.
            return False
        return self._covers(request) and self.subjects.match(subject) and self.networks.match(client)

    def _covers(self, request: Request) -> bool:
        if request.replication and not request.database and not self.allow:
            # It can read every database, so also the one that this rule denies.
            return True
        if "sameuser" in self.databases.keywords and request.database == request.user:
            return True
        return self.databases.match(request.database)


class Policy:
    """The rules of one listener."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self.rules = rules

    def decide(self, identity: Identity, request: Request) -> Decision:
        """The first rule that matches decides; without one the answer is no."""
        try:
            client = client_address(request.address)
        except ValueError:
            return Deny(f"the client address {request.address!r} is not an IP address")
        for rule in self.rules:
            if rule.match(identity.subject, request, client):
                where = f"{rule.source}: {rule.text}"
                return Allow(rule.role or request.role, rule.superuser, where) if rule.allow else Deny(where)
        return Deny("no rule matches")


def parse_rule(line: str, source: str) -> Rule:
    """Raises ValueError, saying what is wrong, for anything that is not exactly one rule."""
    fields = list(parse_fields(line))
    plain, options = fields[:4], fields[4:]
    if len(plain) < 4 or any(field.option for field in plain):
        raise ValueError("a rule is: allow|deny DATABASE SUBJECT NETWORK [role=NAME] [superuser=yes] [replication=yes]")
    action, databases, subjects, networks = (field.items for field in plain)
    allow = parse_action(action)
    given = parse_options(options, "role=NAME", "superuser=yes", "replication=yes")
    if given and not allow:
        raise ValueError("a deny rule has no options")
    return Rule(
        allow=allow,
        databases=parse_names(databases, frozenset({"all", "sameuser"})),
        subjects=parse_names(subjects, frozenset({"all"})),
        networks=parse_networks(networks),
        role=_role(given.get("role")),
        superuser=_yes(given, "superuser"),
        replication=_yes(given, "replication"),
        text=line.strip(),
        source=source,
    )


def _role(items: Items | None) -> str | None:
    if items is None:
        return None
    if len(items) != 1:
        raise ValueError("role takes one name")
    return role_name(items[0].name)


def _yes(given: dict[str, Items], option: str) -> bool:
    if option not in given:
        return False
    if [item.name for item in given[option]] != ["yes"]:
        raise ValueError(f"{option} takes only yes")
    return True


def role_name(text: str) -> str:
    """PostgreSQL cuts a longer name (manual, "Identifiers and Key Words"), and it might then be another role's."""
    if len(text.encode()) > MAX_NAME:
        raise ValueError(f"the role {text} is longer than the {MAX_NAME} bytes that PostgreSQL allows")
    return text
