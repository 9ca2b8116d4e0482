"""How the gateway reaches a database and logs in there: TLS modes, password methods, certificates, several hosts, and
what each refusal looks like to the client (little) and in the audit (everything).

One gateway, reconfigured for each test, in front of a server with TLS.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import psycopg2
import pytest
from pg8000.native import Connection, DatabaseError  # type: ignore[import-untyped]
from psycopg2.extras import LogicalReplicationConnection, PhysicalReplicationConnection

from gateway.embedded import Account
from tests.e2e.clients import PASSWORD, ROLE, Program, Site, tls_context
from tests.e2e.middleman import Middleman, without_channel_binding
from tests.gateways import PATIENCE, RunningGateway, behind, wait_until
from tests.pki import Issued, issue, make_ca
from tests.servers import PostgresServer, free_port, log_count

GENERIC = "The gateway could not log in to the database"
UNREACHABLE = "The database cannot be reached"
NOT_ALLOWED = "No rule allows this user, database and address"


@pytest.fixture(scope="module")
def gateway(debian_postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    upstream = behind(debian_postgres, password=PASSWORD)
    with RunningGateway.running(tmp_path_factory.mktemp("gateway"), {"upstream:main": upstream}) as running:
        yield running


@pytest.fixture
def site(gateway: RunningGateway, debian_postgres: PostgresServer) -> Iterator[Site]:
    debian_postgres.make_role(ROLE, PASSWORD)
    yield Site(gateway, debian_postgres)
    wait_until(lambda: not debian_postgres.connections(ROLE), "the server's sessions have ended")
    gateway.check_at_rest()
    assert PASSWORD not in gateway.log.read_text() + (gateway.folder / "audit.jsonl").read_text()
    for login in [section for section in gateway.sections if section.startswith("login:")]:
        del gateway.sections[login]
    gateway.sections["postgres:main"]["rules"] = "\nallow all all all"


def use(site: Site, /, login: dict[str, object] | None = None, rules: str | None = None, **upstream: object) -> None:
    """The upstream with these keys over the usual ones (None: without that key), and a login for the role."""
    wanted = {**behind(site.server, password=PASSWORD), **upstream}
    sections: dict[str, dict[str, object]] = {
        "upstream:main": {key: value for key, value in wanted.items() if value is not None}
    }
    if login:
        sections[f"login:{site.role}"] = login
    if rules:
        sections["postgres:main"] = {**site.gateway.sections["postgres:main"], "rules": rules}
    site.gateway.reconfigure(sections)


def ask(site: Site, query: str, **more: Any) -> Any:
    """The one value that a client of the gateway gets for the query."""
    with psycopg.connect(**site.dsn | more) as connection:
        row = connection.execute(query.encode()).fetchone()
        assert row is not None
        return row[0]


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the client read, and the true reason."""

    sqlstate: str
    text: str
    reason: str


def refusal(
    site: Site, user: str = ROLE, database: str = "postgres", replication: str | None = None, **more: Any
) -> Refusal:
    """`more`: further parameters of the start-up packet."""
    gateway = site.gateway
    with socket.create_connection(("127.0.0.1", gateway.port)) as sock:
        name = "{}:{}".format(*sock.getsockname())
        with pytest.raises(DatabaseError) as caught:
            Connection(
                user,
                "127.0.0.1",
                database,
                password=gateway.token(user),
                ssl_context=tls_context(gateway),
                replication=replication,
                startup_params=more,
                sock=sock,
            )
    told = caught.value.args[0]
    assert told["S"] == "FATAL"
    return Refusal(told["C"], told["M"], gateway.end_of(name)["reason"])


# --- TLS --------------------------------------------------------------------------------------------------------------

ENCRYPTED = "SELECT ssl::text || ' ' || version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"


@contextmanager
def certificate(server: PostgresServer, issued: Issued) -> Iterator[None]:
    """The server presents this one, until the end of the block."""
    kept = {name: (server.folder / name).read_bytes() for name in ("server.crt", "server.key")}
    try:
        for path in issued.write(server.folder, "server"):
            server._own(path)
        server._reload()
        yield
    finally:
        for name, content in kept.items():
            (server.folder / name).write_bytes(content)
        server._reload()


