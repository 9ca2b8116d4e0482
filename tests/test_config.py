"""The INI and the environment: what is read, and that every mistake is told, with nothing secret in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import ip_network
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.config import load
from gateway.errors import Problems
from gateway.settings import Config
from gateway.upstream import Address, ClientTLS, Login, ServerTLS, TLSMode

# The least that guards an upstream.
JWT = "[jwt:main]\npublic_keys = issuer.pub\n"
UPSTREAM = "[upstream:main]\nhosts = db.example\n"
POSTGRES = "[postgres:main]\ncertificate = server.crt\nkey = server.key\nrules = allow all all all\n"
COMPLETE = JWT + UPSTREAM + POSTGRES

Reader = Callable[..., tuple[Config, list[str]]]


def public_pem() -> bytes:
    return Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "issuer.pub").write_bytes(public_pem())
    return tmp_path


@pytest.fixture
def read(folder: Path) -> Reader:
    """The configuration of an INI's text, and the problems that it has."""

    def read(ini: str, environ: Mapping[str, str] | None = None) -> tuple[Config, list[str]]:
        path = folder / "gw.ini"
        path.write_text(ini, "utf-8")
        problems = Problems()
        config = load(path, environ or {}, folder, problems)
        return config, [str(problem).replace(str(folder), "DIR") for problem in problems.found]

    return read


# --- what is read -----------------------------------------------------------------------------------------------------


def test_the_least_configuration_and_its_defaults(read: Reader, folder: Path) -> None:
    config, problems = read(COMPLETE)
    assert problems == []
    assert config.warnings == ()
    assert config.path == folder / "gw.ini"
    assert config.gateway.shutdown_grace == 30
    assert config.limits.max_connections == 1000
    assert config.limits.idle_timeout is None
    assert config.audit.file is None
    upstream = config.upstreams["main"]
    assert upstream.addresses == (Address("db.example", 5432),)
    assert upstream.tls == ClientTLS(TLSMode.VERIFY_FULL)
    assert upstream.logins == ()
    assert upstream.password_methods == {"scram-sha-256", "scram-sha-256-plus"}
    (listener,) = config.postgres
    assert listener.listen == (Address("127.0.0.1", 6432),)
    assert listener.tls == ServerTLS(folder / "server.crt", folder / "server.key")
    assert (listener.upstream, listener.jwt, listener.role_claim) == ("main", "main", None)
    assert listener.terminate_on_expiry
    assert [rule.source for rule in listener.rules] == ["[postgres:main] rules, line 1"]


def test_everything_said_otherwise(read: Reader, folder: Path) -> None:
    (folder / "secret").write_text("from a file\n")
    config, problems = read("""
[gateway]
shutdown_grace = 0.5
[tls]
certificate = a.crt
key = a.key
client_certificate = required
client_ca = ca.crt
minimum_version = 1.3
[limits]
idle_timeout = 600
[audit]
file = ../audit.jsonl
[jwt:one]
public_keys =
    issuer.pub
    issuer.pub  2031-key
issuer = https://issuer.example
audience = a, b
    c
leeway = 5
max_lifetime = 3600
[upstream:one]
hosts = [2001:db8::1]:5433, 192.0.2.1
    db.example:1
tls = verify-ca
root_certificate = /etc/ca.crt
password_file = secret
target_session_attrs = read-write
password_methods = md5
connect_timeout = 1.5
[login:alice]
upstream = one
certificate = alice.crt
key = alice.key
[login:second]
upstream = one
role = Robert'); drop
password = 100%s # all of it
[postgres:one]
listen = *:5432, [::1]:5433
    /run/securegw:6432
upstream = one
jwt = one
role = claim:db_role
rules =
    # nobody from there
    deny all all 198.51.100.0/24

    allow all alice all  # her
proxy_protocol = 203.0.113.0/24
on_expiry = keep
application_name = {application_name} [{address}]
client_certificate = optional
sni = b.crt b.key
    c.crt c.key
""")
    assert problems == []
    assert config.gateway.shutdown_grace == 0.5
    assert config.limits.idle_timeout == 600
    assert config.audit.file == folder.parent / "audit.jsonl"
    jwt = config.jwt["one"]
    assert [key.kid for key in jwt.keys] == [None, "2031-key"]
    assert (jwt.issuer, jwt.audience) == ("https://issuer.example", ("a", "b", "c"))
    assert (jwt.leeway, jwt.max_lifetime) == (5, 3600)
    upstream = config.upstreams["one"]
    assert upstream.addresses == (Address("2001:db8::1", 5433), Address("192.0.2.1", 5432), Address("db.example", 1))
    assert upstream.tls == ClientTLS(TLSMode.VERIFY_CA, Path("/etc/ca.crt"))
    assert upstream.login("alice") == Login("alice", None, folder / "alice.crt", folder / "alice.key")
    assert upstream.login("Robert'); drop") == Login("Robert'); drop", "100%s # all of it")
    assert upstream.login("anyone") == Login(None, "from a file")
    assert (upstream.target_session_attrs, upstream.connect_timeout) == ("read-write", 1.5)
    assert upstream.password_methods == {"md5"}
    (listener,) = config.postgres
    assert listener.listen == (Address("*", 5432), Address("::1", 5433), Address("/run/securegw/.s.PGSQL.6432", 0))
    assert listener.tls == ServerTLS(
        certificate=folder / "a.crt",
        key=folder / "a.key",
        sni=((folder / "b.crt", folder / "b.key"), (folder / "c.crt", folder / "c.key")),
        client_certificate="optional",
        client_ca=folder / "ca.crt",
        minimum_version="1.3",
    )
    assert [(rule.allow, rule.source) for rule in listener.rules] == [
        (False, "[postgres:one] rules, line 1"),
        (True, "[postgres:one] rules, line 2"),
    ]
    assert listener.role_claim == "db_role"
    assert listener.proxy_protocol == (ip_network("203.0.113.0/24"),)
    assert not listener.terminate_on_expiry
    assert listener.application_name == "{application_name} [{address}]"


