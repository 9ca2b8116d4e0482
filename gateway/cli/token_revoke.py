"""`securegw token revoke`: a token is not believed any more, and the sessions that it opened end."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.errors import Failure
from gateway.cli.options import as_json
from gateway.cli.output import compact, printable, say, write
from gateway.cli.running import take_up
from gateway.cli.settings import Installation
from gateway.cli.token_files import jwt_name, read_token, section
from gateway.cli.token_reading import verified

if TYPE_CHECKING:
    from gateway.settings import Config, JWTSettings


@click.command()
@click.argument("jti", required=False)
@click.option("--token-file", metavar="FILE", help="The token itself (- is standard input), instead of its jti.")
@jwt_name
@as_json
@click.pass_obj
def revoke(
    installation: Installation, jti: str | None, token_file: str | None, jwt_name: str | None, as_json: bool
) -> None:
    """Revoke a token.

    By its jti or by itself: writes it to the list of [jwt:NAME], and reloads the running gateway, which ends the
    sessions that it has opened. The status is 1 if that fails, though the line stays in the list.

    Of a token that the gateway believes the line can go from the list once it has expired; of a jti alone nobody knows
    until when, so that line stays.

    \b
    Examples:
      securegw token revoke 8c1f8e0f6c9d4c1f9a3b5d7e9f012345
      securegw token revoke --token-file alice.token
    """
    if (jti is None) == (token_file is None):
        raise click.UsageError("give either the jti or --token-file")
    config, settings = section(installation, jwt_name)
    file = _list_of(settings)
    expires = None
    if token_file is not None:
        jti, expires = _of_token(token_file, settings)
    assert jti is not None  # one of the two was given
    new = _add(file, jti, expires, config)
    done = take_up(installation)
    if as_json:
        write([compact({"jti": jti, "file": str(file), "new": new, "reloaded": done.reloaded})])
    else:
        say(f"The token {jti} is revoked." if new else f"The token {jti} was revoked before.")
    done.tell("Reload the gateway for it to take effect.")


def _list_of(settings: JWTSettings) -> Path:
    """Raises Failure, with what would make one."""
    if settings.revoked_file is None:
        raise Failure(
            f"[jwt:{settings.name}] has no list of revoked tokens. Make an empty file, add this line to the section, "
            "reload, and try again:\nrevoked = revoked.txt"
        )
    return settings.revoked_file


def _of_token(path: str, settings: JWTSettings) -> tuple[str, int]:
    """Its jti, and until when it would be believed.

    Only of one that is: whoever brings a forgery of the same jti, with an earlier exp, would have the line of the true
    one dropped early. Raises Failure, OSError.
    """
    try:
        identity = verified(read_token(path), settings, frozenset())
    except Failure as error:
        raise Failure(f"{path}: {error.message}; if it is to be revoked anyway, give its jti") from None
    if identity.serial is None:
        raise Failure(f"{path}: it has no jti, so it cannot be revoked alone: remove the key that signed it")
    assert identity.expires is not None  # no token is believed without an exp
    return identity.serial, math.ceil(identity.expires)


def _add(file: Path, jti: str, expires: int | None, config: Config) -> bool:
    from gateway import revoked_tokens

    leeway = max(one.leeway for one in config.jwt.values() if one.revoked_file == file)
    try:
        return revoked_tokens.add(file, jti, expires, time.time(), leeway)
    except ValueError as error:
        raise Failure(printable(str(error))) from None