def test_verify_full(site: Site) -> None:
    use(site)
    assert ask(site, ENCRYPTED) == "true TLSv1.3"


def test_require_encrypts_and_asks_for_no_name_and_no_authority(site: Site) -> None:
    use(site, tls="require", root_certificate=None)
    with certificate(site.server, issue(make_ca("unknown"), "other.example")):
        assert ask(site, ENCRYPTED) == "true TLSv1.3"


def test_require_with_an_authority_believes_only_that(site: Site) -> None:
    """As libpq does (manual, "Protection Provided in Different Modes"), so nobody may be told that it is not used."""
    use(site, tls="require")
    with certificate(site.server, issue(make_ca("unknown"), "localhost", sans=["localhost"])):
        refused = refusal(site)
    assert (refused.sqlstate, refused.text) == ("08006", UNREACHABLE)
    assert "certificate verify failed" in refused.reason
    assert "root_certificate is not used" not in site.gateway.log.read_text()


def test_verify_ca_asks_for_the_authority_and_no_name(site: Site) -> None:
    use(site, tls="verify-ca")
    assert site.server.ca is not None
    with certificate(site.server, issue(site.server.ca, "other.example", sans=["other.example"])):
        assert ask(site, ENCRYPTED) == "true TLSv1.3"


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_an_unknown_authority_is_not_believed(site: Site, mode: str) -> None:
    use(site, tls=mode)
    with certificate(site.server, issue(make_ca("upstream CA"), "localhost", sans=["localhost"])):
        refused = refusal(site)
    assert (refused.sqlstate, refused.text) == ("08006", UNREACHABLE)
    assert "certificate verify failed" in refused.reason


@pytest.mark.parametrize("days", [(-10, -1), (1, 10)], ids=["expired", "not yet"])
def test_a_certificate_out_of_its_time_is_not_believed(site: Site, days: tuple[float, float]) -> None:
    use(site)
    assert site.server.ca is not None
    with certificate(site.server, issue(site.server.ca, "localhost", sans=["localhost"], valid=days)):
        assert refusal(site).sqlstate == "08006"


def test_verify_full_asks_for_the_name(site: Site) -> None:
    use(site)
    assert site.server.ca is not None
    # Its common name is right, but names are in the SAN (RFC 9525).
    with certificate(site.server, issue(site.server.ca, "localhost", sans=["other.example"])):
        refused = refusal(site)
    assert (refused.sqlstate, refused.text) == ("08006", UNREACHABLE)
    assert "localhost" in refused.reason


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
def test_a_server_without_tls_is_refused(site: Site, embedded_postgres: PostgresServer, mode: str) -> None:
    use(site, hosts=hosts(embedded_postgres.port), tls=mode)
    refused = refusal(site)
    assert (refused.sqlstate, refused.text) == ("08006", UNREACHABLE)
    assert "does not offer TLS" in refused.reason


