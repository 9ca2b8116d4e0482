"""What is asked of `securegw explain`, as the gateway's own code takes it.

Owns which listener is meant. Refuses secrets among the arguments, where every user of the machine can read them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeVar
from urllib.parse import urlsplit

import click

from gateway.cli.errors import Failure
from gateway.cli.files import read_key
from gateway.cli.output import note
from gateway.cli.settings import Installation
from gateway.cli.token_files import read_token

if TYPE_CHECKING:
    from gateway.doors import State
    from gateway.inspection.explain import WebRequest
    from gateway.inspection.explanation import Client
    from gateway.settings import Config, JWTSettings
    from gateway.tokens import VerificationKey
    from gateway.upstream import Address

certificate = click.option(
    "--certificate",
    metavar="PEM",
    help="The client's certificate, and behind it what it sends along. No key is needed.",
)
origin = click.option(
    "--from",
    "origin",
    metavar="ADDRESS",
    required=True,
    help="The IP address that the client comes from, or that a PROXY header says; local for a client of a Unix socket.",
)
key_file = click.option(
    "--key-file",
    metavar="FILE",
    help="The secret key that the client sends is the one line of FILE (- is standard input).",
)
listener_name = click.option(
    "--listener", metavar="NAME", help="Of which section, as NAME in [postgres:NAME]. Default: main, or the only one."
)

_METHOD: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
_VISIBLE: Final = re.compile(r"[!-~]+")
_SCHEME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]*")


class Listener(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def listen(self) -> tuple[Address, ...]: ...


L = TypeVar("L", bound=Listener)


@dataclass(frozen=True, slots=True)
class Asked:
    """path: the INI. client: who asks."""

    path: Path
    config: Config
    client: Client

    @classmethod
    def of(cls, installation: Installation, certificate: str | None, origin: str) -> Asked:
        """Raises Failure, ConfigError, OSError, UsageError."""
        from gateway.inspection.explanation import Client
        from gateway.pem import load_certificates

        path, config = installation.configuration()
        if not config.configured:
            raise Failure(f"{path}: guards nothing; the gateway would start its demonstration with it")
        try:
            chain = load_certificates(Path(certificate)) if certificate is not None else ()
        except ValueError as error:
            raise Failure(f"{error}") from None
        try:
            return cls(path, config, Client("" if origin == "local" else origin, chain))
        except ValueError:
            raise click.BadParameter("is neither an IP address nor local", param_hint="--from") from None

    def listener(self, kind: str, listeners: Sequence[L], name: str | None, port: int | None = None) -> L:
        """The one that is meant, which that client can reach. Raises Failure, UsageError."""
        one, local = chosen(kind, listeners, name, port), not self.client.address
        if not any((not address.port) == local for address in one.listen):
            why = "none of it is a Unix socket, so nobody" if local else "is of Unix sockets alone, so everybody"
            raise click.UsageError(f"[{kind}:{one.name}] listen: {why} comes from local")
        return one

    def state(self, jwt: str | None = None) -> State:
        """What would be in force. jwt: the NAME of the `[jwt:NAME]` whose keys are needed. Raises Failure,
        ConfigError."""
        from gateway.inspection.known_things import things_to_be
        from gateway.inspection.rehearsal import stage
        from gateway.registry.records import LedgerError

        try:
            things = things_to_be(self.config.registry) if self.config.registry is not None else None
        except LedgerError as error:
            raise Failure(f"{error}") from error
        fetched = {} if jwt is None else {jwt: _fetched(self.config.jwt[jwt])}
        return stage(self.config, things, lambda name: fetched.get(name, ()))


def _fetched(jwt: JWTSettings) -> tuple[VerificationKey, ...]:
    """What is at its URL, if it has one and that can be had."""
    if jwt.jwks is None:
        return ()
    from gateway.inspection.key_sets import Unfetched, fetch

    try:
        return fetch(jwt)
    except Unfetched as error:
        note(f"Warning: the keys of [jwt:{jwt.name}] jwks are not known: {error}")
        return ()


# --- which listener -------------------------------------------------------------------------------------------------


def chosen(kind: str, listeners: Sequence[L], name: str | None, port: int | None = None) -> L:
    """The one of that name; else the only one, the only one on that port, or main. Raises Failure, UsageError."""
    if not listeners:
        raise Failure(f"there is no [{kind}:NAME] in the configuration")
    if name is not None:
        found = [one for one in listeners if one.name == name]
    else:
        found = [one for one in listeners if any(address.port == port for address in one.listen)]
        found = found if len(found) == 1 else [one for one in listeners if one.name == "main"]
        found = list(listeners) if len(listeners) == 1 else found
    if not found:
        names = ", ".join(one.name for one in listeners)
        raise click.UsageError(f"say which [{kind}:NAME] is meant; there are: {names}")
    return found[0]


# --- what the client says -------------------------------------------------------------------------------------------


def read_token_or_nothing(path: str | None) -> bytes:
    """Who sends no token sends an empty password. Raises Failure, OSError."""
    return b"" if path is None else read_token(path)


def subject_of(token: bytes) -> str:
    """Whom that token says that it is for; it is not believed here."""
    from gateway.jose import base64url, json_object

    try:
        subject = json_object(base64url(token.split(b".")[1])).get("sub")
    except (ValueError, IndexError):
        subject = None
    return subject if isinstance(subject, str) and subject else "nobody"


def secret(path: str | None) -> bytes | None:
    """Raises Failure, OSError."""
    return None if path is None else read_key(path).encode("utf-8")


def web_request(method: str, url: str, key: bytes | None, scheme: str, subprotocol: str) -> tuple[WebRequest, int]:
    """And the port that it goes to. Raises UsageError."""
    from gateway.inspection.explain import WebRequest

    if not _METHOD.fullmatch(method):
        raise click.UsageError("METHOD is a word such as GET")
    if not _SCHEME.fullmatch(scheme) or not _SCHEME.fullmatch(subprotocol):
        raise click.UsageError("a scheme, and a sub-protocol, is one word")
    try:
        parts = urlsplit(url)
        port = parts.port or 443
    except ValueError as error:
        raise click.UsageError(f"URL: {error}") from None
    if parts.scheme not in ("https", "wss") or not parts.hostname or not _VISIBLE.fullmatch(url):
        raise click.UsageError("URL is one of https://, or of wss:// for a WebSocket; the gateway speaks nothing else")
    if "@" in parts.netloc or "#" in url or "authorization=" in parts.query.lower():
        raise click.UsageError("URL has no user, no fragment, and no key in it: the key comes from --key-file")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    authorization = None if key is None else b"%b %b" % (scheme.encode(), key) if scheme else key
    host = parts.netloc.lower()
    return WebRequest(method, host, target, authorization, parts.scheme == "wss", subprotocol), port
