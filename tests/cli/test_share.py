"""`securegw share` as people call it: what it prints, where the password goes, and what it refuses."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from gateway.cli.main import NAME as COMMAND
from gateway.cli.main import securegw
from gateway.cli.share_check import _short
from gateway.cli.token_files import certificate as der
from gateway.config import load
from gateway.errors import Problems
from gateway.jose import unpadded
from gateway.policy import parse_rule
from gateway.settings import Config
from gateway.share.tried import Tried, Verdict
from tests.pki import issue, make_ca, write_pem
from tests.servers import PostgresServer, free_port
from tests.share.databases import NAME as DATABASE
from tests.share.databases import drop_database, make_database

CREATE = ("create", "--name", "acme", "--for", "acme corp", "--from", "203.0.113.0/24", "--database", DATABASE)
TABLE = ("--table", "shop.orders", "--columns", "id,total")
ODD = 'Pär "x" {} %'
NOBODY = 65_534


@dataclass(frozen=True, slots=True)
class Desk:
    """An INI in a folder, about a server."""

    folder: Path
    hosts: str

    def write(self, more: str = "", rules: str = "", tls: str = "") -> Config:
        """And what the gateway makes of it."""
        lines = ["[tls]", "certificate = server.crt", "key = server.key", tls, "[jwt:main]", "public_keys = jwt.pub"]
        lines += ["[upstream:main]", f"hosts = {self.hosts}", "[postgres:main]", f"listen = 127.0.0.1:{free_port()}"]
        path = self.folder / "gw.ini"
        path.write_text("\n".join([*lines, f"rules =\n    {rules}", more, ""]), "utf-8")
        return self.load()

    def load(self) -> Config:
        problems = Problems()
        config = load(self.folder / "gw.ini", {}, self.folder, problems)
        problems.raise_if_any()
        return config

    def run(self, *words: str, stdin: str | bytes = "") -> Result:
        ini = str(self.folder / "gw.ini")
        return CliRunner().invoke(securegw, ("-c", ini, "share", *words), input=stdin, prog_name=COMMAND)

    def ok(self, *words: str, stdin: str | bytes = "") -> Result:
        result = self.run(*words, stdin=stdin)
        assert result.exit_code == 0, result.output
        return result

    def json(self, *words: str) -> Any:
        return json.loads(self.ok(*words, "--json").stdout)

    def refused(self, *words: str, status: int = 1, stdin: str | bytes = "") -> str:
        result = self.run(*words, stdin=stdin)
        assert (result.exit_code, result.stdout) == (status, ""), result.output
        return result.stderr


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """No server is there."""
    ca = make_ca("share tests")
    issue(ca, "localhost", sans=["localhost"]).write(tmp_path, "server")
    write_pem(tmp_path / "ca.crt", ca.certificate)
    key = issue(ca, "jwt").certificate.public_key()
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    (tmp_path / "jwt.pub").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    found = Desk(tmp_path, "/nonexistent:5432")
    found.write()
    return found


@pytest.fixture(scope="module")
def database(embedded_postgres: PostgresServer) -> Iterator[PostgresServer]:
    """The server, with something to share from."""
    make_database(embedded_postgres)
    yield embedded_postgres
    drop_database(embedded_postgres)


@pytest.fixture
def office(desk: Desk, database: PostgresServer) -> Iterator[Desk]:
    """With that server, and no share left afterwards, nor anything closed."""
    found = Desk(desk.folder, f"{database.folder}:{database.port}")
    found.write()
    yield found
    found.write()
    for one in found.json("list"):
        found.ok("revoke", one["name"], "--yes")
    database.sql(f"GRANT TEMPORARY ON DATABASE {DATABASE} TO PUBLIC")


# --- without a database -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ((), "exactly one of --table"),
        (("--table", "a.b", "--query", "SELECT 1"), "exactly one of --table"),
        (("--query", "SELECT 1", "--query-file", "-"), "exactly one of --table"),
        (("--query", "SELECT 1", "--columns", "a"), "--columns goes with --table"),
        (("--table", "orders"), "SCHEMA.TABLE"),
        (("--table", "a.b.c"), "SCHEMA.TABLE"),
        (("--table", "a b.c"), "separated by"),
        (("--table", "a.b", "--columns", ""), "cannot read names"),
        (("--query", " ; "), "the query is empty"),
        ((*TABLE, "--from", "203.0.113.1/24"), "host bits"),
        ((*TABLE, "--from", "everywhere"), "not an address or a CIDR"),
        ((*TABLE, "--name", "n" * 58), "longer than 57 bytes"),
        ((*TABLE, "--name", "a\x1b[2J"), "cannot be seen"),
        ((*TABLE, "--for", ""), "the subject"),
        ((*TABLE, "--for", "a\udc80"), "the subject"),
        (("--query", "SELECT '\udc80'"), "surrogates"),
        (("--query-file", "-", "--password-file", "-"), "standard input"),
    ],
)
def test_what_is_asked_for_wrongly_is_told_before_anything(desk: Desk, more: tuple[str, ...], reason: str) -> None:
    told = desk.refused(*CREATE, *more, status=2)
    assert reason in told
    assert "\x1b" not in told
    assert not (desk.folder / "shares").exists()


def test_a_query_that_cannot_be_read(desk: Desk, tmp_path: Path) -> None:
    assert "No such file" in desk.refused(*CREATE, "--query-file", str(tmp_path / "none"))
    assert "not UTF-8" in desk.refused(*CREATE, "--query-file", "-", stdin=b"SELECT '\xff'")
    assert "is larger than" in desk.refused(*CREATE, "--query-file", "-", stdin=b"-" * 70_000)


def test_the_upstream_has_to_be_there(desk: Desk) -> None:
    assert "no [upstream:other]; there is: main" in desk.refused(*CREATE, *TABLE, "--upstream", "other")
    told = desk.refused(*CREATE, *TABLE)
    assert told.startswith(f"Error: postgres in the database {DATABASE} of [upstream:main]: ")
    assert "No such file" in told
    assert list((desk.folder / "shares").iterdir()) == []


def test_all_of_it_is_shown_without_a_database(desk: Desk) -> None:
    shown = desk.ok(*CREATE, *TABLE, "--print")
    for line in (
        'CREATE VIEW "acme"."acme" WITH (security_barrier = true) AS SELECT "id", "total" FROM "shop"."orders";',
        'GRANT SELECT ON TABLE "acme"."acme" TO "acme";',
        "[login:acme]",
        "password_file = shares/acme.password",
        f'    allow {DATABASE} "acme corp" 203.0.113.0/24 role=acme',
        f"local    {DATABASE}  acme  scram-sha-256",
        "host     all  acme  all  reject",
    ):
        assert line in shown.stdout.splitlines()
    assert (shown.stdout.startswith("BEGIN;\n"), "\nCOMMIT;\n" in shown.stdout) == (True, True)
    assert "Nothing was changed" in shown.stderr
    assert not (desk.folder / "shares").exists()
    assert desk.json(*CREATE, *TABLE, "--print")["sql"][-1] == "COMMIT"


def test_check_has_to_know_what_to_try_with(desk: Desk) -> None:
    assert "--key" in desk.refused("check", "acme", status=2)
    assert "exactly one" in desk.refused("check", "acme", "--key", "a", "--token-file", "b", status=2)
    for two in (
        ("--key", "-", "--password-file", "-"),
        ("--token-file", "-", "--password-file", "-"),
        ("--key", "k", "--passphrase-file", "-", "--password-file", "-"),
        ("--key", "-", "--passphrase-file", "-"),
    ):
        assert "cannot be two" in desk.refused("check", "acme", *two, status=2)
    for one in ("--cert", "--cert-key"):
        assert "go together" in desk.refused("check", "acme", "--key", "k", one, "f", status=2)


# --- with one ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "subject", "table"),
    [("acme", "acme", "shop.orders"), (ODD, 'Ünï, #="all"', 'shop."customers"'), ("all", "all", "shop.orders")],
)
def test_the_lines_that_are_printed_are_what_the_gateway_takes(
    office: Desk, name: str, subject: str, table: str
) -> None:
    words = ("--name", name, "--for", subject, "--from", "2001:db8::/32", "--from", "203.0.113.7", "--table", table)
    made = office.json("create", "--database", DATABASE, *words)
    rule = parse_rule(made["rule"], "here")
    assert (sorted(rule.subjects.exact), sorted(rule.databases.exact)) == ([subject], [DATABASE])
    assert rule.role == name
    assert [str(one) for one in rule.networks.exact] == ["203.0.113.7/32", "2001:db8::/32"]
    config = office.write("\n".join(made["login"]), made["rule"])
    (login,) = config.upstreams["main"].logins
    (path,) = (office.folder / "shares").iterdir()
    assert (login.role, login.password) == (name, path.read_text().removesuffix("\n"))
    assert config.postgres[0].rules[0].role == name


def test_pg_hba_takes_the_lines_and_lets_the_role_in_there_alone(
    office: Desk, embedded_postgres: PostgresServer
) -> None:
    made = office.json(*CREATE, "--name", ODD, *TABLE)
    (path,) = (office.folder / "shares").iterdir()
    login: dict[str, Any] = {"user": ODD, "password": path.read_text().strip(), "port": embedded_postgres.port}
    socket = str(embedded_postgres.folder)
    with embedded_postgres.hba(*made["hba"]):
        with psycopg.connect(**login, host=socket, dbname=DATABASE) as session:
            assert session.execute("SELECT current_user").fetchone() == (ODD,)
        for host, database in ((socket, "postgres"), ("127.0.0.1", DATABASE)):
            with pytest.raises(psycopg.OperationalError, match="rejects connection"):
                psycopg.connect(**login, host=host, dbname=database)


def test_the_password_is_in_its_file_alone(office: Desk) -> None:
    made = office.ok(*CREATE, *TABLE)
    path = office.folder / "shares" / "acme.password"
    assert (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode)) == (0o600, 0o700)
    password = path.read_text().strip()
    assert len(password) >= 40
    assert password not in made.output
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_what_everybody_may_is_told_with_its_remedy(office: Desk) -> None:
    told = office.ok(*CREATE, *TABLE).stderr
    assert f"TEMPORARY on the database {DATABASE}: PUBLIC has it; to end it: REVOKE TEMPORARY" in told
    assert "--close-public runs these lines" in told
    closed = office.ok(*CREATE, *TABLE, "--replace", "--close-public").stderr
    assert "REVOKE" not in closed
    assert "another password now" in closed
    assert f"TEMPORARY on the database {DATABASE} is taken from PUBLIC now" in closed


def test_it_is_taken_away_for_a_share_that_is_there_too(office: Desk) -> None:
    office.ok(*CREATE, *TABLE)
    path = office.folder / "shares" / "acme.password"
    password = path.read_text()
    closed = office.ok(*CREATE, *TABLE, "--close-public").stderr
    assert f"TEMPORARY on the database {DATABASE} is taken from PUBLIC now" in closed
    assert "nothing was changed" not in closed
    again = office.json(*CREATE, *TABLE, "--close-public")
    assert (again["changed"], again["closed"], again["open"]) == (False, [], [])
    assert path.read_text() == password


def test_what_a_call_has_taken_away_is_a_change(office: Desk) -> None:
    office.ok(*CREATE, *TABLE)
    found = office.json(*CREATE, *TABLE, "--close-public")
    assert (found["changed"], found["open"]) == (True, [])
    assert [one["what"] for one in found["closed"]] == [f"TEMPORARY on the database {DATABASE}"]


def test_a_second_time_nothing_is_changed(office: Desk) -> None:
    office.ok(*CREATE, *TABLE)
    path = office.folder / "shares" / "acme.password"
    password = path.read_text()
    again = office.ok(*CREATE, *TABLE)
    assert "nothing was changed" in again.stderr
    assert path.read_text() == password
    told = office.refused(*CREATE, "--query", "SELECT 1")
    assert "its source" in told
    assert "--replace" in told
    office.ok(*CREATE, "--query", "SELECT 1", "--replace")
    assert path.read_text() != password
    path.unlink()
    assert "is gone; --replace makes another" in office.ok(*CREATE, "--query", "SELECT 1").stderr
    assert not path.exists()


def test_a_password_of_another_share_is_not_written_over(office: Desk) -> None:
    path = office.folder / "shares" / "acme.password"
    path.parent.mkdir()
    path.parent.chmod(0o711)
    path.write_text("of a share in another server")
    assert "of another share; --replace takes its place" in office.refused(*CREATE, *TABLE)
    assert path.read_text() == "of a share in another server"
    assert office.json("list") == []
    assert len(list(path.parent.iterdir())) == 1
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o711


def test_the_query_comes_from_a_file(office: Desk, database: PostgresServer) -> None:
    text = "SELECT count(*) AS n\nFROM shop.orders"
    office.ok(*CREATE, "--query-file", "-", stdin=f"{text}; \n")
    (found,) = office.json("list")
    assert found["source"] == f"a query (SHA-256 {sha256(text.encode()).hexdigest()[:16]}…)"
    (view,) = database.sql("SELECT pg_get_viewdef('acme.acme'::regclass)", database=DATABASE)
    assert " ".join(view[0].split()) == "SELECT count(*) AS n FROM shop.orders;"
    printed = office.ok(*CREATE, "--query-file", "-", "--print", stdin=text).stdout
    assert f"AS (\n{text}\n);" in printed


def test_the_list_is_what_the_server_knows(office: Desk, embedded_postgres: PostgresServer) -> None:
    office.ok(*CREATE, *TABLE)
    embedded_postgres.sql("CREATE ROLE share_faker; COMMENT ON ROLE share_faker IS 'securegw share {\"version\": 1}'")
    try:
        (found,) = office.json("list", "--database", DATABASE)
    finally:
        embedded_postgres.sql("DROP ROLE share_faker")
    assert {key: found[key] for key in ("name", "database", "subject", "networks", "source", "by")} == {
        "name": "acme",
        "database": DATABASE,
        "subject": "acme corp",
        "networks": "203.0.113.0/24",
        "source": "shop.orders (id, total)",
        "by": "postgres",
    }
    assert "shop.orders (id, total)" in office.ok("list").stdout


def test_a_revoked_share_is_gone_with_its_file(office: Desk) -> None:
    office.ok(*CREATE, *TABLE)
    assert "say --yes" in office.refused("revoke", "acme", status=2)
    gone = office.ok("revoke", "acme", "--yes").stdout
    assert gone.startswith(f"The share acme is gone, and so is {office.folder}/shares/acme.password.\n")
    assert "role=acme" not in gone, "the INI has no such rule"
    assert list((office.folder / "shares").iterdir()) == []
    assert office.json("list") == []
    for more in ((), ("--json",)):
        again = office.refused("revoke", "acme", "--yes", *more)
        told = f"there is no share acme, and no {office.folder}/shares/acme.password: nothing was done"
        assert told in again


def test_what_has_lost_its_record_is_not_taken_for_ended(office: Desk, database: PostgresServer) -> None:
    """Nor is its file deleted, though the INI does not name it."""
    office.ok(*CREATE, *TABLE)
    ((comment,),) = database.sql("SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = 'acme'")
    database.sql("COMMENT ON ROLE acme IS 'the partner acme, ticket 4711'")
    try:
        told = office.refused("revoke", "acme", "--yes")
        assert "there is a role acme, but the comment on acme is no share's record; nothing was ended" in told
        assert (office.folder / "shares" / "acme.password").exists()
    finally:
        database.sql("COMMENT ON ROLE acme IS '" + comment.replace("'", "''") + "'")


def test_a_database_that_was_renamed_since_is_found(office: Desk, database: PostgresServer) -> None:
    office.ok(*CREATE, *TABLE)
    database.sql(f"ALTER DATABASE {DATABASE} RENAME TO share_renamed")
    try:
        assert office.json("revoke", "acme", "--yes")["changed"] is True
        assert office.json("list") == []
    finally:
        database.sql(f"ALTER DATABASE share_renamed RENAME TO {DATABASE}")


def test_whoever_cannot_log_in_any_more_is_told_where_the_rest_fails(office: Desk, database: PostgresServer) -> None:
    office.ok(*CREATE, *TABLE)
    database.sql("CREATE TABLE acme.precious ()", database=DATABASE)
    try:
        told = office.refused("revoke", "acme", "--yes")
    finally:
        database.sql("DROP TABLE acme.precious", database=DATABASE)
    assert "cannot drop schema acme" in told
    assert told.endswith(". Nobody logs in as acme any more\n")


def test_what_can_be_pasted_is_quoted_and_ends_its_line(office: Desk) -> None:
    made = office.ok(*CREATE, *TABLE, "--name", "two words")
    assert ": securegw share check 'two words'\n" in made.stderr
    office.write("\n".join(office.json(*CREATE, *TABLE, "--name", "two words")["login"]))
    gone = office.ok("revoke", "two words", "--yes").stdout
    assert ": securegw share revoke 'two words'\n" in gone


def test_what_was_taken_from_everybody_stays_taken_and_how_to_give_it_back_is_told(
    office: Desk, database: PostgresServer
) -> None:
    give_back = f"GRANT TEMPORARY ON DATABASE {DATABASE} TO PUBLIC"
    office.ok(*CREATE, *TABLE, "--name", "beta")
    assert f"to give it back: {give_back};\n" in office.ok(*CREATE, *TABLE, "--close-public").stderr
    assert give_back not in office.ok("revoke", "acme", "--yes").stderr, "the other share has need of it"
    assert f"\n  {give_back};\n" in office.ok("revoke", "beta", "--yes").stderr
    database.sql(give_back)
    office.ok(*CREATE, *TABLE)
    assert give_back not in office.ok("revoke", "acme", "--yes").stderr


def test_an_administrator_without_a_password_is_told_how_to_give_one(office: Desk, database: PostgresServer) -> None:
    database.make_role("share_lonely", "x")
    told = office.refused("list", "--as", "share_lonely")
    database.sql("DROP ROLE share_lonely")
    assert told.endswith("no password supplied; give --as ROLE and --password-file FILE\n")
    wrong = office.folder / "wrong"
    wrong.write_text("y")
    assert "--password-file FILE" not in office.refused("list", "--as", "nobody", "--password-file", str(wrong))


def test_a_file_that_the_ini_names_stays_for_the_gateway_to_start(office: Desk) -> None:
    """Both shares are revoked, one after the other, before anybody has edited the INI."""
    made = [office.json(*CREATE, *TABLE, "--name", name) for name in ("acme", "beta")]
    logins = ["\n".join(one["login"]) for one in made]
    office.write("\n".join(logins), "\n    ".join(one["rule"] for one in made))
    paths = [office.folder / "shares" / f"{name}.password" for name in ("acme", "beta")]
    told = office.ok("revoke", "acme", "--yes").stdout
    assert f"{paths[0]} stays: [login:acme] password_file names it." in told
    assert "[login:acme]" in told.splitlines()
    assert f"    {made[0]['rule']}" in told.splitlines()
    assert made[1]["rule"] not in told
    assert "; then this deletes the file: securegw share revoke acme\n" in told
    office.load()
    assert office.json("revoke", "beta", "--yes")["named_by"] == ["[login:beta] password_file"]
    assert office.json("list") == []
    office.load()
    again = office.ok("revoke", "acme", "--yes").stderr
    assert again.startswith(f"There is no share acme: nothing was done. {paths[0]} stays: [login:acme]")
    assert [path.exists() for path in paths] == [True, True]
    office.write(logins[1])
    assert "say --yes" in office.refused("revoke", "acme", status=2)
    assert office.ok("revoke", "acme", "--yes").stderr == f"There is no share acme; {paths[0]} is gone now, too.\n"
    office.load()
    assert [path.exists() for path in paths] == [False, True]
    office.write()
    found = office.json("revoke", "beta", "--yes")
    assert (found["changed"], found["deleted"]) == (True, str(paths[1]))
    assert [path.exists() for path in paths] == [False, False]


@pytest.mark.parametrize("way", ["another section", "by a link", "environment"])
def test_wherever_the_file_is_named_it_stays(office: Desk, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    office.ok(*CREATE, *TABLE)
    (office.folder / "link").symlink_to("shares")
    (office.folder / "own").write_text("of another")
    by = {"another section": "shares/../shares/acme.password", "by a link": f"{office.folder}/link/acme.password"}
    office.write(f"[login:other]\nupstream = main\npassword_file = {by.get(way, 'own')}")
    if way == "environment":
        monkeypatch.setenv("SECUREGW_LOGIN_OTHER_PASSWORD_FILE", "shares/acme.password")
    assert len(office.json("revoke", "acme", "--yes")["named_by"]) == 1
    assert (office.folder / "shares" / "acme.password").exists()


# --- for whom the password is -----------------------------------------------------------------------------------------


def owners(path: Path) -> tuple[int, int, str]:
    status = path.stat()
    return status.st_uid, status.st_gid, oct(stat.S_IMODE(status.st_mode))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
@pytest.mark.parametrize(
    ("user", "group", "mode", "file", "folder"),
    [
        (0, NOBODY, 0o640, (0, NOBODY, "0o640"), (0, NOBODY, "0o750")),
        (0, NOBODY, 0o644, (0, NOBODY, "0o640"), (0, NOBODY, "0o750")),
        (0, NOBODY, 0o600, (0, NOBODY, "0o600"), (0, NOBODY, "0o700")),
        (0, 0, 0o644, (0, 0, "0o600"), (0, 0, "0o700")),
        (NOBODY, NOBODY, 0o664, (NOBODY, NOBODY, "0o600"), (NOBODY, NOBODY, "0o700")),
        (NOBODY, 0, 0o640, (NOBODY, 0, "0o640"), (NOBODY, 0, "0o750")),
    ],
)
def test_whoever_reads_the_ini_reads_the_password_and_nobody_else(
    office: Desk, user: int, group: int, mode: int, file: object, folder: object
) -> None:
    """As under systemd, where the gateway is only of the group that root has given the INI to."""
    ini, path = office.folder / "gw.ini", office.folder / "shares" / "acme.password"
    os.chown(ini, user, group)
    ini.chmod(mode)
    office.ok(*CREATE, *TABLE)
    assert (owners(path), owners(path.parent)) == (file, folder)
    office.ok(*CREATE, *TABLE, "--replace")
    assert (owners(path), owners(path.parent)) == (file, folder)


def test_what_is_printed_can_be_run_by_hand(office: Desk, embedded_postgres: PostgresServer) -> None:
    """By an administrator who would rather have psql do it; with a verifier of their own."""
    sql = office.json(*CREATE, "--query", "SELECT id FROM shop.orders -- it's", "--print")["sql"]
    script = "; ".join(sql).replace("'<SCRAM-SHA-256 verifier of a new random password>'", "NULL")
    embedded_postgres.sql(f"SET search_path = ''; {script}", database=DATABASE)
    assert [one["name"] for one in office.json("list")] == ["acme"]
    assert embedded_postgres.sql("SELECT id FROM acme.acme", database=DATABASE) == [(1,)]


def test_there_is_no_check_of_what_is_not_there(office: Desk, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("x")
    assert "there is no share acme" in office.refused("check", "acme", "--token-file", str(tmp_path / "token"))


def test_check_says_what_it_needs_of_the_configuration(office: Desk) -> None:
    office.ok(*CREATE, *TABLE)
    (office.folder / "token").write_text("e30.e30.e30")
    words = ("check", "acme", "--token-file", str(office.folder / "token"))
    assert "give --ca" in office.refused(*words)
    assert "[control] socket" in office.refused(*words, "--ca", str(office.folder / "ca.crt"))
    for wrong in (b"a\0b", b"x", b"e30.e30.", b"e30.e3.e30", b"e30.\xff.e30", b"e30.W10.e30"):
        (office.folder / "token").write_bytes(wrong)
        assert "is no token" in office.refused(*words, "--ca", str(office.folder / "ca.crt"))
    (office.folder / "token").write_text("e30.e30.e30")
    office.write("[control]\nsocket = control.sock")
    assert "nobody answers there" in office.refused(*words, "--ca", str(office.folder / "ca.crt"))
    assert "with --listener" in office.refused(*words, "--listener", "other")
    assert "is not a readable PEM" in office.refused(*words, "--ca", str(office.folder / "token"))


def test_a_certificate_is_asked_for_before_anything_is_tried(office: Desk) -> None:
    office.ok(*CREATE, *TABLE)
    folder, ca = office.folder, make_ca("partners")
    good, another = (issue(ca, "acme").write(folder, name) for name in ("good", "another"))
    (folder / "token").write_text(f"e30.{bound(good[0])}.e30")
    words = ("check", "acme", "--token-file", str(folder / "token"), "--ca", str(folder / "ca.crt"))
    told = office.refused(*words)
    assert "none was presented; the partner's is given with --cert" in told
    with_cert = ("--cert", str(another[0]), "--cert-key", str(another[1]))
    assert "bound to another client certificate" in office.refused(*words, *with_cert)
    mixed = ("--cert", str(good[0]), "--cert-key", str(another[1]))
    assert "does not match the certificate" in office.refused(*words, *mixed)
    with_cert = ("--cert", str(good[0]), "--cert-key", str(good[1]))
    assert "[control] socket" in office.refused(*words, *with_cert)
    good[1].chmod(0o644)
    assert "can be read by others" in office.refused(*words, *with_cert)
    office.write(tls="client_certificate = required\nclient_ca = ca.crt")
    (folder / "token").write_text("e30.e30.e30")
    assert "[postgres:main] lets nobody in without a certificate" in office.refused(*words)


def bound(certificate: Path) -> str:
    """The claims set of a token."""
    thumbprint = unpadded(sha256(der(str(certificate))).digest()).decode()
    return unpadded(json.dumps({"cnf": {"x5t#S256": thumbprint}}).encode()).decode()


def test_what_is_as_it_should_be_is_told_in_short() -> None:
    rule = "allowed as acme by a rule " + "of many words " * 9
    shown, whole = (_short(Tried("x", "y", rule, verdict)) for verdict in (Verdict.OK, Verdict.LOOSENED))
    assert (len(shown), shown[-1], whole) == (20, "…", rule)
    assert _short(Tried("x", "y", rule[:20], Verdict.OK)) == rule[:20]
