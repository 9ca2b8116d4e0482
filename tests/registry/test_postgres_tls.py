"""The four TLS modes, for the gateway's link and for the ledger, against a server that really speaks TLS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor

from gateway.registry.ledger import LedgerError, open_ledger
from gateway.registry.service import open_registry
from gateway.registry.settings import PostgresDatabase, RegistrySettings
from gateway.upstream import TLSMode
from tests.pki import issue, make_ca, write_pem
from tests.registry.conftest import in_reactor, new_database
from tests.servers import PostgresServer

DISABLE, REQUIRE, VERIFY_CA, VERIFY_FULL = TLSMode


@pytest.fixture(scope="module")
def made(debian_postgres: PostgresServer) -> PostgresDatabase:
    """With a registry in it, reached by TLS. The server's certificate is for localhost and 127.0.0.1."""
    database = replace(new_database(debian_postgres), tls=REQUIRE)
    open_ledger(RegistrySettings(database)).close()
    return database


@pytest.fixture(scope="module")
def another_ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("another") / "ca.crt"
    write_pem(path, make_ca("another CA").certificate)
    return path


async def outcome(database: PostgresDatabase) -> str:
    """Why neither is let in; empty: both are, over TLS unless it is switched off."""
    settings = RegistrySettings(database)
    registry = open_registry(settings, reactor)
    try:
        await registry.start()
    except LedgerError as error:
        with pytest.raises(LedgerError):
            open_ledger(settings)
        return str(error)
    finally:
        await registry.stop()
    with open_ledger(settings) as ledger:
        (encrypted,) = ledger._store.rows("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        assert encrypted == (database.tls is not DISABLE,)
    return ""


def changed(made: PostgresDatabase, server: PostgresServer, **changes: Any) -> PostgresDatabase:
    return replace(made, **({"root_certificate": server.root_certificate} | changes))


@pytest.mark.parametrize("mode", [REQUIRE, VERIFY_CA, VERIFY_FULL])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
@in_reactor
async def test_let_in(made: PostgresDatabase, debian_postgres: PostgresServer, mode: TLSMode, host: str) -> None:
    assert await outcome(changed(made, debian_postgres, tls=mode, hosts=(host,))) == ""


@in_reactor
async def test_disable_is_refused_by_a_server_that_wants_tls(
    made: PostgresDatabase, debian_postgres: PostgresServer
) -> None:
    assert "no encryption" in await outcome(changed(made, debian_postgres, tls=DISABLE))


@pytest.mark.parametrize("mode", [REQUIRE, VERIFY_CA, VERIFY_FULL])
@in_reactor
async def test_another_authority(
    made: PostgresDatabase, debian_postgres: PostgresServer, another_ca: Path, mode: TLSMode
) -> None:
    """`require` with an authority is `verify-ca`, as of an upstream."""
    assert "certificate verify failed" in await outcome(
        changed(made, debian_postgres, tls=mode, root_certificate=another_ca)
    )


@pytest.fixture
def misleading_home(another_ca: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """libpq looks by itself for an authority there."""
    folder = tmp_path / ".postgresql"
    folder.mkdir()
    (folder / "root.crt").write_bytes(another_ca.read_bytes())
    monkeypatch.setenv("HOME", str(tmp_path))


@in_reactor
async def test_require_without_an_authority_asks_for_none(
    made: PostgresDatabase, debian_postgres: PostgresServer, misleading_home: None
) -> None:
    assert await outcome(changed(made, debian_postgres, tls=REQUIRE, root_certificate=None)) == ""


@in_reactor
async def test_who_is_not_verified_gets_no_password_in_clear_text(
    made: PostgresDatabase, debian_postgres: PostgresServer
) -> None:
    with debian_postgres.hba("hostssl all all 127.0.0.1/32 password"):
        assert await outcome(changed(made, debian_postgres, tls=VERIFY_FULL)) == ""
        assert await outcome(changed(made, debian_postgres, tls=REQUIRE)) == ""
        told = await outcome(changed(made, debian_postgres, tls=REQUIRE, root_certificate=None))
    assert "authentication method requirement" in told


@in_reactor
async def test_another_name(made: PostgresDatabase, debian_postgres: PostgresServer) -> None:
    """127.0.0.2 is the same server, and not in its certificate."""
    debian = changed(made, debian_postgres, hosts=("127.0.0.2",))
    with listening_everywhere(debian_postgres):
        assert await outcome(replace(debian, tls=VERIFY_CA)) == ""
        assert "does not match host name" in await outcome(replace(debian, tls=VERIFY_FULL))


@contextmanager
def listening_everywhere(server: PostgresServer) -> Iterator[None]:
    server.stop()
    server.settings["listen_addresses"] = "127.0.0.1,127.0.0.2"
    server.start()
    with server.hba("hostssl all all 127.0.0.0/8 scram-sha-256"):
        yield
    server.stop()
    del server.settings["listen_addresses"]
    server.start()


@in_reactor
async def test_no_tls_at_all(embedded_postgres: PostgresServer, another_ca: Path) -> None:
    plain = new_database(embedded_postgres)
    for mode in (REQUIRE, VERIFY_CA, VERIFY_FULL):
        why = await outcome(replace(plain, tls=mode, root_certificate=another_ca))
        assert "does not support SSL" in why


@in_reactor
async def test_a_client_certificate(made: PostgresDatabase, debian_postgres: PostgresServer, tmp_path: Path) -> None:
    """In place of a password; and without one of ours none is sent, whatever lies where libpq looks by itself."""
    assert debian_postgres.ca
    folder = tmp_path / ".postgresql"
    folder.mkdir()
    certificate, key = issue(debian_postgres.ca, made.user).write(folder, "postgresql")
    with debian_postgres.hba("hostssl all all 127.0.0.1/32 cert"):
        mine = changed(made, debian_postgres, tls=VERIFY_FULL, password=None)
        assert await outcome(replace(mine, certificate=certificate, key=key)) == ""
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("HOME", str(tmp_path))
            assert "certificate" in await outcome(mine)
