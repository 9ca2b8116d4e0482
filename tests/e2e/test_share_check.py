"""`securegw share` from making to end, with a real gateway; and every grant that is loosened by hand is found."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from gateway.cli.main import NAME as COMMAND
from gateway.cli.main import securegw
from gateway.cli.running import reload
from gateway.share import entrance
from gateway.token_issuing import private_pem
from tests.gateways import RunningGateway, behind
from tests.pki import issue
from tests.servers import PostgresServer, free_port
from tests.share.databases import NAME as DATABASE
from tests.share.databases import drop_database, make_database

OTHER = "share_other"
PARTNER = "acme corp"
ADMIN_PASSWORD = "the administrator's own"


@dataclass(slots=True)
class Shop:
    """A gateway in front of a database with one share, which was made by the command.

    usual: the lines of the server's pg_hba.conf. rule, hba: what the command has printed.
    """

    gateway: RunningGateway
    server: PostgresServer
    usual: tuple[str, ...]
    rule: str = ""
    hba: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return self.gateway.folder

    @property
    def files(self) -> tuple[str, ...]:
        return "--key", str(self.folder / "issuer.key"), "--ca", str(self.gateway.root_certificate)

    def run(self, command: str, *arguments: str) -> Result:
        admin = ("--as", "share_dba", "--password-file", str(self.folder / "dba.password"))
        words = ("-c", str(self.folder / "gw.ini"), "share", command, *arguments, *admin, "--json")
        return CliRunner().invoke(securegw, words, prog_name=COMMAND)

    def create(self, *more: str) -> Any:
        source = ("--table", "shop.orders", "--columns", "id,total", "--database", DATABASE)
        result = self.run("create", "--name", "acme", "--for", PARTNER, "--from", "203.0.113.0/24", *source, *more)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def check(self, *more: str) -> tuple[int, list[dict[str, str]]]:
        result = self.run("check", "acme", *self.files, *more)
        assert result.stdout, result.output
        return result.exit_code, json.loads(result.stdout)

    def loosened(self) -> list[str]:
        """Also that the status says so."""
        status, rows = self.check()
        wrong = [f"{row['tried']}: {row['got']}" for row in rows if row["verdict"] not in ("ok", "known")]
        assert status == bool(wrong), rows
        return wrong

    @contextmanager
    def configured(self, **keys: object) -> Iterator[None]:
        """With these keys of its listener instead. Within the body they are in force, and not a moment longer."""
        before = self.gateway.sections["postgres:main"]
        self._reload({**before, **keys})
        try:
            yield
        finally:
            self._reload(before)

    def _reload(self, section: dict[str, object]) -> None:
        self.gateway.sections["postgres:main"] = section
        self.gateway.write_ini()
        # Answered once it is done; a line of the log could be an earlier reload's.
        assert reload(self.folder / "control.sock") is None

    @contextmanager
    def ruled_by(self, *lines: str) -> Iterator[None]:
        """pg_hba.conf with these lines, and not those of the share, before those it usually has."""
        before = self.server.rules
        self.server.rules = self.usual
        with self.server.hba(*lines):
            self.server.rules = (*lines, *self.usual)
            try:
                yield
            finally:
                # What it is put back to.
                self.server.rules = before

    def ruled(self, *rules: str) -> AbstractContextManager[None]:
        return self.configured(rules="\n" + "\n".join(rules))


@pytest.fixture(scope="module")
def shop(debian_postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    server, folder = debian_postgres, tmp_path_factory.mktemp("gateway")
    make_database(server)
    make_database(server, OTHER)
    server.make_role("share_dba", ADMIN_PASSWORD, options="SUPERUSER")
    server.sql("CREATE ROLE share_readers")
    server.sql("CREATE SEQUENCE shop.numbers; SELECT lo_create(4711)", database=DATABASE)
    sections: dict[str, dict[str, object]] = {"upstream:main": behind(server), "control": {"socket": "control.sock"}}
    made = Shop(RunningGateway.made(folder, sections), server, server.rules)
    made.gateway.write_ini()
    (folder / "dba.password").write_text(ADMIN_PASSWORD)
    (folder / "issuer.key").write_bytes(private_pem(made.gateway.key, None))
    (folder / "issuer.key").chmod(0o600)
    try:
        found = made.create("--close-public")
        heading, *lines = found["login"]
        made.gateway.sections[heading.strip("[]")] = dict(line.split(" = ") for line in lines)
        made.gateway.sections["postgres:main"]["rules"] = f"\n{found['rule']}"
        made.rule, made.hba = found["rule"], tuple(found["hba"])
        with made.ruled_by(*made.hba), made.gateway.for_a_while():
            yield made
        assert made.run("revoke", "acme", "--yes").exit_code == 0
    finally:
        drop_database(server)
        drop_database(server, OTHER)
        server.sql("DROP ROLE share_readers, share_dba")


def test_a_share_as_it_was_made_is_tight(shop: Shop) -> None:
    status, rows = shop.check()
    assert [row for row in rows if row["verdict"] not in ("ok", "known")] == []
    assert status == 0
    told = "\n".join(row["tried"] for row in rows)
    for word in (
        "view",
        "another table",
        "write",
        "CREATE",
        "TEMPORARY",
        "PROGRAM",
        "SET ROLE",
        "limits",
        "superusers",
    ):
        assert word in told
    for word in ("another database", "plain text", "another network", "catalog", "rules of", "past the gateway, at"):
        assert word in told
    # What every role may is told, and nothing more is.
    known = [row["tried"].split()[0] for row in rows if row["verdict"] == "known"]
    assert known == ["SET", "ALTER", "lo_create:", "comments", "LISTEN", "sources", "statistics:", "advisory"]


def test_the_password_is_the_gateways_alone(shop: Shop) -> None:
    path = shop.folder / "shares" / "acme.password"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    again = shop.create()
    assert (again["changed"], again["open"]) == (False, [])
    assert path.read_text().strip() not in json.dumps(again)


def test_the_partner_with_its_token_does_not_come_from_here(shop: Shop) -> None:
    """The rule is about its network, and the test's is another: only the control socket lets the proof come from it."""
    with pytest.raises(psycopg.OperationalError, match="No rule allows"):
        psycopg.connect(**shop.gateway.connection(PARTNER, DATABASE))


