"""What libpq is told of a server (PostgreSQL, 34.1.2: parameter key words), and a PostgresDatabase as all of it.

Owns how TLS, the session's settings and the watch over a silent peer become libpq's words. Refuses what lies around:
~/.postgresql and ~/.pgpass are about other servers; and to give a password in clear text to whom nobody has verified.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from gateway.registry.postgres_schema import SCHEMA
from gateway.registry.settings import VERIFYING, PostgresDatabase
from gateway.upstream import TLSMode

# Seconds for one address to answer and to let us in; libpq knows only whole ones.
CONNECT_TIMEOUT: Final = 10

# A peer that has vanished is noticed after 5 + 3 * 2 seconds of silence, or 10 with something under way.
KEEPALIVE: Final = {
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}

# With this as a file libpq has none of its own; a list of revoked certificates, or passwords, it then does without.
NOWHERE: Final = "/nonexistent"


def arguments(database: PostgresDatabase, name: str, settings: Mapping[str, str]) -> dict[str, Any]:
    """name: how the server's administrator sees us. settings: the session's own.

    Only the primary will do: another server can be behind, and has no notifications.
    """
    hosts = ",".join(database.hosts)
    known = {"host": hosts, "port": database.port, "dbname": database.dbname, "user": database.user}
    # What ~/.pgpass and PGPASSWORD hold is another's: with no password of ours there is none.
    login = {"password": database.password or "", "passfile": NOWHERE} | _methods(database)
    every = {"search_path": f"{SCHEMA},pg_temp", "timezone": "UTC", **settings}
    session = {"application_name": name, "client_encoding": "UTF8", "options": options(every)}
    more = {"connect_timeout": CONNECT_TIMEOUT, "target_session_attrs": "primary", "gssencmode": "disable"}
    tls = tls_words(database.tls, database.root_certificate, None, database.certificate, database.key)
    return known | login | tls | session | more | KEEPALIVE


def tls_words(
    mode: TLSMode, root: Path | None, crl: Path | None, certificate: Path | None, key: Path | None
) -> dict[str, str]:
    """Without a certificate none is sent, and without a root nobody is verified: `require` then takes whoever answers,
    as with one it is `verify-ca` (34.19.1), and the verifying modes take nobody."""
    paths = {"sslrootcert": root, "sslcrl": crl, "sslcert": certificate, "sslkey": key}
    found = {name: NOWHERE if path is None else str(path) for name, path in paths.items()}
    return {"sslmode": mode.value, "sslcertmode": "allow" if certificate else "disable"} | found


def options(settings: Mapping[str, str]) -> str:
    """The session's own. Blanks within a value are escaped (PostgreSQL, 34.1.2, options)."""
    return " ".join(f"-c {name}={value.replace(' ', chr(92) + ' ')}" for name, value in settings.items())


def _methods(database: PostgresDatabase) -> dict[str, str]:
    """How the server may not ask for the password (34.1.2, require_auth)."""
    verified = database.tls in VERIFYING or (database.tls is TLSMode.REQUIRE and database.root_certificate)
    return {} if verified else {"require_auth": "!password"}