def test_unix_sockets_have_no_tls(read: Reader) -> None:
    config, problems = read(COMPLETE.replace("db.example", "/run/postgresql, /run/other:5433, /x/.s.PGSQL.7"))
    assert problems == []
    upstream = config.upstreams["main"]
    assert upstream.tls.mode is TLSMode.DISABLE
    assert [address.host for address in upstream.addresses] == [
        "/run/postgresql/.s.PGSQL.5432",
        "/run/other/.s.PGSQL.5433",
        "/x/.s.PGSQL.7",
    ]
    assert {address.port for address in upstream.addresses} == {0}
    assert config.warnings == ()


@pytest.mark.parametrize(("text", "mode"), [("disabled", TLSMode.DISABLE), ("required", TLSMode.REQUIRE)])
def test_the_seeds_spellings_of_tls_modes_and_a_warning(read: Reader, text: str, mode: TLSMode) -> None:
    config, problems = read(COMPLETE.replace("db.example", f"db.example\ntls = {text}"))
    assert problems == []
    assert config.upstreams["main"].tls.mode is mode
    assert config.warnings[0].startswith(f"[upstream:main] tls = {mode.value}")


def test_a_root_certificate_that_verifies_nothing_is_told(read: Reader) -> None:
    config, problems = read(COMPLETE.replace("db.example", "db.example\ntls = disable\nroot_certificate = ca.crt"))
    assert problems == []
    assert config.warnings[1:] == ("[upstream:main] root_certificate is not used with tls = disable",)


def test_require_with_a_root_certificate_verifies_and_is_not_warned_of(read: Reader) -> None:
    config, problems = read(COMPLETE.replace("db.example", "db.example\ntls = require\nroot_certificate = ca.crt"))
    assert problems == []
    assert config.warnings == ()


def test_whole_lines_are_comments_and_the_ends_of_lines_are_not(read: Reader) -> None:
    config, problems = read("# a\n; b = c\n" + COMPLETE.replace("db.example", "db.example\n  ; x\npassword = a ; # b"))
    assert problems == []
    assert config.upstreams["main"].addresses == (Address("db.example", 5432),)
    assert config.upstreams["main"].logins == (Login(password="a ; # b"),)


def test_empty_rules_are_allowed_but_told(read: Reader) -> None:
    config, problems = read(COMPLETE.replace("rules = allow all all all", "rules ="))
    assert problems == []
    assert config.postgres[0].rules == ()
    assert config.warnings == ("[postgres:main] rules is empty, so nobody is let in",)


