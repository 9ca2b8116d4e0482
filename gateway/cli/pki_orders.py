"""What a certificate is wanted for, from the words of the command to the authority's order.

Owns which words go with which kind of certificate. Refuses, as a wrong use of the command, words that do not, and names
that no certificate should have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import click
from cryptography import x509

from gateway.authority import names
from gateway.authority.authority import Order
from gateway.authority.errors import AuthorityError
from gateway.authority.kinds import DAYS
from gateway.authority.requests import Request, requested
from gateway.cli.errors import Failure
from gateway.cli.files import read_key
from gateway.cli.output import printable
from gateway.registry.records import MIN_KEY

Wanted = TypeVar("Wanted")

_WORDS: Final = {
    "server": {"dns", "ip"},
    "thing": {"key_file", "identifier", "dns", "email", "uri"},
    "client": {"cn", "dns", "email", "uri"},
}
_OPTIONS: Final = {"key_file": "--key-file", "identifier": "--id"}

# The names that each kind may have, and so may ask for.
_FORMS: Final[dict[str, tuple[type[x509.GeneralName], ...]]] = {
    "server": (x509.DNSName, x509.IPAddress),
    "thing": (x509.DNSName, x509.RFC822Name, x509.UniformResourceIdentifier),
    "client": (x509.DNSName, x509.RFC822Name, x509.UniformResourceIdentifier),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What was said on the command line. key_file: of the thing's secret key. days: None for what is usual."""

    name: str
    days: int | None = None
    dns: tuple[str, ...] = ()
    ip: tuple[str, ...] = ()
    email: tuple[str, ...] = ()
    uri: tuple[str, ...] = ()
    cn: str | None = None
    key_file: str | None = None
    identifier: str | None = None


def order(kind: str, asked: Asked, request: Request | None = None, *, take_names: bool = False) -> Order:
    """take_names: those that the request asks for, too. Raises UsageError, Failure, OSError."""
    for word in ("dns", "ip", "email", "uri", "cn", "key_file", "identifier"):
        if getattr(asked, word) and word not in _WORDS[kind]:
            raise click.UsageError(f"{_OPTIONS.get(word, f'--{word}')} is not for a {kind}")
    _said(names.file_name, asked.name)
    alternatives = tuple(_named(asked))
    if request is not None:
        alternatives = _with_requested(kind, alternatives, request, take_names)
    subject, shown = _subject(kind, asked, alternatives)
    return Order(asked.name, kind, subject, shown, alternatives, asked.days or DAYS[kind])


def _named(asked: Asked) -> Sequence[x509.GeneralName]:
    found: list[x509.GeneralName] = [_said(names.dns, one) for one in asked.dns]
    found += [_said(names.ip, one) for one in asked.ip]
    found += [_said(names.email, one) for one in asked.email]
    found += [_said(names.uri, one) for one in asked.uri]
    return list(dict.fromkeys(found))


def _with_requested(
    kind: str, named: tuple[x509.GeneralName, ...], request: Request, take: bool
) -> tuple[x509.GeneralName, ...]:
    """Whoever sends a request could ask for anybody's name, so that it takes a word of ours."""
    if take:
        try:
            return tuple(dict.fromkeys((*named, *requested(request, _FORMS[kind]))))
        except AuthorityError as error:
            raise Failure(str(error)) from error
    if kind == "server" and not named and request.names:
        asked = ", ".join(map(names.shown, request.names))
        raise Failure(f"the request asks for {asked}: say which names it gets, or --requested-names for these")
    return named


def _subject(kind: str, asked: Asked, alternatives: tuple[x509.GeneralName, ...]) -> tuple[x509.Name, str]:
    """And how it is shown."""
    if kind == "thing":
        return _thing(asked)
    if kind == "client":
        name = asked.name if asked.cn is None else asked.cn
        return _said(names.subject, name), name
    if not alternatives:
        raise click.UsageError("a server has at least one name: --dns or --ip")
    subject = names.server_subject(alternatives)
    return subject, names.common_name(subject) or asked.name


def _thing(asked: Asked) -> tuple[x509.Name, str]:
    if (asked.key_file is None) == (asked.identifier is None):
        raise click.UsageError("a thing is named by its key or by its id: give --key-file or --id")
    if asked.identifier is not None:
        subject = _said(names.id_subject, asked.identifier)
        return subject, names.common_name(subject)
    assert asked.key_file is not None
    key = read_key(asked.key_file)
    if len(key) < MIN_KEY:
        raise Failure(f"{asked.key_file}: a thing's key has at least {MIN_KEY} characters, or the registry refuses it")
    try:
        return names.key_subject(key), names.key_shown(key)
    except AuthorityError as error:
        raise Failure(f"{asked.key_file}: {error}") from error


def _said(read: Callable[[str], Wanted], text: str) -> Wanted:
    """A word of the command line. Raises UsageError."""
    try:
        return read(text)
    except AuthorityError as error:
        raise click.UsageError(printable(str(error))) from error