@pytest.mark.parametrize(
    ("loosen", "tighten", "named"),
    [
        ("GRANT SELECT ON shop.customers TO acme", "REVOKE ALL ON shop.customers FROM acme", "shop.customers"),
        (
            "GRANT USAGE ON SCHEMA shop TO acme; GRANT SELECT ON shop.customers TO acme",
            "REVOKE ALL ON shop.customers FROM acme; REVOKE USAGE ON SCHEMA shop FROM acme",
            "SELECT on shop.customers: it was done",
        ),
        (
            "GRANT USAGE ON SCHEMA shop TO PUBLIC; GRANT SELECT ON shop.customers TO PUBLIC",
            "REVOKE ALL ON shop.customers FROM PUBLIC; REVOKE USAGE ON SCHEMA shop FROM PUBLIC",
            "SELECT on shop.customers: it was done",
        ),
        (
            "GRANT SELECT (customer) ON shop.orders TO acme",
            "REVOKE SELECT (customer) ON shop.orders FROM acme",
            "orders",
        ),
        (
            "GRANT SELECT (card) ON shop.customers TO PUBLIC",
            "REVOKE ALL ON shop.customers FROM PUBLIC",
            "shop.customers",
        ),
        ("GRANT USAGE ON SCHEMA shop TO acme", "REVOKE ALL ON SCHEMA shop FROM acme", "USAGE on the schema shop"),
        (
            "GRANT CREATE ON SCHEMA public TO acme",
            "REVOKE ALL ON SCHEMA public FROM acme",
            "schema public: it was done",
        ),
        ("GRANT CREATE ON SCHEMA acme TO acme", "REVOKE CREATE ON SCHEMA acme FROM acme", "schema acme: it was done"),
        (
            "GRANT INSERT, UPDATE ON acme.acme TO acme",
            "REVOKE INSERT, UPDATE ON acme.acme FROM acme",
            "INSERT on the view",
        ),
        ("GRANT DELETE ON acme.acme TO PUBLIC", "REVOKE DELETE ON acme.acme FROM PUBLIC", "DELETE on the view"),
        (
            "GRANT SELECT ON acme.acme TO acme WITH GRANT OPTION",
            "REVOKE GRANT OPTION FOR SELECT ON acme.acme FROM acme",
            "WITH GRANT OPTION",
        ),
        (
            f"GRANT TEMPORARY ON DATABASE {DATABASE} TO PUBLIC",
            f"REVOKE TEMPORARY ON DATABASE {DATABASE} FROM PUBLIC",
            "TEMPORARY on the database: it was done",
        ),
        (
            f"GRANT CREATE ON DATABASE {DATABASE} TO acme",
            f"REVOKE CREATE ON DATABASE {DATABASE} FROM acme",
            "CREATE SCHEMA on the database: it was done",
        ),
        (
            f"GRANT CONNECT ON DATABASE {OTHER} TO acme",
            f"REVOKE ALL ON DATABASE {OTHER} FROM acme",
            f"database {OTHER}",
        ),
        ("GRANT pg_read_all_data TO acme", "REVOKE pg_read_all_data FROM acme", "acme in pg_read_all_data"),
        (
            "GRANT pg_read_all_data TO acme_owner",
            "REVOKE pg_read_all_data FROM acme_owner",
            "acme_owner in pg_read_all_data",
        ),
        (
            "GRANT pg_write_all_data TO acme",
            "REVOKE pg_write_all_data FROM acme",
            "SET ROLE pg_write_all_data: it was done",
        ),
        (
            "ALTER ROLE acme INHERIT; GRANT pg_execute_server_program TO acme",
            "REVOKE pg_execute_server_program FROM acme; ALTER ROLE acme NOINHERIT",
            "COPY TO PROGRAM: it was done",
        ),
        ("GRANT pg_read_server_files TO acme", "REVOKE pg_read_server_files FROM acme", "pg_read_server_files"),
        ("GRANT share_readers TO acme", "REVOKE share_readers FROM acme", "SET ROLE share_readers: it was done"),
        ("GRANT acme_owner TO acme", "REVOKE acme_owner FROM acme", "SET ROLE acme_owner: it was done"),
        ("ALTER ROLE acme SUPERUSER", "ALTER ROLE acme NOSUPERUSER", "SUPERUSER of the role acme"),
        ("ALTER ROLE acme BYPASSRLS", "ALTER ROLE acme NOBYPASSRLS", "BYPASSRLS of the role acme"),
        ("ALTER ROLE acme_owner BYPASSRLS", "ALTER ROLE acme_owner NOBYPASSRLS", "BYPASSRLS of the role acme_owner"),
        ("ALTER ROLE acme_owner LOGIN", "ALTER ROLE acme_owner NOLOGIN", "LOGIN of the role acme_owner"),
        ("ALTER ROLE acme CREATEROLE", "ALTER ROLE acme NOCREATEROLE", "CREATEROLE of the role acme"),
        ("ALTER ROLE acme CREATEDB", "ALTER ROLE acme NOCREATEDB", "CREATEDB of the role acme"),
        ("ALTER ROLE acme REPLICATION", "ALTER ROLE acme NOREPLICATION", "REPLICATION of the role acme"),
        ("ALTER ROLE acme INHERIT", "ALTER ROLE acme NOINHERIT", "INHERIT of the role acme"),
        (
            "ALTER ROLE acme CONNECTION LIMIT -1",
            "ALTER ROLE acme CONNECTION LIMIT 5",
            "CONNECTION LIMIT of the role: none",
        ),
        (
            "ALTER ROLE acme RESET statement_timeout",
            "ALTER ROLE acme SET statement_timeout = '60s'",
            "statement_timeout",
        ),
        (
            f"ALTER ROLE acme IN DATABASE {DATABASE} SET default_transaction_read_only = off",
            f"ALTER ROLE acme IN DATABASE {DATABASE} RESET ALL",
            "default_transaction_read_only at the start: off",
        ),
        (
            "ALTER VIEW acme.acme RESET (security_barrier)",
            "ALTER VIEW acme.acme SET (security_barrier = true)",
            "security_barrier of the view: is not set",
        ),
        (
            "CREATE OR REPLACE VIEW acme.acme WITH (security_barrier) AS SELECT id, total FROM shop.orders LIMIT 9",
            "CREATE OR REPLACE VIEW acme.acme WITH (security_barrier) AS SELECT id, total FROM shop.orders",
            "the definition of the view",
        ),
        (
            "ALTER VIEW acme.acme OWNER TO postgres",
            "ALTER VIEW acme.acme OWNER TO acme_owner",
            "the owner of the view: postgres",
        ),
        (
            "CREATE TABLE acme.more ()",
            "DROP TABLE acme.more",
            "something else in the schema of the view: table acme.more",
        ),
        (
            "CREATE TABLE shop.mine (); ALTER TABLE shop.mine OWNER TO acme",
            "DROP TABLE shop.mine",
            "ownership of table shop.mine",
        ),
        (
            "CREATE FUNCTION public.leak() RETURNS text SECURITY DEFINER LANGUAGE sql AS 'SELECT 1::text'",
            "DROP FUNCTION public.leak",
            "SECURITY DEFINER function public.leak()",
        ),
        (
            "GRANT EXECUTE ON FUNCTION pg_read_file(text) TO acme",
            "REVOKE EXECUTE ON FUNCTION pg_read_file(text) FROM acme",
            "pg_read_file('PG_VERSION'): it was done",
        ),
        (
            "GRANT EXECUTE ON FUNCTION pg_ls_dir(text) TO PUBLIC",
            "REVOKE EXECUTE ON FUNCTION pg_ls_dir(text) FROM PUBLIC",
            "the restricted function pg_ls_dir(text)",
        ),
        (
            "GRANT SELECT ON pg_authid TO acme",
            "REVOKE SELECT ON pg_authid FROM acme",
            "SELECT on pg_catalog.pg_authid: it was",
        ),
        (
            "GRANT USAGE ON SEQUENCE shop.numbers TO PUBLIC",
            "REVOKE ALL ON SEQUENCE shop.numbers FROM PUBLIC",
            "USAGE on",
        ),
        (
            "GRANT SELECT ON LARGE OBJECT 4711 TO PUBLIC",
            "REVOKE ALL ON LARGE OBJECT 4711 FROM PUBLIC",
            "object 4711: PUBLIC",
        ),
        (
            f"ALTER DATABASE {DATABASE} SET lo_compat_privileges = on",
            f"ALTER DATABASE {DATABASE} RESET lo_compat_privileges",
            "lo_compat_privileges is on",
        ),
        (
            "GRANT SET ON PARAMETER temp_file_limit TO PUBLIC",
            "REVOKE SET ON PARAMETER temp_file_limit FROM PUBLIC",
            "SET temp_file_limit: it was done",
        ),
        ("CREATE EXTENSION dblink SCHEMA public", "DROP EXTENSION dblink", "function of dblink public.dblink(text)"),
        (
            "ALTER DEFAULT PRIVILEGES IN SCHEMA shop GRANT SELECT ON TABLES TO acme",
            "ALTER DEFAULT PRIVILEGES IN SCHEMA shop REVOKE SELECT ON TABLES FROM acme",
            "default privileges",
        ),
        (
            "GRANT SET ON PARAMETER temp_file_limit TO acme",
            "REVOKE SET ON PARAMETER temp_file_limit FROM acme",
            "temp_file_limit",
        ),
    ],
)
def test_a_grant_that_is_loosened_by_hand_is_found(shop: Shop, loosen: str, tighten: str, named: str) -> None:
    _needs(shop, loosen)
    shop.server.sql(loosen, database=DATABASE)
    try:
        found = shop.loosened()
    finally:
        shop.server.sql(tighten, database=DATABASE)
    assert any(named in row for row in found), found


