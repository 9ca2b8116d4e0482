"""What libpq is told is what is configured, and nothing of what lies around."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from psycopg2.extensions import libpq_version, make_dsn

from gateway.registry.conninfo import arguments, tls_words
from gateway.registry.postgres_link import resolve
from gateway.registry.settings import PostgresDatabase
from gateway.upstream import TLSMode

CA, CERTIFICATE, KEY = Path("ca.crt"), Path("client.crt"), Path("client.key")


def database(**more: Any) -> PostgresDatabase:
    values: dict[str, Any] = {"hosts": ("db",), "dbname": "things", "user": "gateway", "root_certificate": CA}
    return PostgresDatabase(**(values | more))


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"hosts": ()}, "no host"),
        ({"hosts": ("a,b",)}, "comma"),
        ({"root_certificate": None}, "verify-full needs"),
        ({"root_certificate": None, "tls": TLSMode.VERIFY_CA}, "verify-ca needs"),
        ({"certificate": CERTIFICATE}, "come together"),
        ({"key": KEY}, "come together"),
    ],
)
def test_what_does_not_fit(more: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        database(**more)


def test_no_password_where_it_can_be_read() -> None:
    one = database(password="the secret")
    assert "secret" not in repr(one) + str(one)


@pytest.mark.parametrize(
    ("more", "tls"),
    [
        ({"tls": TLSMode.DISABLE, "root_certificate": None}, {"sslmode": "disable"}),
        ({"tls": TLSMode.REQUIRE, "root_certificate": None}, {"sslmode": "require"}),
        ({"tls": TLSMode.REQUIRE}, {"sslmode": "require", "sslrootcert": "ca.crt"}),
        ({"tls": TLSMode.VERIFY_CA}, {"sslmode": "verify-ca", "sslrootcert": "ca.crt"}),
        (
            {"certificate": CERTIFICATE, "key": KEY},
            {
                "sslmode": "verify-full",
                "sslcertmode": "allow",
                "sslrootcert": "ca.crt",
                "sslcert": "client.crt",
                "sslkey": "client.key",
            },
        ),
    ],
)
def test_tls(more: dict[str, Any], tls: dict[str, str]) -> None:
    """Nothing is left to the files in ~/.postgresql."""
    found = arguments(database(**more), "test", {})
    nothing = dict.fromkeys(("sslrootcert", "sslcrl", "sslcert", "sslkey"), "/nonexistent") | {"sslcertmode": "disable"}
    assert {name: value for name, value in found.items() if name.startswith("ssl")} == nothing | tls


def test_a_list_of_revoked_certificates() -> None:
    assert tls_words(TLSMode.VERIFY_CA, CA, Path("ca.crl"), None, None)["sslcrl"] == "ca.crl"


@pytest.mark.parametrize("mode", TLSMode)
@pytest.mark.parametrize("root", [CA, None])
def test_no_password_in_clear_text_to_whom_nobody_has_verified(mode: TLSMode, root: Path | None) -> None:
    verified = mode is not TLSMode.DISABLE and root is not None
    if verified or mode in (TLSMode.DISABLE, TLSMode.REQUIRE):
        found = arguments(database(tls=mode, root_certificate=root), "test", {})
        assert found.get("require_auth") == (None if verified else "!password")


def test_every_word_is_one_that_libpq_knows() -> None:
    found = arguments(database(password="pass word'"), "test", {"default_transaction_isolation": "repeatable read"})
    assert make_dsn(**found)
    assert r"-c default_transaction_isolation=repeatable\ read" in found["options"]
    assert (found["host"], found["password"]) == ("db", "pass word'")
    assert libpq_version() >= 160_000, "require_auth and sslcertmode are of libpq 16"


def test_addresses() -> None:
    hosts = ("127.0.0.1", "/run/postgresql", "no-such-host.invalid", "::1")
    found = resolve(database(hosts=hosts))
    assert found == {"host": "127.0.0.1,/run/postgresql,::1", "hostaddr": "127.0.0.1,,::1"}
    assert "127.0.0.1" in resolve(database(hosts=("localhost",)))["hostaddr"].split(",")
    with pytest.raises(OSError, match=r"[Nn]ame|resol|known"):
        resolve(database(hosts=("no-such-host.invalid",)))
