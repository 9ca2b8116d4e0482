"""The life of a token, by the operator's commands alone: its key, the token, where it opens what, and its end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.gateways import RunningGateway, behind
from tests.servers import PostgresServer

PASSWORD = "a secret of the server"
NOT_ALLOWED = "No rule allows this user, database and address"


def securegw(folder: Path, *arguments: str) -> str:
    """What the command, in a process of its own, has printed."""
    command = [str(Path(sys.executable).with_name("securegw")), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def gateway(embedded_postgres: PostgresServer, tmp_path: Path) -> Iterator[RunningGateway]:
    embedded_postgres.make_role("alice", PASSWORD)
    securegw(tmp_path, "token", "keygen")
    (tmp_path / "revoked.txt").touch()
    made = RunningGateway.made(
        tmp_path,
        {
            "jwt:main": {"public_keys": "issuer.pub", "revoked": "revoked.txt"},
            "control": {"socket": "control.sock"},
            "upstream:main": behind(embedded_postgres, password=PASSWORD),
            "postgres:main": {"rules": "\nallow all all all"},
        },
    )
    with made.for_a_while():
        yield made


def issued(gateway: RunningGateway, *options: str) -> str:
    return securegw(gateway.folder, "token", "issue", "--key", "issuer.key", "--sub", "alice", "--ttl", "5m", *options)


def test_its_life(gateway: RunningGateway) -> None:
    issued(gateway, "--db", "postgres", "--cidr", "127.0.0.0/8", "--out", "alice.token")
    token = (gateway.folder / "alice.token").read_text().strip()
    securegw(gateway.folder, "token", "verify", "alice.token")
    with psycopg.connect(**gateway.connection("alice", password=token)) as connection:
        assert connection.execute("SELECT current_user").fetchone() == ("alice",)
        for elsewhere, database in ((token, "template1"), (issued(gateway, "--cidr", "192.0.2.0/24"), "postgres")):
            with pytest.raises(psycopg.OperationalError, match=NOT_ALLOWED):
                psycopg.connect(**gateway.connection("alice", database, password=elsewhere))
        securegw(gateway.folder, "token", "revoke", "--token-file", "alice.token")
        with pytest.raises(psycopg.errors.AdminShutdown, match="not valid any more"):
            connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError, match="Authentication failed"):
        psycopg.connect(**gateway.connection("alice", password=token))
    with psycopg.connect(**gateway.connection("alice", password=issued(gateway))) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