def _needs(shop: Shop, statement: str) -> None:
    if "dblink" in statement and not shop.server.sql("SELECT 1 FROM pg_available_extensions WHERE name = 'dblink'"):
        pytest.skip("the server has no dblink")
    if "PARAMETER" in statement and shop.server.version < 15:
        pytest.skip("PostgreSQL 15 is the first with privileges on parameters")


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        (["allow {0} all role=acme"], "connect from 203.0.112.255: let in"),
        (["allow {0} 203.0.112.0/23 role=acme"], "from 203.0.112.0 into"),
        (["{rule}", "allow {0} 198.51.100.0/24 role=acme"], "connect from 198.51.100.0: let in"),
        (["allow all {partner} 203.0.113.0/24 role=acme"], f"into {OTHER}: allowed as acme by"),
        (["allow {0} 203.0.113.0/24 role=acme superuser=yes"], "allowed as acme by"),
        (["allow {database} all 203.0.113.0/24 role=acme"], "any other from 203.0.113.0 as acme"),
        (["allow {0} 203.0.113.0/24 role=postgres superuser=yes"], "allowed as postgres"),
        (["{rule}", "deny all {partner} all", "allow all all 192.0.2.0/24"], "acme from 192.0.2.0 as acme: allowed"),
    ],
)
def test_a_rule_that_is_widened_is_found(shop: Shop, rules: Sequence[str], named: str) -> None:
    words = {"rule": shop.rule, "partner": f'"{PARTNER}"', "database": DATABASE}
    with shop.ruled(*(rule.format(f'{DATABASE} "{PARTNER}"', **words) for rule in rules)):
        found = shop.loosened()
    assert any(named in row for row in found), found