def test_without_an_upstream_nothing_that_guards_one_is_missed(read: Reader) -> None:
    config, problems = read("[postgres:main]\n")
    assert problems == []
    assert (config.upstreams, config.jwt, config.postgres[0].tls, config.warnings) == ({}, {}, None, ())


def test_paths_are_relative_to_the_ini_not_to_where_we_are(
    read: Reader, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(COMPLETE)
    (folder / "deeper").mkdir()
    monkeypatch.chdir(folder / "deeper")
    problems = Problems()
    config = load(Path("../gw.ini"), {}, folder / "deeper", problems)
    assert problems.found == []
    assert config.postgres[0].tls is not None
    assert config.postgres[0].tls.key.resolve() == folder / "server.key"
    monkeypatch.chdir("/")
    assert config.path is not None
    assert config.path.samefile(folder / "gw.ini")


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ini", "problem"),
    [
        ("[postgre:main]\n", "[postgre:main] section: no such section; did you mean [postgres:main]?"),
        ("[postgres]\n", "[postgres] section: no such section; did you mean [postgres:NAME]?"),
        ("[tls:main]\n", "[tls:main] section: no such section; did you mean [tls]?"),
        ("[DEFAULT]\npassword = x\n", "[DEFAULT] section: no such section; valid are [gateway], [tls]"),
        ("[postgres:a b]\n", "[postgres:a b] section: a name has up to 63 of"),
        ("[limits]\nmax_connection = 5\n", "[limits] max_connection: no such key; did you mean max_connections?"),
        ("[limits]\nMax_Connections = 5\n", "[limits] Max_Connections: no such key"),
        ("[audit]\nxyz = 5\n", "[audit] xyz: no such key; valid are file"),
        ("[limits]\nmax_connections = 0\n", "[limits] max_connections: is not a whole number from 1 up"),
        ("[limits]\nmax_connections = 1_000\n", "[limits] max_connections: is not a whole number from 1 up"),
        ("[limits]\nmax_connections = \u0661\n", "[limits] max_connections: is not a whole number from 1 up"),
        ("[limits]\nmax_connections =\n", "[limits] max_connections: is empty"),
        ("[limits]\nmax_connections = 5 # five\n", "[limits] max_connections: is not a whole number from 1 up"),
        ("[limits]\nidle_timeout = inf\n", "[limits] idle_timeout: is not a number of seconds"),
        ("[limits]\nidle_timeout = -1\n", "[limits] idle_timeout: is not a number of seconds"),
        ("[limits]\nhandshake_timeout = 0\n", "[limits] handshake_timeout: must be more than 0 seconds"),
        ("[tls]\nminimum_version = 1.1\n", "[tls] minimum_version: 1.1 is not one of 1.2, 1.3"),
        ("[tls]\nsni = one.crt\n", "[tls] sni: each line is the path of a certificate, then that of its key"),
        ("[postgres:x]\nlisten = 127.0.0.1\n", "[postgres:x] listen: 127.0.0.1 is not ip:port"),
        ("[postgres:x]\nlisten = 127.0.0.1:0\n", "[postgres:x] listen: 0 is not a port from 1 to 65535"),
        ("[postgres:x]\nlisten = 127.0.0.1:65536\n", "[postgres:x] listen: 65536 is not a port"),
        ("[postgres:x]\nlisten = localhost:5432\n", "[postgres:x] listen: localhost is a name"),
        ("[postgres:x]\nlisten = -:5432\n", "[postgres:x] listen: - is a name"),
        ("[postgres:x]\nlisten = 127.0.1:5432\n", "[postgres:x] listen: Expected 4 octets"),
        ("[postgres:x]\nlisten = ::1:5432\n", "[postgres:x] listen: ::1:5432 is not ip:port"),
        ("[postgres:x]\nlisten = ,\n", "[postgres:x] listen: is empty"),
        (f"[postgres:x]\nlisten = /{'x' * 110}:1\n", "[postgres:x] listen: /xxx"),
        ("[postgres:x]\nrole = claims:x\n", "[postgres:x] role: is neither sub nor claim:NAME"),
        ("[postgres:x]\nrole = claim:\n", "[postgres:x] role: is neither sub nor claim:NAME"),
        ("[postgres:x]\non_expiry = Keep\n", "[postgres:x] on_expiry: Keep is not one of terminate, keep"),
        ("[postgres:x]\nproxy_protocol = 10.0.0.1/8\n", "[postgres:x] proxy_protocol: 10.0.0.1/8 has host bits set"),
        ("[postgres:x]\nproxy_protocol = all\n", "[postgres:x] proxy_protocol: all is not an address or a CIDR"),
        ("[postgres:x]\napplication_name = {user}\n", "[postgres:x] application_name: may hold only {subject}"),
        ("[postgres:x]\napplication_name = {subject.x}\n", "[postgres:x] application_name: may hold only {subject}"),
        ("[postgres:x]\napplication_name = {subject!r}\n", "[postgres:x] application_name: may hold only {subject}"),
        ("[postgres:x]\napplication_name = {subject:99999999}\n", "[postgres:x] application_name: may hold only"),
        ("[postgres:x]\napplication_name = {}\n", "[postgres:x] application_name: may hold only {subject}"),
        ("[postgres:x]\napplication_name = {subject\n", "[postgres:x] application_name: "),
        ("[postgres:x]\nrules = allow all all all\n  upstream = y\n", "[postgres:x] rules, line 2: "),
        ("[postgres:x]\nrules = allow all all 10.0.0.1/8\n", "[postgres:x] rules, line 1: 10.0.0.1/8 has host bits"),
        ("[postgres:x]\nkey = a\n", "[postgres:x] certificate: is required"),
        ("[postgres:x]\ncertificate = a\n", "[postgres:x] key: is required"),
        ("[postgres:x]\nclient_certificate = required\n", "[postgres:x] client_ca: is required with"),
        ("[postgres:x]\nclient_ca = ca.crt\n", "[postgres:x] client_certificate: is none, so client_ca would check"),
        ("[postgres:x]\nclient_crl = c.crl\n", "[postgres:x] client_certificate: is none, so client_crl would check"),
        ("[jwt:x]\n", "[jwt:x] public_keys: is required"),
        ("[jwt:x]\npublic_keys =\n", "[jwt:x] public_keys: is empty"),
        ("[jwt:x]\npublic_keys = none.pub\n", "[jwt:x] public_keys: DIR/none.pub: No such file or directory"),
        ("[jwt:x]\npublic_keys = gw.ini\n", "[jwt:x] public_keys: DIR/gw.ini: expected one PEM block"),
        ("[jwt:x]\npublic_keys = a b c\n", "[jwt:x] public_keys: each line is the path of a public key"),
        (JWT + "audience =\n", "[jwt:main] audience: is empty"),
        (JWT + "audience = ,\n", "[jwt:main] audience: is empty"),
        (JWT + "issuer =\n", "[jwt:main] issuer: is empty"),
        (
            UPSTREAM,
            "[postgres:main] section: is missing, and so is any [https:NAME], [mqtt:NAME] or [tunnel:NAME]: nothing",
        ),
        (UPSTREAM + POSTGRES, "[postgres:main] jwt: no section [jwt:main]"),
        ("[upstream:b]\nhosts = b\n" + JWT + POSTGRES, "[postgres:main] upstream: no section [upstream:main]"),
        (UPSTREAM + JWT + "[postgres:main]\n", "[tls] certificate: is required (or in [postgres:main])"),
        (UPSTREAM + "[login:a]\nupstream = b\n", "[login:a] upstream: no section [upstream:b]"),
        (
            UPSTREAM + "[login:a]\n[login:b]\nrole = a\n",
            "[login:b] role: a has another [login:...] for [upstream:main]",
        ),
        (UPSTREAM + "[login:a]\ncertificate = a\n", "[login:a] key: is required with certificate"),
        (
            UPSTREAM + f"[login:a]\nrole = {'r' * 64}\n",
            f"[login:a] role: the role {'r' * 64} is longer than the 63 bytes",
        ),
        (UPSTREAM + "client_key = a\n", "[upstream:main] client_certificate: is required with client_key"),
        (
            UPSTREAM + "tls = prefer\n",
            "[upstream:main] tls: prefer is not one of disable, require, verify-ca, verify-full",
        ),
        (
            UPSTREAM + "password_methods = scram\n",
            "[upstream:main] password_methods: scram is not one of scram-sha-256",
        ),
        (UPSTREAM + "password_methods =\n", "[upstream:main] password_methods: is empty"),
        (UPSTREAM + "password =\n", "[upstream:main] password: is empty"),
        (UPSTREAM + "password = a\n  b\n", "[upstream:main] password: must be one line"),
        (UPSTREAM + "password = a\npassword_file = b\n", "[upstream:main] password_file: is a second answer"),
        (UPSTREAM + "password_file = none\n", "[upstream:main] password_file: DIR/none: No such file or directory"),
        ("[upstream:x]\n", "[upstream:x] hosts: is required"),
        ("[upstream:x]\nhosts = /run/x, db\n", "[upstream:x] hosts: mixes Unix sockets, which have no TLS, with TCP"),
        ("[upstream:x]\nhosts = /run/x\ntls = verify-full\n", "[upstream:x] tls: a Unix socket has no TLS"),
        ("[upstream:x]\nhosts = run/x\n", "[upstream:x] hosts: run/x is not host:port"),
        ("[upstream:x]\nhosts = *\n", "[upstream:x] hosts: * is not host:port"),
        ("[upstream:x]\nhosts = 1.2.3\n", "[upstream:x] hosts: Expected 4 octets"),
        ("[upstream:x]\nhosts = db:5432x\n", "[upstream:x] hosts: db:5432x is not host:port"),
        ("[upstream:x]\nhosts = [::g]\n", "[upstream:x] hosts: "),
    ],
)
def test_each_mistake_is_told_with_its_place(read: Reader, ini: str, problem: str) -> None:
    _, problems = read(ini)
    assert any(told.startswith(problem) for told in problems), problems


