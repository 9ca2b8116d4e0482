"""Where the registry is, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from gateway.upstream import TLSMode

VERIFYING = frozenset({TLSMode.VERIFY_CA, TLSMode.VERIFY_FULL})


@dataclass(frozen=True, slots=True)
class PostgresDatabase:
    """One database of a PostgreSQL server (13 or newer), or of several of which one is the primary.

    hosts: names, addresses, or folders of Unix sockets; tried in order. port: of all of them.
    root_certificate: the verifying modes need it. libpq would look for the system's CAs where the machine that built
    it had them.

    Raises ValueError, saying what does not fit.
    """

    hosts: tuple[str, ...]
    dbname: str
    user: str
    port: int = 5432
    password: str | None = field(default=None, repr=False)
    tls: TLSMode = TLSMode.VERIFY_FULL
    root_certificate: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if not self.hosts:
            raise ValueError("the registry's database has no host")
        if any("," in host for host in self.hosts):
            raise ValueError("the host of the registry's database has a comma in it")
        if self.tls in VERIFYING and self.root_certificate is None:
            raise ValueError(f"{self.tls.value} needs the certificate of the authority that signed the database's")
        if (self.certificate is None) != (self.key is None):
            raise ValueError("a client certificate and its key come together")

    def __str__(self) -> str:
        return f"PostgreSQL database {self.dbname!r} at {', '.join(self.hosts)} (port {self.port})"


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """database: the path of a SQLite file, or a database of PostgreSQL's.

    stale_after: seconds that what is known counts while the database is away.
    """

    database: Path | PostgresDatabase
    stale_after: float = 300.0