def test_a_rule_for_all_databases_leads_there_where_the_server_lets_it(shop: Shop) -> None:
    with shop.ruled_by(), shop.ruled(f'allow all "{PARTNER}" 203.0.113.0/24 role=acme'):
        assert f"connect to the database {OTHER}: let in" in shop.loosened()


def test_a_rule_that_leaves_the_role_to_the_token_is_found(shop: Shop) -> None:
    """Whoever has a token with the share's name in that claim would be let in as the share's role."""
    staff = f'deny all "{PARTNER}" all\nallow all all all'
    with shop.configured(role="claim:pgrole"):
        assert shop.loosened() == []
    with shop.configured(role="claim:pgrole", rules=f"\n{shop.rule}\n{staff}"):
        found = shop.loosened()
    assert any("as acme: allowed as whatever role the token says" in row for row in found), found


def test_a_listener_with_another_name_for_the_server_is_found(shop: Shop) -> None:
    """It is in the file; whether the gateway runs with it already is no matter."""
    sections = shop.gateway.sections
    before = dict(sections)
    sections["upstream:second"] = behind(shop.server)
    rule = f'allow all "{PARTNER}" all role=wide'
    sections["postgres:second"] = {"listen": "127.0.0.1:1", "upstream": "second", "rules": f"\n{rule}"}
    shop.gateway.write_ini()
    try:
        found = shop.loosened()
    finally:
        sections.clear()
        sections.update(before)
        shop.gateway.write_ini()
    assert any(row.startswith("rules of [postgres:second]") for row in found), found


