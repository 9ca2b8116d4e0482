"""The servers that other tests stand on do what those tests believe."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from gateway.embedded import Account
from tests.pki import issue
from tests.servers import PostgresServer, log_count


def login(server: PostgresServer, role: str, password: str = "", **more: str) -> str:
    settings = {"host": "localhost", "hostaddr": server.host, "dbname": "postgres", "sslmode": "disable", **more}
    where = make_conninfo(port=server.port, user=role, password=password, **settings)
    with psycopg.connect(where) as connection:
        row = connection.execute("SELECT current_user").fetchone()
        assert row is not None
        return str(row[0])


def test_embedded_is_postgresql_18_on_loopback_and_on_a_private_socket(embedded_postgres: PostgresServer) -> None:
    assert embedded_postgres.version == 18
    assert embedded_postgres.sql("SHOW ssl") == [("off",)]
    assert stat.S_ISSOCK(embedded_postgres.socket.stat().st_mode)
    assert stat.S_IMODE(embedded_postgres.folder.stat().st_mode) == 0o700
    socket.create_connection((embedded_postgres.host, embedded_postgres.port)).close()


def test_the_server_never_runs_as_root(embedded_postgres: PostgresServer, account: Account) -> None:
    assert embedded_postgres.socket.stat().st_uid == account.uid != 0
    assert account.switch == (os.geteuid() == 0)


@pytest.mark.parametrize(("method", "stored"), [("scram-sha-256", "SCRAM-SHA-256$"), ("md5", "md5")])
def test_a_role_logs_in_with_its_password_only(embedded_postgres: PostgresServer, method: str, stored: str) -> None:
    embedded_postgres.make_role("alice", "secret", method=method)
    (verifier,) = embedded_postgres.sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'alice'")[0]
    assert verifier.startswith(stored)
    with embedded_postgres.hba(f"host all alice 127.0.0.1/32 {method}"):
        assert login(embedded_postgres, "alice", "secret") == "alice"
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            login(embedded_postgres, "alice", "other")


def test_hba_rules_hold_until_the_end_of_their_block(embedded_postgres: PostgresServer) -> None:
    embedded_postgres.make_role("bob")
    with embedded_postgres.hba("host all bob 127.0.0.1/32 trust"):
        assert login(embedded_postgres, "bob") == "bob"
    with pytest.raises(psycopg.OperationalError):
        login(embedded_postgres, "bob")


def test_hba_refuses_a_line_that_the_server_cannot_read(embedded_postgres: PostgresServer) -> None:
    with pytest.raises(ValueError, match="nonsense"), embedded_postgres.hba("nonsense"):
        pass
    assert not embedded_postgres.sql("SELECT 1 FROM pg_hba_file_rules WHERE error IS NOT NULL")


def test_the_superuser_has_no_way_in_over_tcp(embedded_postgres: PostgresServer) -> None:
    with pytest.raises(psycopg.OperationalError):
        login(embedded_postgres, "postgres")


def test_connections_are_counted(embedded_postgres: PostgresServer) -> None:
    embedded_postgres.make_role("carol", "secret")
    assert embedded_postgres.connections("carol") == 0
    address = make_conninfo(host=embedded_postgres.host, port=embedded_postgres.port, dbname="postgres")
    with psycopg.connect(address, user="carol", password="secret"):
        assert embedded_postgres.connections("carol") == 1
        assert embedded_postgres.connections() >= 1


def test_the_log_tells_who_came(embedded_postgres: PostgresServer) -> None:
    embedded_postgres.make_role("dave", "secret")
    login(embedded_postgres, "dave", "secret")
    assert log_count(embedded_postgres, "connection authorized: user=dave") == 1


def test_a_server_can_be_stopped_and_started_again(embedded_programs: Path, account: Account) -> None:
    with PostgresServer.running(embedded_programs, account, max_connections="17") as server:
        assert server.sql("SHOW max_connections") == [("17",)]
        port = server.port
        server.stop()
        with pytest.raises(psycopg.OperationalError):
            server.sql("SELECT 1")
        server.start()
        assert (server.sql("SELECT 1"), server.port) == ([(1,)], port)
    assert not server.folder.exists()


def test_debian_speaks_tls_with_a_certificate_for_localhost(debian_postgres: PostgresServer) -> None:
    debian_postgres.make_role("alice", "secret")
    tls = {"sslmode": "verify-full", "sslrootcert": str(debian_postgres.root_certificate)}
    assert login(debian_postgres, "alice", "secret", **tls, channel_binding="require") == "alice"
    with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry"):
        login(debian_postgres, "alice", "secret")


def test_debian_takes_client_certificates_of_its_ca(debian_postgres: PostgresServer, tmp_path: Path) -> None:
    assert debian_postgres.ca is not None
    debian_postgres.make_role("erin")
    certificate, key = issue(debian_postgres.ca, "erin").write(tmp_path, "erin")
    tls = {"sslmode": "verify-full", "sslrootcert": str(debian_postgres.root_certificate)}
    with debian_postgres.hba("hostssl all erin 127.0.0.1/32 cert"):
        assert login(debian_postgres, "erin", **tls, sslcert=str(certificate), sslkey=str(key)) == "erin"
        with pytest.raises(psycopg.OperationalError, match="client certificate"):
            login(debian_postgres, "erin", **tls, sslcert=str(tmp_path / "none"))


def test_psql_speaks_tls(psql: Path, debian_postgres: PostgresServer) -> None:
    debian_postgres.make_role("frank", "secret")
    where = f"host={debian_postgres.host} port={debian_postgres.port} dbname=postgres user=frank password=secret"
    done = subprocess.run(
        [psql, "-XAtc", "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", f"{where} sslmode=require"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "t\n"
