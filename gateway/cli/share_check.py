"""`securegw share check`: the proof that a share is as tight as it was made, through the running gateway."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from gateway.cli import files
from gateway.cli.errors import Failure
from gateway.cli.options import as_json
from gateway.cli.output import listed, note, table, write
from gateway.cli.running import enter
from gateway.cli.settings import Installation
from gateway.cli.share_admin import Target, Who, admin_options, maintenance
from gateway.cli.token_files import certificate, passphrase_file, private_key, read_token
from gateway.errors import Denied

if TYPE_CHECKING:
    from gateway.settings import Config, JWTSettings, PostgresListener
    from gateway.share.share import Share
    from gateway.share.tried import Tried

# Seconds; one is made for each connection.
_LIFETIME: Final = 60
# Characters of what was found, in a table.
_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class _Given:
    """Files: what the partner has, or what signs a token for it; and the authority of the gateway's certificate."""

    key: str | None
    passphrase_file: str | None
    token_file: str | None
    cert: str | None
    cert_key: str | None
    ca: str | None

    def check(self, password_file: str | None) -> None:
        """Raises UsageError."""
        if (self.key is None) == (self.token_file is None):
            raise click.UsageError("say exactly one of --key and --token-file")
        if (self.cert is None) != (self.cert_key is None):
            raise click.UsageError("--cert and --cert-key go together")
        files.once(self.key, self.passphrase_file, self.token_file, password_file)


@click.command()
@click.argument("name")
@click.option(
    "--key", metavar="FILE", help="The private key that signs a short token of the partner's (- is standard input)."
)
@passphrase_file
@click.option("--token-file", metavar="FILE", help="Instead of --key, a token of the partner's (- is standard input).")
@click.option("--cert", metavar="FILE", help="The partner's certificate (PEM), where the gateway asks for one.")
@click.option("--cert-key", metavar="FILE", help="The private key of --cert (PEM, without a passphrase).")
@click.option("--listener", metavar="NAME", help="Through [postgres:NAME]. Default: the only one with that upstream.")
@click.option(
    "--ca", metavar="FILE", help="The authority of the gateway's certificate (PEM). Default: the chain behind it."
)
@maintenance
@admin_options
@as_json
@click.pass_obj
def check(
    installation: Installation,
    /,
    name: str,
    listener: str | None,
    who: Who,
    database: str,
    as_json: bool,
    **given: str | None,
) -> None:
    """Prove that a share shares nothing else.

    Its partner can read the view, and that is all.

    The catalogs of the database are asked what the role may do. The rules of the INI are asked who gets in. Then all of
    it is really tried, as the partner, through the running gateway: reading, other tables, writing, files and programs
    of the server, other roles, other databases, plain text, another network. To come from the partner's network, and
    from others, its connections are handed to the gateway over its control socket. What is tried is rolled back. At
    last the server is asked, from here, whether pg_hba.conf lets the role in past the gateway.

    Verdicts: ok; known, what PostgreSQL lets every role do; LOOSENED, more than a share may; UNPROVEN, where something
    else went wrong. With one of the last two the exit status is 1.

    \b
    Examples:
      securegw share check orders_acme --key issuer.key
      securegw share check orders_acme --token-file acme.token --ca ca.crt --json
      securegw share check orders_acme --token-file acme.token \\
          --cert acme.crt --cert-key acme.key
    """
    from gateway.share.bypass import ELSEWHERE
    from gateway.share.tried import holds

    asked = _Given(**given)
    asked.check(who.password_file)
    rows = _rows(installation, Target.of(installation, who), name, database, listener, asked)
    _tell(rows, as_json)
    note(ELSEWHERE)
    if not holds(rows):
        wrong = sum(not one.verdict.good for one in rows)
        those = "is not as it has" if wrong == 1 else "are not as they have"
        note(f"The share {name} is not proven to be tight: {wrong} of {len(rows)} rows {those} to be.")
        click.get_current_context().exit(1)


def _rows(
    installation: Installation, target: Target, name: str, database: str, listener: str | None, asked: _Given
) -> list[Tried]:
    """Raises Failure for whatever would make all of it fail, before anything is tried."""
    from gateway.share import listeners as all_listeners
    from gateway.share import proof
    from gateway.share.entrance import Gate

    found = target.record(name, database)
    if found is None:
        raise Failure(f"there is no share {name}")
    share = found.share
    listeners = [one for one in target.config.postgres if one.upstream == target.upstream.name]
    through = _chosen(listeners, listener, target.upstream.name)
    server, authorities = _server(through, asked.ca)
    certificate = _certificate(through, asked)
    token = _token(target.config, through, share, asked)
    entering = partial(enter, installation.control(), f"postgres:{through.name}")
    known = target.perform(share.database, lambda admin: proof.look(admin, share.name))
    leading = all_listeners.leading_to(target.upstream, target.config.postgres, target.config.upstreams)
    others = [one for one in target.config.postgres if one not in leading]
    way = Gate(share, entering, server, authorities, token, certificate)
    beside = all_listeners.rows(share, known.survey, others, target.config.upstreams, target.role)
    return [*proof.rows(known, target.upstream, leading, through, way), *beside]


