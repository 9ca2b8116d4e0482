"""A PostgresDatabase as what libpq is told (PostgreSQL, 34.1.2: parameter key words)."""

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
_KEEPALIVE: Final = {
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}

# With this as the authorities' file libpq has none (34.19.1: otherwise `require` behaves as `verify-ca`).
_NOWHERE: Final = Path("/nonexistent")


def arguments(database: PostgresDatabase, name: str, settings: Mapping[str, str]) -> dict[str, Any]:
    """name: how the server's administrator sees us. settings: the session's own.

    Only the primary will do: another server can be behind, and has no notifications.
    """
    hosts = ",".join(database.hosts)
    known = {"host": hosts, "port": database.port, "dbname": database.dbname, "user": database.user}
    # What ~/.pgpass and PGPASSWORD hold is another's: with no password of ours there is none.
    login = {"password": database.password or "", "passfile": "/dev/null"}
    session = {"application_name": name, "client_encoding": "UTF8", "options": _options(settings)}
    more = {"connect_timeout": CONNECT_TIMEOUT, "target_session_attrs": "primary", "gssencmode": "disable"}
    return known | login | _tls(database) | session | more | _KEEPALIVE


def _tls(database: PostgresDatabase) -> dict[str, str]:
    """Without a certificate none is sent, and `require` verifies nothing, whatever lies in ~/.postgresql."""
    found = {"sslmode": database.tls.value, "sslcertmode": "allow" if database.certificate else "disable"}
    paths: dict[str, Path | None] = {"sslcert": database.certificate, "sslkey": database.key}
    if database.tls in VERIFYING:
        paths["sslrootcert"] = database.root_certificate
    elif database.tls is TLSMode.REQUIRE:
        paths["sslrootcert"] = _NOWHERE
    return found | {name: str(path) for name, path in paths.items() if path is not None}


def _options(settings: Mapping[str, str]) -> str:
    """Blanks within a value are escaped (PostgreSQL, 34.1.2, options)."""
    every = {"search_path": f"{SCHEMA},pg_temp", "timezone": "UTC", **settings}
    return " ".join(f"-c {name}={value.replace(' ', chr(92) + ' ')}" for name, value in every.items())
