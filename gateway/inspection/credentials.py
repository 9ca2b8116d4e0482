"""Certificates, keys, revocation lists and secrets, as they lie on the disk.

Owns what a person should know of them before anybody connects. Whether they can be read and belong together is checked
where the gateway reads them; what is said here is said of files that can.
"""

from __future__ import annotations

import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby, pairwise
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from gateway.errors import Problems
from gateway.inspection.expiry import Expiry, clients_tls, expiries, left, listeners_tls
from gateway.inspection.findings import Finding, Level, fail, ok, warn
from gateway.inspection.given import given
from gateway.net.fetching import context
from gateway.pem import UNREADABLE, load_certificates
from gateway.settings import Config, JWTSettings
from gateway.tokens import VerificationKey
from gateway.trust import weak_key, weak_signature
from gateway.upstream import ServerTLS

_USES: Final = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}


def check_dates(config: Config, now: datetime | None = None) -> Iterator[Finding]:
    """Of every certificate and CRL; of a file in which all is well, one line."""
    now = now or datetime.now(UTC)
    forgiving = {tls.client_crl for tls in listeners_tls(config).values() if tls.stale_crl == "warn"}
    for (section, key, path), several in groupby(expiries(config), lambda one: (one.section, one.key, one.path)):
        every = list(several)
        bad = [one for one in every if one.since > now or one.due(now) is not None]
        for one in bad:
            # Of several authorities one may have served its time.
            yield _date(one, now, lenient=path in forgiving or len(every) > len(bad))
        if not bad:
            first = min(one.until for one in every)
            about = every[0].what if len(every) == 1 else f"{len(every)} in it, the first of which"
            yield ok(section, key, f"{path}: {about} lasts until {first:%Y-%m-%d}")


def _date(one: Expiry, now: datetime, *, lenient: bool) -> Finding:
    if one.since > now:
        words = f"begins only at {one.since:%Y-%m-%d %H:%M} UTC"
    else:
        words = f"{left(one, now)} ({one.until:%Y-%m-%d %H:%M} UTC)"
    soon = one.due(now) not in (0, 1) and one.since <= now
    return Finding(
        one.section, one.key, Level.WARN if soon or lenient else Level.FAIL, f"{one.path}: {one.what} {words}"
    )


# --- our own certificates, and those that we believe ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Own:
    """A certificate that we show, as a server or as a client, and its key. keys: their names in the configuration."""

    section: str
    keys: tuple[str, str]
    use: str
    certificate: Path
    key: Path


def check_certificates(config: Config) -> Iterator[Finding]:
    """Strength, order and purpose. Listeners share what [tls] says: it is told once."""
    for own in dict.fromkeys(_own(config)):
        yield from _check_own(own)
        yield from check_secret(own.section, own.keys[1], own.key)
    for section, key, path in dict.fromkeys(_authorities(config)):
        with suppress(OSError, *UNREADABLE):
            for one in load_certificates(path):
                for why in _weak(one):
                    yield warn(section, key, f"{path}: of {_name(one)}: {why}")


def _own(config: Config) -> Iterator[_Own]:
    for section, tls in listeners_tls(config).items():
        yield from _of_server(section, tls)
    for section, client in clients_tls(config).items():
        if client.certificate is not None and client.key is not None:
            yield _Own(section, client.own_keys, "client", client.certificate, client.key)
    for upstream in config.upstreams.values():
        for login in upstream.logins:
            if login.section and login.certificate is not None and login.key is not None:
                yield _Own(login.section, ("certificate", "key"), "client", login.certificate, login.key)


def tls_keys(config: Config) -> frozenset[Path]:
    """Of the private keys of TLS, each file."""
    return frozenset(own.key for own in _own(config))


def _of_server(section: str, tls: ServerTLS) -> Iterator[_Own]:
    yield _Own(tls.sections.get("certificate", section), ("certificate", "key"), "server", tls.certificate, tls.key)
    for certificate, key in tls.sni:
        yield _Own(tls.sections.get("sni", section), ("sni", "sni"), "server", certificate, key)


def _authorities(config: Config) -> Iterator[tuple[str, str, Path]]:
    for section, tls in listeners_tls(config).items():
        if tls.client_ca is not None:
            yield tls.sections.get("client_ca", section), "client_ca", tls.client_ca
    for section, client in clients_tls(config).items():
        if client.root_certificate is not None:
            yield section, "root_certificate", client.root_certificate


def _check_own(own: _Own) -> Iterator[Finding]:
    with suppress(OSError, *UNREADABLE):
        chain = load_certificates(own.certificate)
        for why in _wrong(chain, own.use):
            yield fail(own.section, own.keys[0], f"{own.certificate}: {why}")
        if own.use == "server" and not _has_names(chain[0]):
            words = "has no name or address in its subjectAltName, so clients that verify refuse it"
            yield warn(own.section, own.keys[0], f"{own.certificate}: {words}")
        if len(chain) == 1 and chain[0].issuer == chain[0].subject:
            yield warn(own.section, own.keys[0], f"{own.certificate}: is signed by itself: nobody can vouch for it")
        yield ok(own.section, own.keys[0], f"{own.certificate}: {_kind(chain[0])}")