def test_all_mistakes_are_told_at_once(read: Reader) -> None:
    _, problems = read(
        "[tsl]\n[limits]\ncancel_rate = x\n[upstream:main]\nhosts = \ntls = maybe\nwhat = ever\n"
        "[postgres:main]\nrules = allow\n    deny\n"
    )
    assert sorted(problem.partition(": ")[0] for problem in problems) == [
        "[limits] cancel_rate",
        "[postgres:main] jwt",
        "[postgres:main] rules, line 1",
        "[postgres:main] rules, line 2",
        "[tls] certificate",
        "[tls] key",
        "[tsl] section",
        "[upstream:main] hosts",
        "[upstream:main] tls",
        "[upstream:main] what",
    ]


TWO = "[postgres:a]\n[postgres:b]\nlisten = 127.0.0.1:6433\n"


@pytest.mark.parametrize(
    ("ini", "told"),
    [
        ("[tls]\nkey = a\n" + TWO, ["[tls] certificate: is required with key"]),
        ("[tls]\ncertificate = a\n" + TWO, ["[tls] key: is required with certificate"]),
        (
            "[tls]\nclient_certificate = required\n" + TWO,
            ["[tls] client_ca: is required with client_certificate = required"],
        ),
        ("[tls]\nclient_ca = a\n" + TWO, ["[tls] client_certificate: is none, so client_ca would check nobody"]),
        (
            "[tls]\nclient_ca = a\nclient_certificate = none\n" + TWO,
            ["[tls] client_certificate: is none, so client_ca would check nobody"],
        ),
        ("[tls]\nclient_ca = a\nclient_certificate = optional\n" + TWO + "client_certificate = none\n", []),
        (
            TWO + "client_certificate = none\nclient_ca = a\n",
            ["[postgres:b] client_certificate: is none, so client_ca would check nobody"],
        ),
        (
            TWO + "client_certificate = optional\nkey = a\n",
            [
                "[postgres:b] client_ca: is required with client_certificate = optional",
                "[postgres:b] certificate: is required with key",
            ],
        ),
    ],
)
def test_what_tls_says_wrong_is_told_once(read: Reader, ini: str, told: list[str]) -> None:
    assert read(ini)[1] == told


