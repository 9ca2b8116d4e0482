"""`securegw check` logs in at real PostgreSQL servers, as the gateway would."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.inspection.findings import Finding
from gateway.inspection.reachable import asked, inquiries
from gateway.inspection.rehearsal import stage
from tests.gateways import behind
from tests.inspection.site import DATABASE, Site
from tests.servers import PostgresServer

PASSWORD = "a secret of the server"


@pytest.fixture(params=["embedded_postgres", "debian_postgres"], ids=["socket", "tls"])
def server(request: pytest.FixtureRequest) -> PostgresServer:
    found: PostgresServer = request.getfixturevalue(request.param)
    found.make_role("checked", PASSWORD)
    found.make_role("mighty", PASSWORD, options="SUPERUSER")
    return found


def ask(site: Site, server: PostgresServer, password: str, role: str, rules: str = "\nallow all all all") -> Finding:
    sections = {
        **DATABASE,
        "upstream:main": behind(server),
        f"login:{role}": {"password": password},
        "postgres:main": {"rules": rules},
    }
    config = site.config(sections)
    (finding,) = asked(inquiries(config, stage(config, None, None).doors["postgres:main"].certificates))
    return finding


def test_logging_in(tmp_path: Path, server: PostgresServer) -> None:
    site = Site.made(tmp_path)
    good = ask(site, server, PASSWORD, "checked")
    assert good.level.value == "ok", good
    assert good.text.endswith("; logged in to postgres")
    assert good.text.startswith("TLSv1.3, certificate and name verified" if server.ca else "reached, without TLS")
    wrong = ask(site, server, "another", "checked")
    assert wrong.level.value == "FAIL"
    assert "28P01" in wrong.text
    other = ask(site, server, PASSWORD, "checked", "\nallow gone all all")
    assert other.level.value == "ok", other
    assert "there is no database gone" in other.text
    mighty = ask(site, server, PASSWORD, "mighty")
    assert mighty.level.value == "warn"
    assert "superuser=yes" in mighty.text
    assert PASSWORD not in repr((good, wrong, other, mighty))