def _wrong(chain: Sequence[x509.Certificate], use: str) -> Iterator[str]:
    for one in chain:
        yield from (f"of {_name(one)}: {why}" for why in _weak(one))
    for below, above in pairwise(chain):
        try:
            below.verify_directly_issued_by(above)
        except (ValueError, TypeError, InvalidSignature):
            yield f"{_name(above)} comes behind {_name(below)}, but has not issued it"
    with suppress(x509.ExtensionNotFound):
        uses = chain[0].extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        if _USES[use] not in uses:
            yield f"is not for a {use} (extendedKeyUsage)"


def _weak(one: x509.Certificate) -> Iterator[str]:
    """A root's own signature proves nothing, so it does not matter."""
    found = weak_key(one), None if one.issuer == one.subject else weak_signature(one)
    return (why for why in found if why is not None)


def _has_names(leaf: x509.Certificate) -> bool:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    return bool(names.get_values_for_type(x509.DNSName) or names.get_values_for_type(x509.IPAddress))


def _name(one: x509.Certificate) -> str:
    return one.subject.rfc4514_string() or "nobody"


def _kind(one: x509.Certificate) -> str:
    key = one.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return f"{_name(one)}, RSA {key.key_size}"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"{_name(one)}, EC {key.curve.name}"
    return f"{_name(one)}, {type(key).__name__.removesuffix('PublicKey')}"


# --- secrets --------------------------------------------------------------------------------------------------------


def check_secret(section: str, key: str, path: Path) -> Iterator[Finding]:
    """Who else can use a private key or a password: by PostgreSQL's rule (manual, 18.9.2) root's may be its group's."""
    with suppress(OSError):
        status = path.stat()
        group = stat.S_IRWXG if status.st_uid else stat.S_IWGRP | stat.S_IXGRP
        if status.st_mode & stat.S_IRWXO:
            yield fail(section, key, f"{path}: everybody on this machine can use it: chmod 600")
        elif status.st_mode & group:
            yield warn(section, key, f"{path}: its group can use it: chmod 600")
        else:
            yield ok(section, key, f"{path}: for its owner alone")


def check_jwt(config: Config, environ: Mapping[str, str]) -> Iterator[Finding]:
    reading = given(config, environ)
    for jwt in config.jwt.values():
        section = f"jwt:{jwt.name}"
        count = len(reading.values(section)["public_keys"] or ())
        yield from _keys(section, "public_keys", jwt.keys[:count])
        yield from _keys(section, "jwks", jwt.keys[count:])
        if len({key.thumbprint for key in jwt.keys}) < len(jwt.keys):
            yield warn(section, "public_keys" if count else "jwks", "one key is there twice")
        yield from _about_keys(section, jwt)
        yield from _still_believed(section, jwt, config.jwt.values())


def _keys(section: str, about: str, keys: Sequence[VerificationKey]) -> Iterator[Finding]:
    names = [f"{'/'.join(sorted(key.algorithms))} {key.kid or key.thumbprint}" for key in keys]
    if names:
        yield ok(section, about, f"{len(names)}: {', '.join(names)}")


def _about_keys(section: str, jwt: JWTSettings) -> Iterator[Finding]:
    """Whether a URL's server could be believed, and which tokens count no more."""
    if jwt.jwks is not None:
        problems = Problems()
        context(jwt, problems)
        yield from (fail(one.section, one.key, one.reason) for one in problems.found)
    if jwt.revoked_file is not None:
        yield ok(section, "revoked", f"{jwt.revoked_file}: {len(jwt.revoked)} revoked")


def _still_believed(section: str, jwt: JWTSettings, all_of_them: Collection[JWTSettings]) -> Iterator[Finding]:
    """Whether a token that counts no more elsewhere counts here."""
    others = (one.name for one in all_of_them if one.revoked_file is not None and _believe_the_same(one, jwt))
    other = next(others, None)
    if jwt.revoked_file is None and other is not None:
        words = f"is not given, though [jwt:{other}], which believes the same key, has one"
        yield warn(section, "revoked", f"{words}: a token that is revoked there still gets in here")


def _believe_the_same(one: JWTSettings, other: JWTSettings) -> bool:
    """A key, of a token that could be for both."""
    if one.issuer and other.issuer and one.issuer != other.issuer:
        return False
    same_url = one.jwks is not None and one.jwks == other.jwks
    return same_url or not {key.thumbprint for key in one.keys}.isdisjoint(key.thumbprint for key in other.keys)