@pytest.mark.parametrize(
    ("own", "told"),
    [
        (
            "",
            [
                "[tls] certificate: is required (or in each of [postgres:a], [postgres:b], [tunnel:c])",
                "[tls] key: is required (or in each of [postgres:a], [postgres:b], [tunnel:c])",
            ],
        ),
        (
            "certificate = t.crt\nkey = t.key\n",
            [
                "[postgres:a] certificate: is required (or in [tls], for all listeners without their own)",
                "[postgres:a] key: is required (or in [tls], for all listeners without their own)",
                "[postgres:b] certificate: is required (or in [tls], for all listeners without their own)",
                "[postgres:b] key: is required (or in [tls], for all listeners without their own)",
            ],
        ),
    ],
)
@pytest.mark.parametrize("tls", ["", "[tls]\nminimum_version = 1.3\n"])
def test_where_a_missing_certificate_is_missed(read: Reader, tls: str, own: str, told: list[str]) -> None:
    """In [tls], where one line helps all listeners; but who has begun to give each its own has forgotten one. The
    certificate of a tunnel with mode = client is none of a listener."""
    tunnels = (
        "[tunnel:c]\nmode = server\nlisten = 127.0.0.1:1\nupstream = 127.0.0.1:2\nclient_certificate = none\n"
        f"{own}[tunnel:d]\nmode = client\nlisten = 127.0.0.1:3\nupstream = db:4\ncertificate = d.crt\nkey = d.key\n"
    )
    assert read(tls + UPSTREAM + JWT + TWO + tunnels)[1] == told


