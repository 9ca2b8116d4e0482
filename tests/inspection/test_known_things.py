"""The registry as it is, in a file and in a database: read, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gateway.inspection.findings import Finding
from gateway.inspection.known_things import Missing, read_things, things_to_be
from gateway.inspection.reachable import asked, inquiries
from gateway.inspection.rehearsal import stage
from gateway.registry.ledger import LedgerError, open_ledger
from gateway.registry.settings import PostgresDatabase, RegistrySettings
from tests.inspection.site import Site
from tests.registry.conftest import PASSWORD, new_database
from tests.servers import PostgresServer

MQTT = {"upstream": "broker.example:1", "tls": "disable", "rules": "\nallow all all"}


@pytest.fixture
def database(embedded_postgres: PostgresServer) -> PostgresDatabase:
    """One that is empty."""
    return new_database(embedded_postgres)


def of(site: Site, database: PostgresDatabase) -> Finding:
    """What a check says of a registry there."""
    (host,) = database.hosts
    (site.folder / "password").write_text(PASSWORD)
    url = f"postgresql://{database.user}@{host}:{database.port}/{database.dbname}"
    registry = {"database": url, "password_file": "password", "tls": "disable"}
    config = site.config({"registry": registry, "mqtt:main": MQTT})
    certificates = stage(config, None, None).doors["mqtt:main"].certificates
    (found,) = asked([one for one in inquiries(config, certificates) if one.section == "registry"])
    assert PASSWORD not in found.text
    return found


def test_in_a_database(site: Site, database: PostgresDatabase) -> None:
    settings = RegistrySettings(database)
    for read in (read_things, things_to_be):
        with pytest.raises(Missing, match="there is no registry yet"):
            read(settings)
    # There a gateway, which may only read, does not start.
    assert of(site, database).level.value == "FAIL"
    with open_ledger(settings) as ledger:
        thing, key = ledger.create_thing("boiler")
    found = read_things(settings).with_key(key.encode())
    assert (found and found.id) == thing.id
    assert of(site, database).level.value == "ok"


def test_of_another_version(database: PostgresDatabase, embedded_postgres: PostgresServer) -> None:
    settings = RegistrySettings(database)
    open_ledger(settings).close()
    embedded_postgres.sql("UPDATE securegw.registry SET version = 99", database=database.dbname)
    with pytest.raises(LedgerError, match=r"version \[\(99,\)\] of the registry"):
        read_things(settings)


def test_whoever_is_not_let_in(site: Site, database: PostgresDatabase) -> None:
    with pytest.raises(LedgerError, match="password authentication failed") as caught:
        read_things(RegistrySettings(replace(database, password="wrong")))
    assert "wrong" not in str(caught.value)
    assert of(site, replace(database, user="nobody")).level.value == "FAIL"


def test_a_file_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "registry.sqlite"
    path.write_bytes(b"something else" * 100)
    with pytest.raises(LedgerError, match="is not a database"):
        read_things(RegistrySettings(path))


def test_a_file_that_a_gateway_would_make(tmp_path: Path) -> None:
    settings = RegistrySettings(tmp_path / "registry.sqlite")
    with pytest.raises(Missing):
        read_things(settings)
    assert things_to_be(settings).with_key(b"anything") is None
    assert list(tmp_path.iterdir()) == []
    with open_ledger(settings) as ledger:
        _, key = ledger.create_thing("boiler")
    assert things_to_be(settings).with_key(key.encode()) is not None
