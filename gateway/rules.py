"""The grammar of a line that lets in or keeps out, which `policy` and `admission` share, modelled on pg_hba.conf.

Owns fields, lists, quotes, comments, options, and what a network is. Refuses, always as ValueError, what it cannot read
whole, and words to which pg_hba.conf gives a meaning that we do not have.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

IPAddress = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


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


def client_address(address: str) -> IPAddress | None:
    """None for the empty address of a Unix socket's client; ValueError for what is no IP address.

    A dual-stack socket shows IPv4 clients as ::ffff:1.2.3.4 (RFC 4291, 2.5.5.2); rules speak of 1.2.3.4.
    """
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
class Item:
    """One name of a list. Quoted, it is nothing but a name."""

    name: str
    quoted: bool


Items = tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a line: a list, or `option=` and a list."""

    option: str | None
    items: Items


def parse_fields(line: str) -> Iterator[Field]:
    position = _skip(line, 0)
    while position < len(line):
        found = _FIELD.match(line, position)
        if found is None:
            raise ValueError(f"cannot read the rule from here on: {line[position:]}")
        yield Field(found["option"], tuple(_item(text) for text in _ITEM.findall(found["names"])))
        position = _skip(line, found.end())


def _skip(line: str, position: int) -> int:
    found = _SPACE.match(line, position)
    return found.end() if found else position


def _item(text: str) -> Item:
    if text.startswith('"'):
        return Item(text[1:-1].replace('""', '"'), quoted=True)
    return Item(text, quoted=False)


def parse_action(items: Items) -> bool:
    """Whether the rule allows."""
    if items == (Item("allow", quoted=False),):
        return True
    if items == (Item("deny", quoted=False),):
        return False
    raise ValueError("a rule begins with allow or deny")


def parse_names(items: Items, keywords: frozenset[str]) -> Names:
    for item in items:
        if item.quoted or item.name in keywords:
            continue
        if item.name in _UNSUPPORTED_WORDS or item.name.startswith(_UNSUPPORTED_MARKS):
            raise ValueError(f"{item.name} is not supported here (quote it if it is a name)")
    found = frozenset(item.name for item in items if not item.quoted) & keywords
    return Names(frozenset(item.name for item in items if item.quoted or item.name not in keywords), found)


def parse_networks(items: Items) -> Networks:
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


def parse_options(fields: list[Field], *spellings: str) -> dict[str, Items]:
    """Each option at most once. `spellings` are all that there are, as `name=what it takes`."""
    known = {spelling.partition("=")[0] for spelling in spellings}
    given: dict[str, Items] = {}
    for field in fields:
        if field.option not in known:
            raise ValueError(f"an option is one of {', '.join(spellings)}")
        if field.option in given:
            raise ValueError(f"{field.option} is given twice")
        given[field.option] = field.items
    return given