def test_where_the_files_of_a_listener_and_a_login_were_named(read: Reader) -> None:
    """Their problems are told there."""
    config, problems = read(
        "[tls]\nkey = a.key\nclient_ca = ca\n"
        + COMPLETE.replace("key = server.key", "client_certificate = required")
        + "[login:alice]\ncertificate = a\nkey = b\n"
    )
    assert problems == []
    assert config.postgres[0].tls is not None
    assert config.postgres[0].tls.sections == {"key": "tls", "client_ca": "tls"}
    assert config.upstreams["main"].login("alice").section == "login:alice"


@pytest.mark.parametrize(
    ("ini", "problem"),
    [
        ("[tls]\nkey = a\nkey = hunter2\n", "[tls] key: is given a second time in line 3"),
        ("[tls]\n[gateway]\n[tls]\n", "[tls] section: stands a second time in line 3"),
        ("password = hunter2\n", "[DIR/gw.ini] line 1: stands before the first [section]"),
        ("[upstream:main]\npassword hunter2\n", "[DIR/gw.ini] line 2: is neither [section] nor key = value"),
        ("[upstream:main]\npassword: hunter2\n", "[DIR/gw.ini] line 2: is neither [section] nor key = value"),
        ("[upstream:main] ; hunter2\n", "[DIR/gw.ini] line 1: stands before the first [section]"),
    ],
)
def test_a_broken_ini_is_told_by_line_but_never_quoted(read: Reader, ini: str, problem: str) -> None:
    _, problems = read(ini)
    assert problems == [problem]


def test_an_ini_that_cannot_be_read(folder: Path) -> None:
    for name, content in (("missing.ini", None), ("binary.ini", b"[tls]\nkey = \xff\n")):
        if content is not None:
            (folder / name).write_bytes(content)
        problems = Problems()
        config = load(folder / name, {}, folder, problems)
        assert [(problem.section, problem.key) for problem in problems.found] == [(str(folder / name), "file")]
        assert config.postgres == ()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"hunter2\n\n", "must be one line"),
        (b"hunter2\nhunter3", "must be one line"),
        (b"hunter2\xff", "is not UTF-8"),
    ],
)
def test_a_secret_file_holds_one_line_and_is_never_quoted(
    read: Reader, folder: Path, content: bytes, reason: str
) -> None:
    (folder / "secret").write_bytes(content)
    _, problems = read(COMPLETE.replace("db.example", "db.example\npassword_file = secret"))
    assert len(problems) == 1
    assert problems[0].endswith(reason)
    assert "hunter" not in problems[0]


def test_a_secret_file_loses_its_line_feed_and_nothing_else(read: Reader, folder: Path) -> None:
    (folder / "secret").write_bytes(" hünter # 2 \n".encode())
    config, problems = read(COMPLETE.replace("db.example", "db.example\npassword_file = secret"))
    assert problems == []
    assert config.upstreams["main"].logins == (Login(None, " hünter # 2 "),)


def test_no_secret_in_any_repr(read: Reader) -> None:
    ini = COMPLETE.replace("db.example", "db.example\npassword = hunter2") + "[login:a]\npassword = hunter3\n"
    config, problems = read(ini, {"SECUREGW_LOGIN_A_PASSWORD": "hunter4"})
    assert problems == []
    assert config.upstreams["main"].login("a").password == "hunter4"
    assert "hunter" not in repr(config)


