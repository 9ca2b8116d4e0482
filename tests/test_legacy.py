"""The environment of jwt-postgresql-proxy, unchanged and alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.config import load
from gateway.errors import Problems
from gateway.identity import Identity
from gateway.policy import Allow, Deny, Policy, Request
from gateway.settings import Config
from gateway.tokens import load_public_key
from gateway.upstream import Address, ClientTLS, Login, ServerTLS, TLSMode


def public_pem() -> str:
    key = Ed25519PrivateKey.generate().public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


FIRST, SECOND, THIRD = public_pem(), public_pem(), public_pem()

ENVIRONMENT = {
    "PUBLIC_KEYS__2": SECOND,
    "PUBLIC_KEYS__10": THIRD,
    "PUBLIC_KEYS__1": FIRST,
    "UPSTREAM__HOST": "db.example",
    "UPSTREAM__PORT": "5433",
    "UPSTREAM__PASSWORD": "hunter2",
    "DOWNSTREAM__IP": "127.0.0.1",
    "DOWNSTREAM__PORT": "7777",
    "DOWNSTREAM__CERTFILE": "/etc/server.crt",
    "DOWNSTREAM__KEYFILE": "server.key",
}


def read(**changed: str) -> tuple[Config, list[str]]:
    problems = Problems()
    config = load(None, ENVIRONMENT | changed, Path.cwd(), problems)
    return config, [str(problem) for problem in problems.found]


def without(*names: str) -> list[str]:
    problems = Problems()
    load(None, {name: value for name, value in ENVIRONMENT.items() if name not in names}, Path.cwd(), problems)
    return [str(problem) for problem in problems.found]


def test_it_behaves_as_that_proxy() -> None:
    config, problems = read()
    assert problems == []
    assert config.path is None
    assert config.quickstart_directory is None
    upstream = config.upstreams["legacy"]
    assert upstream.addresses == (Address("db.example", 5433),)
    assert upstream.tls == ClientTLS(TLSMode.REQUIRE)
    assert upstream.login("anyone") == Login(password="hunter2")
    assert upstream.password_methods == {"scram-sha-256-plus", "scram-sha-256", "md5", "none"}
    (listener,) = config.postgres
    assert listener.listen == (Address("127.0.0.1", 7777),)
    assert listener.tls == ServerTLS(Path("/etc/server.crt"), Path.cwd() / "server.key")
    assert (listener.upstream, listener.jwt) == ("legacy", "legacy")
    assert listener.role_claim is None


def test_paths_are_meant_from_where_it_was_started(tmp_path: Path) -> None:
    problems = Problems()
    config = load(None, ENVIRONMENT | {"SECUREGW_AUDIT_FILE": "audit.jsonl"}, tmp_path, problems)
    assert problems.found == []
    assert config.postgres[0].tls == ServerTLS(Path("/etc/server.crt"), tmp_path / "server.key")
    assert config.audit.file == tmp_path / "audit.jsonl"


def test_keys_are_sorted_by_their_number() -> None:
    config, _ = read()
    assert list(config.jwt["legacy"].keys) == [load_public_key(pem.encode()) for pem in (FIRST, SECOND, THIRD)]


def test_a_key_may_have_its_line_feeds_written_out() -> None:
    config, problems = read(PUBLIC_KEYS__1=FIRST.replace("\n", "\\n"))
    assert problems == []
    assert config.jwt["legacy"].keys[0] == load_public_key(FIRST.encode())


def test_everybody_may_open_everything_but_replication() -> None:
    config, _ = read()
    policy = Policy(config.postgres[0].rules)
    identity = Identity("jwt", "anyone", expires=2e9)
    verdict = policy.decide(identity, Request("legacy", "any", "anyone", "anyone", "203.0.113.9"))
    assert isinstance(verdict, Allow)
    assert (verdict.role, verdict.superuser) == ("anyone", True)
    asked = Request("legacy", "any", "anyone", "anyone", "203.0.113.9", replication=True)
    assert isinstance(policy.decide(identity, asked), Deny)


def test_what_it_leaves_open_is_warned_of() -> None:
    config, _ = read()
    assert len(config.warnings) == 2
    assert "does not verify the upstream's certificate" in config.warnings[0]
    assert "superusers" in config.warnings[1]


def test_an_empty_ip_is_every_ipv4_interface_as_it_was() -> None:
    config, problems = read(DOWNSTREAM__IP="")
    assert problems == []
    assert config.postgres[0].listen == (Address("0.0.0.0", 7777),)


def test_ipv6_addresses() -> None:
    config, problems = read(DOWNSTREAM__IP="::1", UPSTREAM__HOST="2001:db8::1")
    assert problems == []
    assert config.postgres[0].listen == (Address("::1", 7777),)
    assert config.upstreams["legacy"].addresses == (Address("2001:db8::1", 5433),)


@pytest.mark.parametrize("name", [name for name in ENVIRONMENT if not name.startswith("PUBLIC_KEYS")])
def test_every_variable_is_required(name: str) -> None:
    assert without(name) == [f"[environment] {name}: is required"]


def test_a_key_is_required() -> None:
    keys = [name for name in ENVIRONMENT if name.startswith("PUBLIC_KEYS")]
    assert without(*keys) == ["[environment] PUBLIC_KEYS__0: is required"]


def test_all_that_is_missing_is_told_at_once() -> None:
    assert len(without(*(name for name in ENVIRONMENT if name != "UPSTREAM__HOST"))) == 7


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("UPSTREAM__PASSWORD", "", "UPSTREAM__PASSWORD: is required"),
        ("UPSTREAM__PORT", "x", "UPSTREAM__PORT: x is not a port"),
        ("DOWNSTREAM__PORT", "0", "DOWNSTREAM__PORT: 0 is not a port"),
        ("DOWNSTREAM__IP", "localhost", "DOWNSTREAM__IP: localhost is a name"),
        ("UPSTREAM__HOST", "a b", "UPSTREAM__HOST: a b:5433 is not host:port"),
        ("PUBLIC_KEYS__1", "", "PUBLIC_KEYS__1: expected one PEM block"),
    ],
)
def test_a_bad_value_is_told(name: str, value: str, problem: str) -> None:
    _, problems = read(**{name: value})
    assert len(problems) == 1
    assert problems[0].startswith(f"[environment] {problem}")


def test_the_password_is_in_no_repr() -> None:
    config, _ = read()
    assert "hunter2" not in repr(config)


def test_limits_can_still_be_set_and_nothing_else() -> None:
    config, problems = read(SECUREGW_LIMITS_MAX_CONNECTIONS="7", SECUREGW_POSTGRES_MAIN_RULES="deny all all all")
    assert problems == []
    assert config.limits.max_connections == 7
    assert [warning for warning in config.warnings if warning.startswith("SECUREGW_POSTGRES_MAIN_RULES is ignored")]


def test_an_ini_makes_these_variables_void(tmp_path: Path) -> None:
    (tmp_path / "gw.ini").write_text("[postgres:main]\n")
    problems = Problems()
    config = load(tmp_path / "gw.ini", ENVIRONMENT, tmp_path, problems)
    assert problems.found == []
    assert config.upstreams == {}
    assert config.warnings == ("the environment of jwt-postgresql-proxy is ignored, because -c is given",)


@pytest.mark.parametrize("ini", ["conf/gw.ini", "gw.ini"])
def test_with_neither_it_says_how_to_start(tmp_path: Path, ini: str) -> None:
    (tmp_path / ini).parent.mkdir(exist_ok=True)
    (tmp_path / ini).touch()
    problems = Problems()
    config = load(None, {"PATH": "/bin", "UPSTREAM__NAME": "x"}, tmp_path, problems)
    assert [str(problem) for problem in problems.found] == [
        f"[environment] -c: no configuration: start with twistd securegw -c {ini}"
    ]
    assert config.postgres == ()