def test_a_gateway_that_runs_with_other_rules_than_the_ini_is_found(shop: Shop) -> None:
    with shop.ruled(f'allow {DATABASE} "{PARTNER}" all role=acme'):
        shop.gateway.sections["postgres:main"] = {**shop.gateway.sections["postgres:main"], "rules": f"\n{shop.rule}"}
        shop.gateway.write_ini()
        found = shop.loosened()
    assert any("connect from 203.0.114.0: let in" in row for row in found)


@pytest.mark.parametrize("networks", ["203.0.113.0/24", "0.0.0.0/0, ::/0"])
def test_whoever_enters_sends_no_proxy_header(shop: Shop, networks: str) -> None:
    """Although the partner's address is within the networks of balancers."""
    with shop.configured(proxy_protocol=networks):
        assert shop.loosened() == []


def test_another_listener_to_the_same_server_by_its_socket(shop: Shop) -> None:
    """Its rules make the partner somebody who reads everything."""
    shop.server.make_role("share_boss", "the boss's own", options="IN ROLE pg_read_all_data")
    (shop.folder / "boss.password").write_text("the boss's own")
    again = {"hosts": f"{shop.server.folder}:{shop.server.port}", "tls": "disable", "password_file": "boss.password"}
    rules = f'\nallow all "{PARTNER}" all role=share_boss'
    listener = {"listen": f"127.0.0.1:{free_port()}", "upstream": "again", "rules": rules}
    more: dict[str, dict[str, object]] = {"upstream:again": {**again}, "postgres:again": {**listener}}
    shop.gateway.sections.update(more)
    try:
        shop.gateway.write_ini()
        found = shop.loosened()
    finally:
        for section in more:
            del shop.gateway.sections[section]
        shop.gateway.write_ini()
        shop.server.sql("DROP ROLE share_boss")
    assert found[0].startswith(f"rules of [postgres:again]: {PARTNER} from 203.0.113.0: allowed as share_boss")