def _tell(rows: Sequence[Tried], as_json: bool) -> None:
    if as_json:
        told = ({"tried": one.what, "expected": one.expected, "got": one.got, "verdict": one.verdict} for one in rows)
        write(listed(told))
    else:
        shown = [(one.what, one.expected, _short(one), one.verdict) for one in rows]
        write(table(("tried", "expected", "got", "verdict"), shown))


def _short(row: Tried) -> str:
    """What is as it has to be need not be told in full, such as the whole of a rule."""
    if not row.verdict.good or len(row.got) <= _SHOWN:
        return row.got
    return f"{row.got[: _SHOWN - 1]}…"


# --- the partner's way ------------------------------------------------------------------------------------------------


def _chosen(listeners: list[PostgresListener], name: str | None, upstream: str) -> PostgresListener:
    found = [one for one in listeners if name in (None, one.name)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(one.name for one in listeners) or "none"
    raise Failure(
        f"which [postgres:NAME] with upstream = {upstream} is meant? There is: {known}; say it with --listener"
    )


def _server(listener: PostgresListener, ca: str | None) -> tuple[str, Path]:
    """A name of the listener's certificate, and the file with what vouches for it."""
    from gateway.pem import load_certificates
    from gateway.share.entrance import server_name
    from gateway.share.share import ShareError

    if listener.tls is None:
        raise Failure(f"[postgres:{listener.name}] has no certificate")
    try:
        certificates = load_certificates(listener.tls.certificate)
        server = server_name(certificates[0])
        load_certificates(Path(ca) if ca is not None else listener.tls.certificate)
    except (ValueError, ShareError) as error:
        raise Failure(str(error)) from None
    if ca is None and not any(one.issuer == one.subject for one in certificates):
        raise Failure(
            f"{listener.tls.certificate}: the chain does not end in an authority's own certificate; give --ca"
        )
    return server, Path(ca) if ca is not None else listener.tls.certificate


def _certificate(listener: PostgresListener, asked: _Given) -> tuple[Path, Path] | None:
    """The partner's, and its key. Raises Failure for those that libpq, or the listener, would not take."""
    from gateway.pem import exposed, load_certificates, load_key

    if asked.cert is None or asked.cert_key is None:
        if listener.tls is not None and listener.tls.client_certificate == "required":
            reason = "lets nobody in without a certificate: give the partner's, with --cert and --cert-key"
            raise Failure(f"[postgres:{listener.name}] {reason}")
        return None
    certificate, key = Path(asked.cert), Path(asked.cert_key)
    try:
        matches = load_certificates(certificate)[0].public_key() == load_key(key).public_key()
    except ValueError as error:
        raise Failure(str(error)) from None
    if not matches:
        raise Failure(f"{key}: does not match the certificate {certificate}")
    if exposed(key):
        raise Failure(f"{key}: can be read by others, so no client of PostgreSQL takes it: chmod 600")
    return certificate, key


def _token(config: Config, listener: PostgresListener, share: Share, asked: _Given) -> Callable[[], str]:
    if asked.token_file is not None:
        given = _given_token(asked.token_file, asked.cert)
        return lambda: given
    claims = {} if listener.role_claim is None else {listener.role_claim: share.name}
    return _issuer(config.jwt[listener.jwt], share.subject, claims, asked)


def _given_token(path: str, cert: str | None) -> str:
    """Raises Failure, also for one that is bound to another certificate, or to any and there is none."""
    from gateway.identity import Identity
    from gateway.jose import base64url, json_object
    from gateway.tokens import certificate_bound

    token = read_token(path)
    try:
        _, claims, _ = map(base64url, token.split(b"."))
        holder = Identity("jwt", "", inf, claims=json_object(claims))
    except ValueError:
        raise Failure(f"{path}: is no token") from None
    try:
        certificate_bound(holder, None if cert is None else certificate(cert))
    except Denied as error:
        raise Failure(f"{path}: {error}; the partner's is given with --cert and --cert-key") from None
    return token.decode("ascii")


def _issuer(wanted: JWTSettings, subject: str, claims: Mapping[str, str], asked: _Given) -> Callable[[], str]:
    from gateway.token_issuing import issue

    key = asked.key or ""
    secret, audience = private_key(key, asked.passphrase_file), wanted.audience[:1]
    lifetime = int(min(_LIFETIME, wanted.max_lifetime or _LIFETIME))

    def made() -> str:
        now = time.time()
        try:
            return issue(
                secret,
                subject=subject,
                lifetime=lifetime,
                now=now,
                issuer=wanted.issuer,
                audience=audience,
                claims=claims,
            )
        except ValueError as error:
            raise Failure(f"{key}: {error}") from None

    return made
