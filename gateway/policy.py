"""Who may open what: rules of one line each, modelled on pg_hba.conf, and the decision made from them.

Owns the grammar of a rule and the first match through a list of them. Pure and synchronous, so that no byte can race a
verdict. Refuses everything that no rule allows: an empty list denies everyone.

    allow|deny DATABASE SUBJECT NETWORK [role=NAME] [superuser=yes] [replication=yes]
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from gateway.identity import Identity
from gateway.wire.postgres import MAX_NAME

IPAddress = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


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
class Names:
    """One list of a rule: exact names, and keywords that were not quoted."""

    exact: frozenset[str]
    keywords: frozenset[str]

    def match(self, name: str) -> bool:
        return "all" in self.keywords or name in self.exact


@dataclass(frozen=True, slots=True)
class Networks:
    """Where a client may come from. `all` is every client, `local` those of a Unix socket."""

    exact: tuple[Network, ...]
    keywords: frozenset[str]

    def match(self, client: IPAddress | None) -> bool:
        if "all" in self.keywords:
            return True
        if client is None:
            return "local" in self.keywords
        return any(client in network for network in self.exact)


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
            client = _client(request.address)
        except ValueError:
            return Deny(f"the client address {request.address!r} is not an IP address")
        for rule in self.rules:
            if rule.match(identity.subject, request, client):
                where = f"{rule.source}: {rule.text}"
                return Allow(rule.role or request.role, rule.superuser, where) if rule.allow else Deny(where)
        return Deny("no rule matches")


def _client(address: str) -> IPAddress | None:
    """A dual-stack socket shows IPv4 clients as ::ffff:1.2.3.4 (RFC 4291, 2.5.5.2); rules speak of 1.2.3.4."""
    if not address:
        return None
    client = ip_address(address)
    return client.ipv4_mapped or client if isinstance(client, IPv6Address) else client


# --- the grammar of a line (PostgreSQL manual, "The pg_hba.conf File") ----------------------------------------------

_NAME = r'(?:"(?:[^"]|"")+"|[^\s,"#=]+)'
_ITEM = re.compile(_NAME)
_FIELD = re.compile(rf"(?:(?P<option>[a-z]+)=)?(?P<names>{_NAME}(?:,\s*{_NAME})*)(?=\s|#|\Z)")
_SPACE = re.compile(r"\s*(?:#.*\Z)?", re.DOTALL)

# pg_hba.conf gives these a meaning that we do not have; taken as plain names, a line copied from there would mislead.
_UNSUPPORTED_WORDS = frozenset({"sameuser", "samerole", "samegroup", "replication", "samehost", "samenet"})
_UNSUPPORTED_MARKS = ("+", "/", "@")

_CIDR = re.compile(r"[0-9A-Fa-f.:]+(?:/(?:0|[1-9][0-9]{0,2}))?")


@dataclass(frozen=True, slots=True)
class _Item:
    name: str
    quoted: bool


@dataclass(frozen=True, slots=True)
class _Field:
    option: str | None
    items: tuple[_Item, ...]


def parse_rule(line: str, source: str) -> Rule:
    """Raises ValueError, saying what is wrong, for anything that is not exactly one rule."""
    fields = list(_fields(line))
    plain, options = fields[:4], fields[4:]
    if len(plain) < 4 or any(field.option for field in plain):
        raise ValueError("a rule is: allow|deny DATABASE SUBJECT NETWORK [role=NAME] [superuser=yes] [replication=yes]")
    action, databases, subjects, networks = (field.items for field in plain)
    allow = _allow(action)
    given = _options(options)
    if given and not allow:
        raise ValueError("a deny rule has no options")
    return Rule(
        allow=allow,
        databases=_names(databases, frozenset({"all", "sameuser"})),
        subjects=_names(subjects, frozenset({"all"})),
        networks=_networks(networks),
        role=given.get("role"),
        superuser="superuser" in given,
        replication="replication" in given,
        text=line.strip(),
        source=source,
    )


def _fields(line: str) -> Iterator[_Field]:
    position = _skip(line, 0)
    while position < len(line):
        found = _FIELD.match(line, position)
        if found is None:
            raise ValueError(f"cannot read the rule from here on: {line[position:]}")
        yield _Field(found["option"], tuple(_item(text) for text in _ITEM.findall(found["names"])))
        position = _skip(line, found.end())


def _skip(line: str, position: int) -> int:
    found = _SPACE.match(line, position)
    return found.end() if found else position


def _item(text: str) -> _Item:
    if text.startswith('"'):
        return _Item(text[1:-1].replace('""', '"'), quoted=True)
    return _Item(text, quoted=False)


def _allow(items: tuple[_Item, ...]) -> bool:
    if items == (_Item("allow", quoted=False),):
        return True
    if items == (_Item("deny", quoted=False),):
        return False
    raise ValueError("a rule begins with allow or deny")


def _names(items: tuple[_Item, ...], keywords: frozenset[str]) -> Names:
    for item in items:
        if item.quoted or item.name in keywords:
            continue
        if item.name in _UNSUPPORTED_WORDS or item.name.startswith(_UNSUPPORTED_MARKS):
            raise ValueError(f"{item.name} is not supported here (quote it if it is a name)")
    found = frozenset(item.name for item in items if not item.quoted) & keywords
    return Names(frozenset(item.name for item in items if item.quoted or item.name not in keywords), found)


def _networks(items: tuple[_Item, ...]) -> Networks:
    words = frozenset(item.name for item in items if not item.quoted) & {"all", "local"}
    return Networks(tuple(parse_network(item.name) for item in items if item.quoted or item.name not in words), words)


def parse_network(text: str) -> Network:
    """An address or a CIDR; a netmask, a zone, or host bits that are set are refused, not interpreted."""
    if not _CIDR.fullmatch(text):
        raise ValueError(f"{text} is not an address or a CIDR such as 192.0.2.0/24")
    network = ip_network(text)
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped:
        raise ValueError(f"{text} would never match: write an IPv4 client as IPv4")
    return network


def _options(fields: list[_Field]) -> dict[str, str]:
    given: dict[str, str] = {}
    for field in fields:
        if field.option not in ("role", "superuser", "replication"):
            raise ValueError("an option is one of role=NAME, superuser=yes, replication=yes")
        if field.option in given:
            raise ValueError(f"{field.option} is given twice")
        if len(field.items) != 1 or (field.option != "role" and field.items[0].name != "yes"):
            raise ValueError(f"{field.option} takes {'one name' if field.option == 'role' else 'only yes'}")
        given[field.option] = field.items[0].name
    if "role" in given:
        role_name(given["role"])
    return given


def role_name(text: str) -> str:
    """PostgreSQL cuts a longer name (manual, "Identifiers and Key Words"), and it might then be another role's."""
    if len(text.encode()) > MAX_NAME:
        raise ValueError(f"the role {text} is longer than the {MAX_NAME} bytes that PostgreSQL allows")
    return text