def test_a_partner_with_a_certificate(shop: Shop) -> None:
    certificate, key = issue(shop.gateway.ca, PARTNER).write(shop.folder, "partner")
    with shop.configured(client_certificate="required", client_ca="ca.crt"):
        bare = shop.run("check", "acme", *shop.files)
        assert (bare.exit_code, "--cert and --cert-key" in bare.stderr) == (1, True)
        status, rows = shop.check("--cert", str(certificate), "--cert-key", str(key))
    assert (status, {row["verdict"] for row in rows}) == (0, {"ok", "known"})


def test_what_cannot_be_tried_is_no_proof(shop: Shop) -> None:
    """The role's password was changed, so the gateway cannot log in: nothing is known to be refused."""
    stored = shop.server.sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'acme'")[0][0]
    shop.server.sql("ALTER ROLE acme PASSWORD 'another'")
    try:
        (found,) = shop.loosened()
        told = shop.run("check", "acme", *shop.files).stderr
    finally:
        shop.server.sql(f"ALTER ROLE acme PASSWORD '{stored}'")
    assert "rows is not as it has to be." in told
    assert found.startswith("connect from 203.0.113.0: ")
    assert "The gateway could not log in to the database" in found


def test_before_the_ini_has_its_lines_nothing_is_proven(shop: Shop) -> None:
    """Which rows say so, docs/share-a-view.md tells."""
    with shop.configured(rules=""):
        rule, connect = shop.loosened()
    assert rule == f"rules of [postgres:main]: {PARTNER} from 203.0.113.0: refused"
    assert connect.startswith("connect from 203.0.113.0: ")
    assert "No rule allows this user, database and address" in connect
    with shop.configured(rules=""):
        shop.gateway.sections["postgres:main"]["rules"] = f"\n{shop.rule}"
        shop.gateway.write_ini()
        (not_reloaded,) = shop.loosened()
    assert not_reloaded.split(" failed: ")[1] == connect.split(" failed: ")[1]
    login = shop.gateway.sections.pop("login:acme")
    try:
        with shop.configured():
            (connect,) = shop.loosened()
            shop.gateway.sections["login:acme"] = login
    finally:
        shop.gateway.sections["login:acme"] = login
    assert "The database cannot be reached" in connect


