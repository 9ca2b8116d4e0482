"""Past the gateway: what pg_hba.conf says to a login that comes from this machine, found without any password."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from gateway.embedded import Account
from gateway.share import bypass, lines
from gateway.share.tried import Tried, Verdict
from gateway.upstream import Address, ClientTLS, Login, TLSMode, Upstream
from tests.servers import PostgresServer, debian_programs, free_port
from tests.share.databases import NAME, share_of, upstream_of

SHARE = share_of()
OTHERS = ("postgres", "template1")


@pytest.fixture(scope="module")
def secured(debian_postgres: PostgresServer) -> Iterator[PostgresServer]:
    yield from role_at(debian_postgres)


@pytest.fixture(scope="module")
def plain(embedded_postgres: PostgresServer) -> Iterator[PostgresServer]:
    yield from role_at(embedded_postgres)


def role_at(server: PostgresServer) -> Iterator[PostgresServer]:
    """Only the role: pg_hba.conf is asked before anything else."""
    server.make_role("acme", "nobody knows")
    yield server
    server.sql("DROP ROLE acme")


def tried(upstream: Upstream) -> list[Tried]:
    return list(bypass.rows(SHARE, upstream, OTHERS))


def verdicts(upstream: Upstream) -> dict[str, str]:
    return {row.what.partition(" past")[0]: row.verdict.value for row in tried(upstream)}


def test_the_lines_that_are_printed_keep_the_role_out(secured: PostgresServer) -> None:
    upstream = upstream_of(secured, tls=True)
    where = f"past the gateway, at localhost:{secured.port}"
    plainly = f"past the gateway in plain text, at localhost:{secured.port}"
    with secured.hba(*lines.hba(SHARE, upstream, "127.0.0.1")):
        assert tried(upstream) == [
            Tried(f"log in to another database {where} (2 tried)", "refused", "refused", Verdict.OK),
            Tried(f"log in to any database {plainly} (3 tried)", "refused", "refused", Verdict.OK),
        ]


@pytest.mark.parametrize("number", [1, 2])
def test_none_of_them_is_too_many(secured: PostgresServer, number: int) -> None:
    """Without the first the gateway does not get in, which is not for here; `local` is not for TCP."""
    upstream = upstream_of(secured, tls=True)
    every = lines.hba(SHARE, upstream, "127.0.0.1")
    with secured.hba(*every[:number], "host all all all scram-sha-256"):
        found = tried(upstream)
    assert {row.verdict for row in found} == {Verdict.LOOSENED}
    assert f"log in to the database {NAME} past the gateway in plain text" in "\n".join(row.what for row in found)


def test_over_a_unix_socket(plain: PostgresServer) -> None:
    upstream = upstream_of(plain, tls=False)
    into = [f"log in to the database {one}" for one in OTHERS]
    assert verdicts(upstream) == dict.fromkeys(into, "LOOSENED")
    with plain.hba("local all acme trust"):
        assert verdicts(upstream) == dict.fromkeys(into, "LOOSENED")
    with plain.hba(*lines.hba(SHARE, upstream, None)):
        (row,) = tried(upstream)
    assert (row.verdict, f"past the gateway, at {plain.socket} (2 tried)" in row.what) == (Verdict.OK, True)
    # Debian's own line. It keeps the partner out, but is not what was printed.
    with plain.hba("local all all peer"):
        (row,) = tried(upstream)
    assert (row.verdict, row.got.startswith("not by pg_hba.conf: ")) == (Verdict.UNPROVEN, True)


def test_without_tls_the_gateways_own_way_is_not_tried(plain: PostgresServer) -> None:
    upstream = Upstream("main", (Address("127.0.0.1", plain.port),), ClientTLS(TLSMode.DISABLE))
    with plain.hba(*lines.hba(SHARE, upstream, "127.0.0.1")):
        (row,) = tried(upstream)
    assert (row.verdict, "another database" in row.what) == (Verdict.OK, True)


def test_each_address_is_asked_and_one_that_does_not_answer_once(secured: PostgresServer) -> None:
    upstream = upstream_of(secured, tls=True)
    upstream = replace(upstream, addresses=(Address("localhost", free_port()), *upstream.addresses))
    with secured.hba(*lines.hba(SHARE, upstream, "127.0.0.1")):
        found = tried(upstream)
    assert [row.verdict for row in found] == [*[Verdict.UNPROVEN] * 2, *[Verdict.OK] * 2]
    assert "Connection refused" in found[0].got


@contextmanager
def resolved(monkeypatch: pytest.MonkeyPatch, *places: str) -> Iterator[list[str]]:
    """localhost has these addresses. What libpq was told, in the end."""
    asked: list[str] = []
    connect = psycopg2.connect

    def noted(**wanted: Any) -> object:
        asked.append(wanted["hostaddr"])
        return connect(**wanted)

    with monkeypatch.context() as patched:
        patched.setattr(bypass, "resolved", lambda name: [Address(place, name.port) for place in places])
        patched.setattr(psycopg2, "connect", noted)
        yield asked


@pytest.fixture(scope="module")
def doubled(account: Account) -> Iterator[PostgresServer]:
    """One that is at two addresses, and sees from which one somebody comes."""
    programs = debian_programs()
    if programs is None:
        pytest.skip("there is no server of Debian's")
    with PostgresServer.running(programs, account, tls=True, listen_addresses="127.0.0.1,::1") as server:
        yield from role_at(server)


@pytest.mark.parametrize("places", [("127.0.0.1", "::1"), ("::1", "127.0.0.1"), ("127.0.0.3", "127.0.0.1", "::1")])
def test_each_address_of_a_name_is_asked(
    doubled: PostgresServer, places: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused at the one, and libpq would leave it at that."""
    upstream = upstream_of(doubled, tls=True)
    every = lines.hba(SHARE, upstream, "127.0.0.1")
    for shut, opened in (("127.0.0.1/32", "::1"), ("::1/128", "127.0.0.1")):
        with doubled.hba(f"host all acme {shut} reject", "host all all all scram-sha-256"):
            with resolved(monkeypatch, *places):
                found = tried(upstream)
            assert {row.verdict for row in found} == {Verdict.LOOSENED}
            assert all(row.what.endswith(f"at localhost:{doubled.port} ({opened})") for row in found)
    with doubled.hba(*every), resolved(monkeypatch, *places) as asked:
        found = tried(upstream)
    assert [(row.verdict, row.got) for row in found] == [(Verdict.OK, "refused")] * 2
    # Not where nobody is.
    assert set(asked) == set(places) - {"127.0.0.3"}


