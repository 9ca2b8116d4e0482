"""What counts as a refusal of the server's, and what as one of the gateway's; and how rows are told together."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest
from cryptography import x509
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class
from psycopg2.sql import SQL

from gateway.session import postgres_answers as answers
from gateway.share import probes
from gateway.share.entrance import Gate, TurnedAway, ending, server_name
from gateway.share.share import ShareError
from gateway.share.tried import Tried, Verdict, holds, together
from tests.pki import issue, make_ca
from tests.servers import PostgresServer
from tests.share.databases import share_of
from tests.wires import no_new_descriptors


@pytest.fixture(scope="module")
def session(embedded_postgres: PostgresServer) -> Iterator[Connection]:
    """Of a role that may do nothing."""
    server = embedded_postgres
    server.make_role("share_nobody", "x")
    found = psycopg2.connect(
        host=str(server.folder), port=server.port, user="share_nobody", password="x", dbname="postgres"
    )
    found.autocommit = True
    yield found
    found.close()
    server.sql("DROP ROLE share_nobody")


@pytest.mark.parametrize(
    ("sql", "verdict"),
    [
        ("SELECT pg_read_file('PG_VERSION')", Verdict.OK),
        ("SELECT 1", Verdict.LOOSENED),
        ("SELECT 1/0", Verdict.UNPROVEN),
        ("SELECT FROM none", Verdict.UNPROVEN),
        ("SET LOCAL statement_timeout = '10ms'; SELECT pg_sleep(9)", Verdict.UNPROVEN),
        ("nonsense", Verdict.UNPROVEN),
    ],
)
def test_only_for_want_of_a_privilege_is_it_refused(session: Connection, sql: str, verdict: Verdict) -> None:
    assert probes._try(session, probes.Probe("", sql, SQL(sql))).verdict is verdict
    # And it was rolled back.
    assert session.info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_IDLE


def test_what_every_role_may_is_known_or_refused(session: Connection) -> None:
    for sql, verdict in (("SELECT 1", Verdict.KNOWN), ("SELECT pg_read_file('x')", Verdict.OK)):
        assert probes._try(session, probes.Probe("", sql, SQL(sql), known=True)).verdict is verdict


def test_what_the_partner_has_made_of_its_settings_is_told_and_then_no_more(session: Connection) -> None:
    with session.cursor() as cursor:
        cursor.execute("SET statement_timeout = 0; SET lock_timeout = 0")
    for got in (["0", "0"], ["1min", "5s"]):
        assert [row.got for row in probes.settings(session)][:2] == got
        probes.limit(session)
    with session.cursor() as cursor:
        cursor.execute("RESET ALL")


def test_nobody_waits_in_a_session_without_end(embedded_postgres: PostgresServer) -> None:
    """Whatever the reason is, such as a gateway that has stopped."""
    server = embedded_postgres
    found = psycopg2.connect(host=str(server.folder), port=server.port, user="postgres", dbname="postgres")
    found.autocommit = True
    with no_new_descriptors(), ending(found, 0.2):
        asked = probes._try(found, probes.Probe("", "", SQL("SELECT pg_sleep(60)")))
        assert asked.verdict is Verdict.UNPROVEN
        assert probes._try(found, probes.Probe("", "", SQL("SELECT 1"))).verdict is Verdict.UNPROVEN
    assert found.closed


def test_a_session_that_has_ended_proves_nothing(embedded_postgres: PostgresServer) -> None:
    server = embedded_postgres
    found = psycopg2.connect(host=str(server.folder), port=server.port, user="postgres", dbname="postgres")
    found.autocommit = True
    server.sql("SELECT pg_terminate_backend(%s)", found.info.backend_pid)
    for _ in range(2):
        assert probes._try(found, probes.Probe("", "", SQL("SELECT 1"))).verdict is Verdict.UNPROVEN
    assert probes.read(found, share_of()).verdict is Verdict.UNPROVEN
    found.close()


# --- the way through the gateway --------------------------------------------------------------------------------------


def way(enter: Callable[[str, socket.socket], None]) -> Gate:
    return Gate(share_of(), enter, "localhost", Path("/nonexistent"), lambda: "token")


def answering(answer: bytes) -> Callable[[str, socket.socket], None]:
    def enter(address: str, sock: socket.socket) -> None:
        assert address == "192.0.2.1"
        sock.recv(1000)
        sock.sendall(answer)

    return enter


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (answers.TLS_REQUIRED, Verdict.OK),
        (answers.NOT_ALLOWED, Verdict.UNPROVEN),
        (answers.TOO_MANY, Verdict.UNPROVEN),
        (b"", Verdict.UNPROVEN),
        (b"\x16\x03\x03\x00\x00", Verdict.UNPROVEN),
    ],
)
def test_only_the_gateways_own_words_are_a_refusal(answer: bytes, verdict: Verdict) -> None:
    assert way(answering(answer)).refused("plain", "192.0.2.1", plain=True).verdict is verdict


def test_why_the_gateway_was_not_entered_is_told() -> None:
    def enter(_: str, sock: socket.socket) -> None:
        raise ShareError("the gateway does not run")

    with pytest.raises(ShareError, match="does not run"):
        way(enter).refused("plain", "192.0.2.1", plain=True)


def test_a_gateway_that_cannot_be_verified_is_not_believed() -> None:
    with pytest.raises(TurnedAway, match="root certificate file"):
        way(answering(b"S")).session("192.0.2.1")


@pytest.mark.parametrize(
    ("sans", "name"),
    [
        (["gateway.example", "192.0.2.1"], "gateway.example"),
        (["192.0.2.1"], "192.0.2.1"),
        (["*.example"], "securegw.example"),
    ],
)
def test_a_name_of_the_certificate(sans: list[str], name: str) -> None:
    assert server_name(issue(make_ca("ca"), "x", sans=sans).certificate) == name


def test_a_certificate_without_a_name() -> None:
    nameless: x509.Certificate = make_ca("ca").certificate
    with pytest.raises(ShareError, match="no name"):
        server_name(nameless)


# --- rows -------------------------------------------------------------------------------------------------------------


def row(what: str, verdict: Verdict) -> Tried:
    return Tried(what, "refused", "refused" if verdict is Verdict.OK else "done", verdict)


def test_what_is_as_expected_is_one_row_and_all_else_its_own() -> None:
    rows = [row("a", Verdict.OK), row("b", Verdict.LOOSENED), row("c", Verdict.OK), row("d", Verdict.UNPROVEN)]
    told = together("all", rows)
    assert told == [Tried("all (2 tried)", "refused", "refused", Verdict.OK), rows[1], rows[3]]
    assert together("all", rows[:1]) == rows[:1]
    assert together("all", rows[1:2]) == rows[1:2]
    assert together("all", []) == []


def test_it_holds_if_nothing_is_loose_or_unproven() -> None:
    assert holds([row("a", Verdict.OK), row("b", Verdict.KNOWN)])
    for wrong in (Verdict.LOOSENED, Verdict.UNPROVEN):
        assert not holds([row("a", Verdict.OK), row("b", wrong)])