def test_nobody_but_the_issuer_can_try(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(shop.gateway.token("somebody else"))
    words = ("--token-file", str(tmp_path / "token"), "--ca", str(shop.gateway.root_certificate))
    result = shop.run("check", "acme", *words)
    rows = json.loads(result.stdout)
    assert (result.exit_code, [row["verdict"] for row in rows if "with TLS" in row["tried"]]) == (1, [])
    (tmp_path / "token").write_text(shop.gateway.token(PARTNER))
    assert shop.run("check", "acme", *words).exit_code == 0


def test_without_its_authority_the_gateway_is_not_believed(shop: Shop) -> None:
    words = ("--key", str(shop.folder / "issuer.key"))
    result = shop.run("check", "acme", *words)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "give --ca" in result.stderr
    wrong = shop.run("check", "acme", *words, "--ca", str(shop.server.root_certificate))
    assert [row["verdict"] for row in json.loads(wrong.stdout) if "certificate verify failed" in row["got"]] != []


def test_nor_is_one_with_another_name(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entrance, "server_name", lambda _: "other.example")
    assert any("does not match host name" in row for row in shop.loosened())


def test_a_check_leaves_nothing_behind(shop: Shop) -> None:
    before = shop.server.sql("SELECT count(*)::int FROM pg_class", database=DATABASE)
    shop.check()
    assert shop.server.sql("SELECT count(*)::int FROM pg_class", database=DATABASE) == before
    shop.gateway.check_at_rest()


# --- past the gateway -------------------------------------------------------------------------------------------------


def test_without_the_lines_for_pg_hba_the_server_lets_the_partner_in(shop: Shop) -> None:
    """It may have given itself a password that it knows."""
    with shop.ruled_by():
        found = shop.loosened()
    where = f"past the gateway, at localhost:{shop.server.port}"
    remedy = "let in, with a password: add the lines for pg_hba.conf (share create prints them)"
    assert found == [f"log in to the database {one} {where}: {remedy}" for one in others(shop)]
    result = shop.run("check", "acme", *shop.files)
    assert "Not tried: the server's Unix socket, unless the upstream is one" in result.stderr


def others(shop: Shop) -> list[str]:
    every = shop.server.sql("SELECT datname FROM pg_database ORDER BY NOT datallowconn, datname")
    return [name for (name,) in every if name != DATABASE]


@pytest.mark.parametrize(
    ("line", "named", "got"),
    [
        ("hostssl all acme all trust", "postgres past the gateway, at", "let in, and asked for no password: add"),
        ("hostssl postgres acme all md5", "postgres past the gateway, at", "let in, with a password: add"),
        ("hostnossl {0} acme all scram-sha-256", "{0} past the gateway in plain text", "let in, with a password: add"),
        ("hostnossl all acme all trust", "{0} past the gateway in plain text", "let in, and asked for no password"),
    ],
)
def test_a_line_before_them_is_found(shop: Shop, line: str, named: str, got: str) -> None:
    """The gateway's own way stays as it is."""
    way = shop.hba[0]
    with shop.ruled_by(way, line.format(DATABASE), *shop.hba):
        found = shop.loosened()
    assert any(f"{named.format(DATABASE)}" in row and got in row for row in found), found
    assert all("past the gateway" in row for row in found), found


def test_a_server_that_gives_another_answer_proves_nothing_and_is_asked_once(shop: Shop) -> None:
    """As this one, which wants a certificate that the gateway has none of."""
    with shop.ruled_by(shop.hba[0], "hostssl all acme all cert", "hostnossl all acme all reject"):
        (found,) = shop.loosened()
    assert "another database" not in found
    assert ": not by pg_hba.conf: " in found


# --- settings that the partner has changed ----------------------------------------------------------------------------


def test_a_lock_of_the_partners_ends_with_the_check_s_own_timeout(shop: Shop) -> None:
    """Its settings are told first; then they are ours."""
    shop.server.sql("ALTER ROLE acme SET lock_timeout = 0")
    held = f"host={shop.server.folder} port={shop.server.port} user=postgres dbname={DATABASE}"
    try:
        with psycopg.connect(held) as session:
            session.execute("ALTER ROLE acme PASSWORD 'mine'")
            found = shop.loosened()
            session.rollback()
    finally:
        shop.server.sql("ALTER ROLE acme SET lock_timeout = '5s'")
    assert "lock_timeout at the start: 0" in found
    assert any("canceling statement due to lock timeout" in row for row in found), found