def test_of_too_many_addresses_nothing_is_proven(secured: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    upstream = upstream_of(secured, tls=True)
    every = [f"127.0.0.{number}" for number in range(1, 10)]
    with secured.hba(*lines.hba(SHARE, upstream, "127.0.0.1")):
        with resolved(monkeypatch, *every[:1] * 9, *every[3:]):
            assert {row.verdict for row in tried(upstream)} == {Verdict.OK}
        with resolved(monkeypatch, *every) as asked:
            found = tried(upstream)
    assert {(row.verdict, row.got) for row in found} == {(Verdict.UNPROVEN, "not tried: it has more than 8 addresses")}
    assert asked == []


def test_who_is_nowhere_is_told_by_libpq(secured: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    upstream = replace(upstream_of(secured, tls=True), addresses=(Address("localhost", free_port()),))
    with resolved(monkeypatch, "127.0.0.1", "127.0.0.2") as asked:
        found = tried(upstream)
    assert {row.verdict for row in found} == {Verdict.UNPROVEN}
    assert all("Connection refused" in row.got for row in found)
    assert set(asked) == {""}


def test_whoever_answers_there_has_to_be_the_server(secured: PostgresServer) -> None:
    upstream = replace(upstream_of(secured, tls=True), tls=ClientTLS(root_certificate=Path("/nonexistent")))
    with secured.hba(*lines.hba(SHARE, upstream, "127.0.0.1")):
        assert tried(upstream)[0].verdict is Verdict.UNPROVEN


def test_no_password_goes_there(secured: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although the configuration has it."""
    given: list[dict[str, object]] = []

    def connect(**wanted: object) -> None:
        given.append(wanted)
        raise psycopg2.OperationalError("no answer")

    monkeypatch.setattr(psycopg2, "connect", connect)
    upstream = replace(upstream_of(secured, tls=True), logins=(Login("acme", "its password"),))
    assert {row.verdict for row in tried(upstream)} == {Verdict.UNPROVEN}
    assert {(one["user"], one["password"], one["require_auth"]) for one in given} == {("acme", "", "none")}
