"""An upstream as libpq is told it: the same hosts and the same TLS, and nothing from the environment."""

from __future__ import annotations

from pathlib import Path

import psycopg2
import pytest
from psycopg2.extensions import make_dsn, parse_dsn

from gateway.share.conninfo import arguments
from gateway.share.share import ShareError
from gateway.upstream import Address, ClientTLS, Login, TLSMode, Upstream

CA = Path("/etc/ca.crt")
PLAIN = ClientTLS(TLSMode.DISABLE)


SCRAM = frozenset({"scram-sha-256", "scram-sha-256-plus"})


def told(
    tls: ClientTLS, *addresses: Address, login: Login | None = None, password_methods: frozenset[str] = SCRAM
) -> dict[str, str]:
    upstream = Upstream("main", addresses or (Address("db", 5432),), tls, password_methods=password_methods)
    wanted = arguments(upstream, login or Login("dba", "its password"), "dba", "shop")
    found: dict[str, str] = parse_dsn(make_dsn(**wanted))
    return found


def test_hosts_are_tried_in_order_each_at_its_port() -> None:
    found = told(PLAIN, Address("db1", 5432), Address("2001:db8::1", 5433), Address("/run/pg/.s.PGSQL.6000", 0))
    assert (found["host"], found["port"]) == ("db1,2001:db8::1,/run/pg", "5432,5433,6000")
    assert (found["target_session_attrs"], found["hostaddr"]) == ("primary", "")


@pytest.mark.parametrize("host", ["/run/pg/socket", "/run/p,g/.s.PGSQL.5432", "/run/pg/.s.PGSQL.x"])
def test_a_socket_that_libpq_cannot_be_told_is_refused(host: str) -> None:
    with pytest.raises(ShareError, match="libpq knows"):
        told(PLAIN, Address(host, 0))


@pytest.mark.parametrize("mode", list(TLSMode))
def test_tls_is_as_configured(mode: TLSMode) -> None:
    found = told(ClientTLS(mode, CA, crl=Path("/etc/crl.pem")))
    assert found["sslmode"] == mode.value
    if mode is not TLSMode.DISABLE:
        assert (found["sslrootcert"], found["sslcrl"], found["sslcertmode"]) == (str(CA), "/etc/crl.pem", "disable")


def test_whoever_answers_is_believed_only_where_that_is_said() -> None:
    assert told(ClientTLS(TLSMode.REQUIRE))["sslrootcert"] == "/nonexistent"
    assert Path(told(ClientTLS(TLSMode.VERIFY_FULL))["sslrootcert"]).is_file()


def test_a_role_has_its_own_certificate_or_the_upstreams() -> None:
    tls = ClientTLS(root_certificate=CA, certificate=Path("/etc/a.crt"), key=Path("/etc/a.key"))
    assert told(tls)["sslcert"] == "/etc/a.crt"
    own = told(tls, login=Login("dba", None, Path("/etc/b.crt"), Path("/etc/b.key")))
    assert (own["sslcert"], own["sslkey"]) == ("/etc/b.crt", "/etc/b.key")


def test_the_password_is_told_in_no_weaker_way_than_the_gateways() -> None:
    assert told(PLAIN)["require_auth"] == "scram-sha-256"
    assert told(PLAIN, login=Login())["require_auth"] == "none,scram-sha-256"
    assert told(PLAIN, password_methods=frozenset({"md5", "scram-sha-256-plus"}))["require_auth"] == "md5"


def test_a_server_that_has_vanished_is_noticed() -> None:
    found = told(PLAIN)
    names = ("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout")
    assert [found[name] for name in names] == ["1", "5", "2", "3", "10000"]


def test_the_session_trusts_no_search_path() -> None:
    found = told(PLAIN)
    assert "-c search_path= " in found["options"]
    assert "-c standard_conforming_strings=on" in found["options"]
    assert found["passfile"] == "/nonexistent"
    assert psycopg2.extensions.libpq_version() >= 160_000, "require_auth and sslcertmode are of libpq 16"