def test_without_tls_where_that_is_configured(site: Site, embedded_postgres: PostgresServer) -> None:
    embedded_postgres.make_role(ROLE, PASSWORD)
    use(site, hosts=hosts(embedded_postgres.port), tls="disable", root_certificate=None)
    assert ask(site, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") is False


def test_a_unix_socket(site: Site) -> None:
    use(site, hosts=f"{site.server.folder}:{site.server.port}", root_certificate=None)
    assert ask(site, "SELECT coalesce(host(inet_client_addr()), 'local')") == "local"


# --- passwords --------------------------------------------------------------------------------------------------------


def hostssl(method: str, role: str = ROLE, database: str = "all") -> str:
    return f"hostssl {database} {role} 127.0.0.1/32 {method}"


def test_scram_with_channel_binding_is_what_is_used(site: Site, tmp_path: Path) -> None:
    """As somebody hears it who has the server's own certificate and key, and whom therefore nobody can notice."""
    files = (site.server.folder / "server.crt", site.server.folder / "server.key")
    with Middleman.listening(site.server.port, *files) as middleman:
        use(site, hosts=f"localhost:{middleman.port}")
        assert ask(site, "SELECT 1") == 1
    assert b"SCRAM-SHA-256-PLUS\0" in middleman.heard
    assert b"p=tls-server-end-point,," in middleman.heard
    assert PASSWORD.encode() not in middleman.heard
    assert log_count(site.server, f'identity="{ROLE}" method=scram-sha-256')


def test_channel_binding_finds_the_man_in_the_middle(site: Site, tmp_path: Path) -> None:
    files = issue(make_ca("anybody"), "localhost", sans=["localhost"]).write(tmp_path, "middle")
    with Middleman.listening(site.server.port, *files) as middleman:
        use(site, hosts=f"localhost:{middleman.port}", tls="require", root_certificate=None)
        refused = refusal(site)
    assert (refused.sqlstate, refused.text) == ("28000", GENERIC)
    assert "channel binding check failed" in refused.reason


@pytest.mark.parametrize(
    ("methods", "sqlstate", "reason"),
    [
        ("scram-sha-256, scram-sha-256-plus", "28000", "channel binding"),
        ("scram-sha-256-plus", "08006", "password_methods allows none"),
    ],
)
def test_who_hides_channel_binding_is_found_out(
    site: Site, tmp_path: Path, methods: str, sqlstate: str, reason: str
) -> None:
    files = issue(make_ca("anybody"), "localhost", sans=["localhost"]).write(tmp_path, "middle")
    with Middleman.listening(site.server.port, *files, without_channel_binding) as middleman:
        use(site, hosts=f"localhost:{middleman.port}", tls="require", root_certificate=None, password_methods=methods)
        refused = refusal(site)
    assert refused.sqlstate == sqlstate
    assert reason in refused.reason
    assert b"SCRAM-SHA-256-PLUS" not in middleman.heard


def test_scram_without_channel_binding_on_a_unix_socket_where_only_that_is_allowed(site: Site) -> None:
    hosts = f"{site.server.folder}:{site.server.port}"
    use(site, hosts=hosts, root_certificate=None, password_methods="scram-sha-256-plus")
    refused = refusal(site)
    assert refused.sqlstate == "08006"
    assert "password_methods allows none" in refused.reason
    use(site, hosts=hosts, root_certificate=None, password_methods="scram-sha-256")
    assert ask(site, "SELECT 1") == 1


@pytest.mark.parametrize("method", ["md5", "password"])
def test_a_weak_method_has_to_be_allowed(site: Site, method: str) -> None:
    site.server.make_role(ROLE, PASSWORD, method="md5")
    with site.server.hba(hostssl(method)):
        use(site)
        refused = refusal(site)
        assert (refused.sqlstate, refused.text) == ("08006", UNREACHABLE)
        assert f"'{method}', which password_methods does not allow" in refused.reason
        use(site, password_methods=f"scram-sha-256, {method}")
        assert ask(site, "SELECT current_user") == ROLE


def test_the_clear_password_is_never_sent_outside_tls(site: Site) -> None:
    with site.server.hba(f"local all {ROLE} password"):
        hosts = f"{site.server.folder}:{site.server.port}"
        use(site, hosts=hosts, root_certificate=None, password_methods="password")
        refused = refusal(site)
    assert refused.sqlstate == "08006"
    assert "outside TLS" in refused.reason


def test_a_server_that_asks_for_no_password_is_suspect_where_there_is_one(site: Site) -> None:
    with site.server.hba(hostssl("trust")):
        use(site)
        refused = refusal(site)
        assert refused.sqlstate == "08006"
        assert "'none', which password_methods does not allow" in refused.reason
        use(site, password_methods="none")
        assert ask(site, "SELECT 1") == 1
        use(site, password=None)
        assert ask(site, "SELECT 1") == 1


def test_a_password_that_is_asked_for_and_not_there(site: Site) -> None:
    use(site, password=None)
    refused = refusal(site)
    assert refused.sqlstate == "08006"
    assert "none is configured" in refused.reason


def test_a_password_from_a_file(site: Site) -> None:
    (site.gateway.folder / "password").write_text(PASSWORD + "\n")
    use(site, password=None, password_file="password")
    assert ask(site, "SELECT 1") == 1


def test_a_password_for_one_role(site: Site) -> None:
    site.server.make_role(ROLE, "another one")
    use(site, login={"password": "another one"}, password="wrong")
    assert ask(site, "SELECT 1") == 1


def test_a_wrong_password_is_told_to_nobody_but_the_audit(site: Site) -> None:
    use(site, password="wrong")
    refused = refusal(site)
    assert (refused.sqlstate, refused.text) == ("28000", GENERIC)
    assert f'password authentication failed for user "{ROLE}"' in refused.reason


def test_a_role_that_is_not_there_looks_like_a_wrong_password(site: Site) -> None:
    use(site)
    refused = refusal(site, user="nobody here")
    assert (refused.sqlstate, refused.text) == ("28000", GENERIC)


def test_a_server_that_lets_nobody_in(site: Site) -> None:
    with site.server.hba(hostssl("reject")):
        use(site)
        refused = refusal(site)
    assert (refused.sqlstate, refused.text) == ("28000", GENERIC)
    assert "pg_hba.conf rejects connection" in refused.reason


# --- client certificates ----------------------------------------------------------------------------------------------


def test_a_certificate_for_one_role(site: Site) -> None:
    assert site.server.ca is not None
    issue(site.server.ca, ROLE).write(site.gateway.folder, "role")
    login: dict[str, object] = {"certificate": "role.crt", "key": "role.key"}
    with site.server.hba(hostssl("cert")):
        use(site, login=login, password=None)
        assert ask(site, "SELECT client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()") == f"/CN={ROLE}"


def test_a_certificate_for_somebody_else_is_refused_by_the_server(site: Site) -> None:
    assert site.server.ca is not None
    issue(site.server.ca, "mallory").write(site.gateway.folder, "mallory")
    with site.server.hba(hostssl("cert")):
        use(site, login={"certificate": "mallory.crt", "key": "mallory.key"}, password=None)
        refused = refusal(site)
    assert (refused.sqlstate, refused.text) == ("28000", GENERIC)
    assert "certificate authentication failed" in refused.reason


def test_a_certificate_of_the_gateway_besides_the_password(site: Site) -> None:
    assert site.server.ca is not None
    issue(site.server.ca, "the gateway").write(site.gateway.folder, "gateway")
    with site.server.hba(hostssl("scram-sha-256 clientcert=verify-ca")):
        use(site)
        assert refusal(site).sqlstate == "28000"
        use(site, client_certificate="gateway.crt", client_key="gateway.key")
        assert ask(site, "SELECT client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()") == "/CN=the gateway"


# --- what the server says no to ---------------------------------------------------------------------------------------


def test_an_upstream_that_is_down(site: Site) -> None:
    use(site, hosts=f"localhost:{free_port()}")
    refused = refusal(site)
    assert (refused.sqlstate, refused.text) == ("08006", UNREACHABLE)
    assert "Connection refused" in refused.reason


def test_an_upstream_whose_name_is_unknown(site: Site) -> None:
    use(site, hosts="no-such-host.invalid")
    refused = refusal(site)
    assert (refused.sqlstate, refused.text) == ("08006", UNREACHABLE)
    assert "cannot be resolved" in refused.reason


def test_a_database_that_is_not_there_is_the_clients_business(site: Site) -> None:
    use(site)
    refused = refusal(site, database="nowhere")
    assert (refused.sqlstate, refused.text) == ("3D000", 'database "nowhere" does not exist')


def test_too_many_connections_is_the_clients_business(site: Site) -> None:
    site.server.make_role(ROLE, PASSWORD, options="CONNECTION LIMIT 1")
    use(site)
    with psycopg.connect(**site.dsn):
        refused = refusal(site)
    assert (refused.sqlstate, refused.text) == ("53300", f'too many connections for role "{ROLE}"')


def test_options_that_the_server_does_not_know(site: Site) -> None:
    use(site)
    assert refusal(site, options="-c no_such_setting=1").sqlstate == "42704"


# --- superusers -------------------------------------------------------------------------------------------------------


@pytest.fixture
def superuser(site: Site) -> Site:
    site.server.make_role(ROLE, PASSWORD, options="SUPERUSER")
    site.server.make_role("bob", PASSWORD)
    return site


def test_a_superuser_is_refused(superuser: Site) -> None:
    use(superuser)
    refused = refusal(superuser)
    assert (refused.sqlstate, refused.text) == ("28000", NOT_ALLOWED)
    assert "superuser" in refused.reason


def test_a_superuser_by_rule(superuser: Site) -> None:
    use(superuser, rules=f"\nallow all {ROLE} all superuser=yes")
    assert ask(superuser, "SHOW is_superuser") == "on"


@pytest.mark.parametrize(
    "disguise",
    [
        {"options": "-c role=bob"},
        {"options": "-crole=bob"},
        {"options": "--role=bob"},
        {"options": "-c ROLE=bob"},
        {"options": "-c session_authorization=bob"},
        {"options": "--session-authorization=bob"},
        {"role": "bob"},
        {"session_authorization": "bob"},
    ],
    ids=str,
)
def test_a_superuser_in_disguise_is_refused(superuser: Site, disguise: dict[str, str]) -> None:
    """Started as another role, the server reports is_superuser=off; after RESET ROLE he would be one again."""
    use(superuser)
    refused = refusal(superuser, **disguise)
    assert (refused.sqlstate, refused.text) == ("28000", NOT_ALLOWED)


@pytest.mark.parametrize("where", ["", "IN DATABASE postgres"])
def test_a_superuser_whom_a_setting_disguises_is_refused(superuser: Site, where: str) -> None:
    """As does ALTER DATABASE, which its owner may say, who need be no superuser."""
    use(superuser)
    superuser.server.sql(f"ALTER ROLE {ROLE} {where} SET role = bob")
    try:
        refused = refusal(superuser)
    finally:
        superuser.server.sql(f"ALTER ROLE {ROLE} {where} RESET role")
    assert (refused.sqlstate, refused.text) == ("28000", NOT_ALLOWED)


def test_an_ordinary_role_may_start_as_one_of_its_own(site: Site) -> None:
    site.server.make_role("grp")
    site.server.make_role(ROLE, PASSWORD)
    site.server.sql(f"GRANT grp TO {ROLE}")
    use(site)
    with psycopg.connect(**site.dsn, options="-c role=grp") as connection:
        assert connection.execute("SELECT current_user, session_user").fetchone() == ("grp", ROLE)


# --- replication ------------------------------------------------------------------------------------------------------


@pytest.fixture
def replicator(site: Site) -> Iterator[Site]:
    site.server.make_role(ROLE, PASSWORD, options="REPLICATION")
    with site.server.hba(hostssl("scram-sha-256", database="replication")):
        yield site


@pytest.mark.parametrize("mode", ["database", "true", "on", "1", "yes"])
def test_replication_is_refused(replicator: Site, mode: str) -> None:
    use(replicator)
    refused = refusal(replicator, replication=mode)
    assert (refused.sqlstate, refused.text) == ("28000", NOT_ALLOWED)
    assert "no rule matches" in refused.reason


def test_replication_by_rule(replicator: Site) -> None:
    use(replicator, rules=f"\nallow all {ROLE} all replication=yes")
    for factory in (LogicalReplicationConnection, PhysicalReplicationConnection):
        with closing(psycopg2.connect(**replicator.dsn, connection_factory=factory)) as connection:
            cursor = connection.cursor()
            cursor.execute("IDENTIFY_SYSTEM")
            row = cursor.fetchone()
            assert row is not None
            assert row[3] == ("postgres" if factory is LogicalReplicationConnection else None)


@pytest.mark.parametrize("factory", [LogicalReplicationConnection, PhysicalReplicationConnection])
def test_a_rule_for_one_database_allows_no_replication(replicator: Site, factory: type) -> None:
    """BASE_BACKUP would read them all, also on a connection that names a database."""
    use(replicator, rules=f"\nallow postgres {ROLE} all replication=yes")
    with pytest.raises(psycopg2.OperationalError, match=NOT_ALLOWED):
        psycopg2.connect(**replicator.dsn, connection_factory=factory)


def test_pg_receivewal_streams_a_segment_through_the_gateway(replicator: Site, tmp_path: Path) -> None:
    use(replicator, rules=f"\nallow all {ROLE} all replication=yes")
    server = replicator.server
    # Something to stream, whatever ran before: right after a switch there is no segment.
    server.sql("SELECT pg_logical_emit_message(false, 'test', repeat('x', 1000000))")
    segment = server.sql("SELECT pg_walfile_name(pg_current_wal_lsn())")[0][0]
    last_byte = server.sql("SELECT '0/0'::pg_lsn + (div(pg_current_wal_lsn() - '0/0', 16777216) + 1) * 16777216 - 1")
    receivewal = Program(server.programs / "pg_receivewal")
    process = receivewal.start(replicator, "--directory", str(tmp_path), "--endpos", str(last_byte[0][0]), "--no-loop")
    try:
        streaming = "SELECT 1 FROM pg_stat_replication WHERE state = 'streaming' AND usename = %s"
        wait_until(lambda: server.sql(streaming, ROLE), "it streams")
        server.sql("SELECT pg_switch_wal()")
        _, told = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 0, told
    assert (tmp_path / segment).read_bytes() == (server.folder / "data" / "pg_wal" / segment).read_bytes()


# --- several hosts ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def standby(debian_postgres: PostgresServer, account: Account) -> Iterator[PostgresServer]:
    """A hot standby, made from the server as it is now."""
    primary = debian_postgres
    primary.make_role(ROLE, PASSWORD)
    folder = Path(tempfile.mkdtemp(prefix="securegw-test-"))
    server = PostgresServer(primary.programs, folder, account, primary.ca, primary.rules)
    server._own(folder)
    for name in ("server.crt", "server.key", "ca.crt"):
        shutil.copy(primary.folder / name, folder / name)
        server._own(folder / name)
    try:
        with primary.hba("local replication postgres trust"):
            where = ("--host", primary.folder, "--port", str(primary.port), "--username=postgres")
            options = ("--write-recovery-conf", "--checkpoint=fast", "--no-sync")
            program = primary.programs / "pg_basebackup"
            done = account.run(program, *where, *options, f"--pgdata={folder / 'data'}")
            assert done.returncode == 0, done.stdout
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder)