# --- the environment --------------------------------------------------------------------------------------------------


def test_the_environment_wins_over_the_ini(read: Reader) -> None:
    config, problems = read(
        COMPLETE + "[limits]\nmax_connections = 5\n[login:the-app]\npassword = a\n",
        {
            "SECUREGW_LIMITS_MAX_CONNECTIONS": "7",
            "SECUREGW_LOGIN_THE_APP_PASSWORD": " b ",
            "SECUREGW_GATEWAY_SHUTDOWN_GRACE": "1",
            "SECUREGW_POSTGRES_MAIN_RULES": "allow a all all\n# no\nallow b all all",
        },
    )
    assert problems == []
    assert config.limits.max_connections == 7
    assert config.gateway.shutdown_grace == 1
    assert config.upstreams["main"].login("the-app").password == " b "
    assert [rule.text for rule in config.postgres[0].rules] == ["allow a all all", "allow b all all"]


def test_an_empty_variable_empties_the_rules_and_so_denies(read: Reader) -> None:
    config, _ = read(COMPLETE, {"SECUREGW_POSTGRES_MAIN_RULES": ""})
    assert config.postgres[0].rules == ()


def test_the_environment_alone_is_enough(read: Reader) -> None:
    config, problems = read(
        "",
        {
            "SECUREGW_UPSTREAM_MAIN_HOSTS": "db.example",
            "SECUREGW_JWT_MAIN_PUBLIC_KEYS": "issuer.pub",
            "SECUREGW_TLS_CERTIFICATE": "a.crt",
            "SECUREGW_TLS_KEY": "a.key",
            "SECUREGW_POSTGRES_MAIN_LISTEN": "*:5432",
            "SECUREGW_POSTGRES_MAIN_RULES": "allow all all all",
        },
    )
    assert problems == []
    assert config.warnings == ()
    assert config.postgres[0].listen == (Address("*", 5432),)
    assert list(config.upstreams) == ["main"]


def test_a_bad_variable_is_named_and_not_quoted(read: Reader) -> None:
    _, problems = read(COMPLETE, {"SECUREGW_UPSTREAM_MAIN_PASSWORD": "hunter2\n"})
    assert problems == ["[upstream:main] password (SECUREGW_UPSTREAM_MAIN_PASSWORD): must be one line"]


def test_foreign_variables_are_only_warned_of(read: Reader) -> None:
    config, problems = read(
        COMPLETE,
        {
            "SECUREGW_PORT": "tcp://192.0.2.1:5432",
            "SECUREGW_UPSTREAM_MAIN_PASWORD": "hunter2",
            "SECUREGWX": "",
            "PATH": "",
        },
    )
    assert problems == []
    assert len(config.warnings) == 2
    assert config.warnings[0].startswith("SECUREGW_PORT is ignored")
    assert config.warnings[1] == (
        "SECUREGW_UPSTREAM_MAIN_PASWORD is ignored: it stands for no key "
        "(the nearest is SECUREGW_UPSTREAM_MAIN_PASSWORD)"
    )


def test_an_ambiguous_variable_is_not_guessed(read: Reader) -> None:
    config, problems = read(COMPLETE + "[login:a-b]\n[login:a_b]\n", {"SECUREGW_LOGIN_A_B_PASSWORD": "hunter2"})
    assert problems == []
    assert config.warnings == (
        "SECUREGW_LOGIN_A_B_PASSWORD is ignored: it could stand for [login:a-b] password and [login:a_b] password",
    )
    assert {login.password for login in config.upstreams["main"].logins} == {None}


@pytest.mark.parametrize(
    "forgotten",
    [
        "[postgres:main]\nrules = allow all all all\n",
        "[jwt:main]\npublic_keys = jwt.pub\n[postgres:main]\n",
        "[jwt:main]\njwks = https://issuer.example/keys\n[postgres:main]\n",
    ],
)
def test_who_forgets_the_upstream_gets_no_demonstration(tmp_path: Path, forgotten: str) -> None:
    """In place of the gateway that he meant."""
    (tmp_path / "gw.ini").write_text(forgotten)
    problems = Problems()
    load(tmp_path / "gw.ini", {}, tmp_path, problems)
    assert ("postgres:main", "upstream", "no section [upstream:main]") in [
        (one.section, one.key, one.reason) for one in problems.found
    ]
