"""`securegw token inspect` and `verify`: what a token says, and whether it would be believed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from gateway.cli.errors import Failure
from gateway.cli.options import as_json
from gateway.cli.output import compact, note, printable, record, write
from gateway.cli.settings import Installation
from gateway.cli.token_files import certificate, jwt_name, meant_file, read_token, section, token_file
from gateway.errors import Denied

if TYPE_CHECKING:
    from gateway.identity import Identity
    from gateway.settings import JWTSettings
    from gateway.tokens import VerificationKey

_DATES: Final = ("iat", "nbf", "exp")


class Refused(Failure):
    """The gateway would not believe it. reason: as the audit has it."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"refused: {reason}")
        self.reason = reason


@click.command()
@click.argument("file", metavar="FILE|-", required=False)
@token_file
@as_json
def inspect(file: str | None, token_file: str | None, as_json: bool) -> None:
    """Show what a token says of itself.

    Nothing of it is verified: anybody can write such a token. FILE, or --token-file FILE, may be - for standard input.

    \b
    Examples:
      securegw token inspect alice.token
      securegw token inspect - --json < alice.token
    """
    header, claims = _unverified(meant_file(file, token_file))
    note("Not verified: anybody can write such a token. `securegw token verify` tells whether it is believed.")
    if as_json:
        write([compact({"verified": False, "header": header, "claims": claims})])
    else:
        write(record({f"header {printable(name)}": _shown(value) for name, value in header.items()}))
        write(_claims(claims))


@click.command()
@click.argument("file", metavar="FILE|-", required=False)
@token_file
@jwt_name
@click.option("--cert", metavar="CRT", help="The client's certificate, for a token that is bound to one.")
@as_json
@click.pass_obj
def verify(
    installation: Installation,
    file: str | None,
    token_file: str | None,
    jwt_name: str | None,
    cert: str | None,
    as_json: bool,
) -> None:
    """Verify a token as the gateway does.

    By [jwt:NAME]; status 1, and the reason, if it would not believe it. FILE, or --token-file FILE, may be - for
    standard input.

    This is the first half of a login. The rules are the second: `securegw explain` tells what they make of it. Where
    jwks is a URL, its keys are fetched for this now; the running gateway has its own, which may be older.

    \b
    Examples:
      securegw token verify alice.token
      securegw token verify - --cert alice.crt < alice.token
    """
    path, settings = meant_file(file, token_file), section(installation, jwt_name)[1]
    peer = None if cert is None else certificate(cert)
    try:
        identity = _shown_with(read_token(path), settings, peer)
    except Refused as error:
        if as_json:
            write([compact({"verified": False, "reason": error.reason})])
        raise
    if as_json:
        write([compact({"verified": True, "claims": dict(identity.claims)})])
    else:
        write(_claims(identity.claims))
        note(f"The gateway believes it, by [jwt:{settings.name}].")


def _shown_with(token: bytes, settings: JWTSettings, peer: bytes | None) -> Identity:
    """peer: the certificate of whoever shows it, in DER. Raises Failure."""
    from gateway.tokens import certificate_bound

    identity = verified(token, settings, settings.revoked)
    with _refused():
        certificate_bound(identity, peer)
    return identity


def verified(token: bytes, settings: JWTSettings, revoked: frozenset[str], now: float | None = None) -> Identity:
    """Whom it proves, unless it is bound to a certificate that is not theirs. now: seconds since the epoch; None: as
    the clock has it. Raises Failure."""
    from gateway.restrictions import restrictions
    from gateway.tokens import TokenVerifier

    verifier = TokenVerifier(
        _keys(settings),
        issuer=settings.issuer,
        audience=settings.audience,
        leeway=settings.leeway,
        max_lifetime=settings.max_lifetime,
        revoked=revoked,
        revocable=settings.revoked_file is not None,
    )
    with _refused():
        identity = verifier.verify(token, time.time() if now is None else now)
        restrictions(identity.claims)
    return identity


@contextmanager
def _refused() -> Iterator[None]:
    """Raises Refused."""
    try:
        yield
    except Denied as error:
        raise Refused(str(error)) from None


def _keys(settings: JWTSettings) -> tuple[VerificationKey, ...]:
    """Raises Failure."""
    if settings.jwks is None:
        return settings.keys
    from gateway.inspection.key_sets import Unfetched, fetch

    try:
        keys = fetch(settings)
    except Unfetched as error:
        raise Failure(f"{settings.jwks}: cannot be fetched: {error}") from None
    note(f"The keys of {settings.jwks} were fetched now.")
    return (*settings.keys, *keys)


# --- what it says ---------------------------------------------------------------------------------------------------


def _unverified(file: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims. Raises Failure, OSError."""
    from gateway.jose import base64url, json_object

    parts = read_token(file).split(b".")
    if len(parts) != 3:
        raise Failure(f"{file}: is not a JWT: three parts, with a dot between them, are expected")
    found = []
    for name, part in zip(("header", "claims set"), parts, strict=False):
        try:
            found.append(json_object(base64url(part)))
        except ValueError as error:
            raise Failure(f"{file}: its {name} {error}") from None
    header, claims = found
    return header, claims


def _claims(claims: Mapping[str, Any]) -> Iterator[str]:
    return record({printable(name): _claim(name, value) for name, value in claims.items()})


def _claim(name: str, value: Any) -> str:
    if name not in _DATES or isinstance(value, bool) or not isinstance(value, int | float):
        return _shown(value)
    try:
        date = datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{_shown(value)} (not a date)"
    return f"{_shown(value)} ({date:%Y-%m-%d %H:%M:%S} UTC, {_distance(value - time.time())})"


def _distance(seconds: float) -> str:
    """In its two largest units: `in 1 d 4 h`, `3 min 20 s ago`."""
    parts = list(_units(abs(int(seconds))))[:2]
    text = " ".join(parts) or "0 s"
    return f"in {text}" if seconds > 0 else f"{text} ago"


def _units(seconds: int) -> Iterator[str]:
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, seconds = divmod(seconds, size)
        if count:
            yield f"{count} {unit}"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else compact(value)