STANDBY = "SELECT pg_is_in_recovery()"


def hosts(*ports: int) -> str:
    return ", ".join(f"localhost:{port}" for port in ports)


def test_the_first_host_is_down(site: Site) -> None:
    use(site, hosts=hosts(free_port(), site.server.port))
    assert ask(site, "SELECT 1") == 1
    wait_until(lambda: site.gateway.audit()[-1].get("upstream") == f"main localhost:{site.server.port}", "the audit")


def test_the_first_host_is_silent(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        use(site, hosts=hosts(listener.getsockname()[1], site.server.port), connect_timeout=0.5)
        assert ask(site, "SELECT 1") == 1


def test_every_host_is_down(site: Site) -> None:
    last = free_port()
    use(site, hosts=hosts(free_port(), last))
    refused = refusal(site)
    assert refused.sqlstate == "08006"
    assert f"localhost:{last}" in refused.reason


def test_any_host_will_do(site: Site, standby: PostgresServer) -> None:
    use(site, hosts=hosts(standby.port, site.server.port))
    assert ask(site, STANDBY) is True


def test_a_standby_is_passed_over_for_writing(site: Site, standby: PostgresServer) -> None:
    use(site, hosts=hosts(standby.port, site.server.port), target_session_attrs="read-write")
    assert ask(site, STANDBY) is False


def test_a_cancel_goes_to_the_host_of_its_session(site: Site, standby: PostgresServer) -> None:
    use(site, hosts=hosts(standby.port, site.server.port), target_session_attrs="read-write")
    with psycopg.connect(**site.dsn, autocommit=True) as connection:
        connection.pgconn.send_query(b"SELECT pg_sleep(60)")
        site.wait_for_sleepers()
        connection.cancel_safe()
        site.wait_for_sleepers(0)
        connection.close()


def test_only_a_standby_is_no_place_for_writing(site: Site, standby: PostgresServer) -> None:
    use(site, hosts=hosts(standby.port), target_session_attrs="read-write")
    refused = refusal(site)
    assert (refused.sqlstate, refused.text) == ("08006", UNREACHABLE)
    assert "read-only" in refused.reason


def test_a_session_that_is_read_only_by_default_is_no_place_for_writing(site: Site) -> None:
    site.server.sql(f"ALTER ROLE {ROLE} SET default_transaction_read_only = on")
    use(site, target_session_attrs="read-write")
    assert "read-only" in refusal(site).reason
    use(site)
    assert ask(site, "SHOW transaction_read_only") == "on"
