"""`securegw token issue`: from a private key and options to a token."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from gateway.cli import files
from gateway.cli.options import as_json, force
from gateway.cli.output import compact, note, write
from gateway.cli.settings import Installation
from gateway.cli.strict_json import Malformed, json_object
from gateway.cli.token_files import certificate, jwt_name, passphrase_file, private_key, section_if_any

if TYPE_CHECKING:
    from gateway.settings import JWTSettings
    from gateway.token_issuing import PrivateKey

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

# Whoever needs to be let in for longer is not meant to be let in by something that can be copied.
_MAX_LIFETIME: Final = 366 * 86_400


class Lifetime(click.ParamType[int]):
    """`30s`, `15m`, `8h`, `7d` → seconds."""

    name = "lifetime"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(r"([1-9][0-9]{0,8})([smhd])", value)
        if found is None:
            self.fail(f"{value!r} is not a time such as 30s, 15m, 8h or 7d", param, ctx)
        seconds = int(found[1]) * _UNITS[found[2]]
        if seconds > _MAX_LIFETIME:
            self.fail(f"{value} is more than a year (366d): a token is for somebody who will ask again", param, ctx)
        return seconds


class Claim(click.ParamType[tuple[str, Any]]):
    """`NAME=JSON` → (name, value)."""

    name = "claim"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        name, equals, text = value.partition("=")
        if not name or not equals:
            self.fail(f"{value!r} is not NAME=JSON", param, ctx)
        try:
            read = json_object(f'{{"value": {text}}}')
        except Malformed as error:
            self.fail(f'{name}: what is behind the = {error} (a text needs quotes: "reader")', param, ctx)
        if len(read) != 1:
            self.fail(f"{name}: has more than one value", param, ctx)
        return name, read["value"]


@click.command()
@click.option(
    "--key", metavar="FILE", required=True, help="The private key, as `keygen` makes it (- is standard input)."
)
@passphrase_file
@click.option("--sub", "subject", metavar="USER", required=True, help="Whose it is: the user that may log in with it.")
@click.option("--ttl", type=Lifetime(), metavar="TIME", required=True, help="How long it is good: 30s, 15m, 8h or 7d.")
@click.option("--db", "databases", metavar="NAME", multiple=True, help="Only for this database; several are possible.")
@click.option("--cidr", "networks", metavar="CIDR", multiple=True, help="Only from this network; several are possible.")
@click.option("--bind-cert", metavar="CRT", help="Only together with this client certificate (RFC 8705).")
@click.option("--iss", "issuer", metavar="TEXT", help="Default: the issuer of [jwt:NAME].")
@click.option("--aud", "audience", metavar="TEXT", multiple=True, help="Default: the first audience of [jwt:NAME].")
@click.option("--claim", "claims", type=Claim(), metavar="NAME=JSON", multiple=True, help="A further claim.")
@jwt_name
@click.option("--out", metavar="FILE", help="Write it to FILE (0600) instead of standard output.")
@force
@as_json
@click.pass_obj
def issue(
    installation: Installation,
    /,
    *,
    key: str,
    passphrase_file: str | None,
    jwt_name: str | None,
    bind_cert: str | None,
    out: str | None,
    force: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Issue a token.

    --db and --cidr narrow what the gateway's rules allow; nothing widens it.

    Whoever has the token is USER until it expires: --bind-cert makes it useless without that certificate's key, and
    `securegw token revoke` takes it back.

    \b
    Examples:
      securegw token issue --key issuer.key --sub alice --ttl 8h --out alice.token
      securegw token issue --key issuer.key --sub bi --ttl 7d --cidr 192.0.2.0/24
      securegw token issue --key issuer.key --sub bob --ttl 1h --bind-cert bob.crt
      securegw token issue --key issuer.key --sub eve --ttl 1h --claim 'role="ro"'
    """
    settings, secret = section_if_any(installation, jwt_name), private_key(key, passphrase_file)
    bound = None if bind_cert is None else certificate(bind_cert)
    token, made = _issued(secret, settings, bound, asked)
    _warn(secret, settings, asked["ttl"])
    if out is None:
        write([compact({"token": token, **made}) if as_json else token])
    else:
        with files.private(Path(out), force) as draft:
            write([token], draft.file)
        write([compact({"file": out, **made})] if as_json else [])
    until = datetime.fromtimestamp(made["exp"], UTC)
    note(f"The token of {made['sub']} (jti {made['jti']}) is good until {until:%Y-%m-%d %H:%M:%S} UTC.")


def _issued(
    secret: PrivateKey, settings: JWTSettings | None, bound: bytes | None, asked: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """The token, and what tells it from others. Raises UsageError."""
    from gateway.jose import base64url, json_object
    from gateway.token_issuing import issue as signed

    claims = dict(asked["claims"])
    if len(claims) != len(asked["claims"]):
        raise click.UsageError("--claim is given twice for one claim")
    issuer, audience = (settings.issuer, settings.audience[:1]) if settings else (None, ())
    try:
        token = signed(
            secret,
            subject=asked["subject"],
            lifetime=asked["ttl"],
            now=time.time(),
            issuer=issuer if asked["issuer"] is None else asked["issuer"],
            audience=asked["audience"] or audience,
            databases=asked["databases"],
            networks=asked["networks"],
            certificate=bound,
            claims=claims,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    payload = json_object(base64url(token.split(".")[1].encode("ascii")))
    return token, {name: payload[name] for name in ("sub", "jti", "exp")}


def _warn(secret: PrivateKey, settings: JWTSettings | None, lifetime: int) -> None:
    """Of what makes the gateway of this configuration refuse the token, although it is a good one elsewhere."""
    from gateway.tokens import VerificationKey

    if settings is None:
        return
    if settings.max_lifetime is not None and lifetime > settings.max_lifetime:
        allowed = f"{settings.max_lifetime:g} seconds"
        note(f"Warning: [jwt:{settings.name}] max_lifetime is {allowed}, so the gateway will refuse this token.")
    thumbprint = VerificationKey(secret.public_key()).thumbprint
    if settings.jwks is None and all(key.thumbprint != thumbprint for key in settings.keys):
        note(f"Warning: this key is not one of [jwt:{settings.name}], so the gateway will refuse this token.")
