"""Tunnels and the health listener: what each mode asks for, and that nothing insecure is taken for granted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import ip_network
from pathlib import Path

import pytest

from gateway.certs import Certificates
from gateway.config import load
from gateway.errors import Problems
from gateway.identity import Identity
from gateway.settings import Config
from gateway.upstream import Address, ClientTLS, ServerTLS, TLSMode

SERVER = """
[tunnel:things]
mode = server
listen = *:8183
upstream = 127.0.0.1:8181
certificate = things.crt
key = things.key
client_ca = adapters-ca.crt
rules = allow http-adapter all
"""
CLIENT = """
[tunnel:adapter]
mode = client
listen = 127.0.0.1:7183
upstream = things.example:8183
"""

Reader = Callable[..., tuple[Config, list[str]]]


@pytest.fixture
def read(tmp_path: Path) -> Reader:
    """The configuration of an INI's text, and the problems that it has."""

    def read(ini: str, environ: Mapping[str, str] | None = None) -> tuple[Config, list[str]]:
        path = tmp_path / "gw.ini"
        path.write_text(ini, "utf-8")
        problems = Problems()
        config = load(path, environ or {}, tmp_path, problems)
        return config, [str(problem).replace(str(tmp_path), "DIR") for problem in problems.found]

    return read


def named(subject: str) -> Identity:
    return Identity("certificate", subject, expires=2e9)


# --- mode = server ----------------------------------------------------------------------------------------------------


def test_the_least_server_and_its_defaults(read: Reader, tmp_path: Path) -> None:
    config, problems = read(SERVER)
    assert problems == []
    assert config.warnings == ()
    assert config.configured
    (tunnel,) = config.tunnels
    assert (tunnel.name, tunnel.listen) == ("things", (Address("*", 8183),))
    assert tunnel.tls == ServerTLS(
        tmp_path / "things.crt", tmp_path / "things.key", (), "required", tmp_path / "adapters-ca.crt"
    )
    assert (tunnel.upstream.name, tunnel.upstream.addresses) == ("tunnel:things", (Address("127.0.0.1", 8181),))
    assert (tunnel.upstream.tls, tunnel.upstream.connect_timeout) == (ClientTLS(TLSMode.DISABLE), 10)
    assert (tunnel.alpn, tunnel.cn, tunnel.identity) == ((b"h2",), "id", "cn")
    assert (tunnel.half_close_timeout, tunnel.proxy_protocol) == (600, ())
    verdict = tunnel.admission.decide(named("http-adapter"), "192.0.2.1")
    assert verdict == (True, "[tunnel:things] rules, line 1: allow http-adapter all")
    assert not tunnel.admission.decide(named("other"), "192.0.2.1").allowed
    assert not tunnel.admission.decide(None, "192.0.2.1").allowed


def test_everything_a_server_can_say_otherwise(read: Reader) -> None:
    config, problems = read(
        "[tls]\ncertificate = a\nkey = b\nclient_ca = ca\nclient_certificate = optional\n[tunnel:x]\nmode = server\n"
        "listen = unix:/run/x, [::1]:1\nupstream = [::1]:2, localhost:3, unix:/run/y\nalpn = h2, http/1.1\n"
        "connect_timeout = 1\nhalf_close_timeout = 2\nproxy_protocol = 203.0.113.0/24\ncn = id\nidentity = uri\n"
        "rules = allow spiffe://example.org/* all\nminimum_version = 1.3\n"
    )
    assert problems == []
    assert config.warnings == ()
    (tunnel,) = config.tunnels
    assert tunnel.listen == (Address("/run/x", 0), Address("::1", 1))
    assert tunnel.upstream.addresses == (Address("::1", 2), Address("localhost", 3), Address("/run/y", 0))
    assert tunnel.upstream.tls == ClientTLS(TLSMode.DISABLE)
    assert tunnel.alpn == (b"h2", b"http/1.1")
    assert (tunnel.upstream.connect_timeout, tunnel.half_close_timeout) == (1, 2)
    assert tunnel.proxy_protocol == (ip_network("203.0.113.0/24"),)
    assert (tunnel.cn, tunnel.identity) == ("id", "uri")
    assert tunnel.tls is not None
    assert tunnel.tls.minimum_version == "1.3"
    assert tunnel.admission.decide(named("spiffe://example.org/a"), "192.0.2.1").allowed


@pytest.mark.parametrize("shared", ["", "client_certificate = none\n", "client_certificate = optional\n"])
def test_a_server_asks_for_certificates_whatever_tls_says(read: Reader, shared: str) -> None:
    config, problems = read(f"[tls]\n{shared}{SERVER}")
    assert problems == []
    assert config.tunnels[0].tls is not None
    assert config.tunnels[0].tls.client_certificate == "required"
    _, problems = read(f"[tls]\n{shared}" + SERVER.replace("client_ca = adapters-ca.crt\n", ""))
    assert problems == ["[tunnel:things] client_ca: is required with client_certificate = required"]


@pytest.mark.parametrize("asked", ["none", "optional"])
def test_unless_its_own_section_says_otherwise_and_that_is_told(read: Reader, asked: str) -> None:
    ini = SERVER if asked == "optional" else SERVER.replace("client_ca = adapters-ca.crt\n", "")
    config, problems = read(f"{ini}client_certificate = {asked}\n")
    assert problems == []
    assert config.tunnels[0].tls is not None
    assert config.tunnels[0].tls.client_certificate == asked
    assert config.warnings == (f"[tunnel:things] client_certificate = {asked}: rules with all let in who shows none",)
    # Also then only whom a rule lets in.
    assert not config.tunnels[0].admission.decide(None, "192.0.2.1").allowed


def test_no_rule_is_nobody_and_told(read: Reader) -> None:
    config, problems = read(SERVER.replace("rules = allow http-adapter all\n", ""))
    assert problems == []
    assert config.warnings == ("[tunnel:things] rules is empty, so nobody is let in",)
    assert not config.tunnels[0].admission.decide(named("http-adapter"), "192.0.2.1").allowed


def test_what_leaves_it_in_clear_text_is_told(read: Reader) -> None:
    config, problems = read(SERVER.replace("127.0.0.1:8181", "things.internal:8181"))
    assert problems == []
    assert config.warnings == (
        "[tunnel:things] upstream: what comes out of the tunnel crosses the network in clear text",
    )


def test_alpn_can_be_nothing(read: Reader) -> None:
    config, problems = read(SERVER + "alpn = none\n")
    assert problems == []
    assert config.tunnels[0].alpn == ()


# --- mode = client ----------------------------------------------------------------------------------------------------


def test_the_least_client_verifies_with_the_systems_authorities(read: Reader) -> None:
    config, problems = read("[tls]\ncertificate = a\nkey = b\n" + CLIENT)
    assert problems == []
    assert config.warnings == ()
    assert config.configured
    (tunnel,) = config.tunnels
    assert (tunnel.listen, tunnel.tls) == ((Address("127.0.0.1", 7183),), None)
    assert tunnel.upstream.addresses == (Address("things.example", 8183),)
    # The gateway's own certificate for its listeners is shown to nobody here.
    assert tunnel.upstream.tls == ClientTLS(TLSMode.VERIFY_FULL, alpn=(b"h2",))


def test_everything_a_client_can_say_otherwise(read: Reader, tmp_path: Path) -> None:
    config, problems = read(
        CLIENT.replace("127.0.0.1:7183", "127.1.2.3:1, [::1]:2, unix:/run/x")
        + "tls = require\nroot_certificate = ca.crt\ncrl = ca.crl\ncertificate = a.crt\nkey = a.key\nalpn = none\n"
    )
    assert problems == []
    assert config.warnings == ()
    (tunnel,) = config.tunnels
    assert tunnel.listen == (Address("127.1.2.3", 1), Address("::1", 2), Address("/run/x", 0))
    assert tunnel.upstream.tls == ClientTLS(
        TLSMode.REQUIRE, tmp_path / "ca.crt", tmp_path / "a.crt", tmp_path / "a.key", tmp_path / "ca.crl"
    )


def test_who_is_local_may_use_a_client(read: Reader) -> None:
    config, problems = read(CLIENT)
    assert problems == []
    decide = config.tunnels[0].admission.decide
    assert [decide(None, address).allowed for address in ("127.0.0.1", "::1", "", "192.0.2.1")] == [
        True,
        True,
        True,
        False,
    ]
    assert decide(None, "").rule.startswith("[tunnel:adapter] mode = client: ")


@pytest.mark.parametrize(
    ("keys", "meaning"),
    [
        ("tls = disable\n", "is disable, so nothing is encrypted"),
        ("tls = require\n", "is require without a root_certificate, so whoever answers is taken for the upstream"),
    ],
)
def test_nothing_is_insecure_that_does_not_say_so(read: Reader, keys: str, meaning: str) -> None:
    _, problems = read(CLIENT + keys)
    assert problems == [f"[tunnel:adapter] tls: {meaning}; if that is meant, say insecure = yes"]
    assert read(f"{CLIENT}{keys}insecure = no\n")[1] == problems
    config, problems = read(f"{CLIENT}{keys}insecure = yes\n")
    assert problems == []
    assert config.warnings == (f"[tunnel:adapter] tls {meaning}",)


def test_insecure_alone_makes_nothing_insecure(read: Reader) -> None:
    config, problems = read(CLIENT + "insecure = yes\n")
    assert problems == []
    assert config.tunnels[0].upstream.tls.mode is TLSMode.VERIFY_FULL
    assert config.warnings == ("[tunnel:adapter] insecure = yes changes nothing: tls = verify-full verifies",)


@pytest.mark.parametrize("key", ["root_certificate", "crl", "certificate", "key"])
def test_a_file_that_cannot_be_read_stops_the_start_at_the_users_word_for_it(
    read: Reader, tmp_path: Path, key: str
) -> None:
    own = {"certificate": "key", "key": "certificate"}.get(key)
    config, problems = read(f"{CLIENT}{key} = missing\n" + (f"{own} = missing\n" if own else ""))
    assert problems == []
    found = Problems()
    Certificates.build({}, {"tunnel:adapter": config.tunnels[0].upstream}, found)
    assert f"[tunnel:adapter] {key}: {tmp_path}/missing: No such file or directory" in map(str, found.found)


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ini", "problem"),
    [
        ("[tunnel:x]\n", "[tunnel:x] mode: is required"),
        ("[tunnel:x]\n", "[tunnel:x] listen: is required"),
        ("[tunnel:x]\n", "[tunnel:x] upstream: is required"),
        (SERVER.replace("= server", "= serve"), "[tunnel:things] mode: serve is not one of server, client"),
        (SERVER.replace("certificate = things.crt\n", ""), "[tunnel:things] certificate: is required with key"),
        (SERVER.replace("*:8183", "things:8183"), "[tunnel:things] listen: things is a name"),
        (SERVER.replace(":8181", ""), "[tunnel:things] upstream: 127.0.0.1 is not host:port, [v6]:port or unix:"),
        (SERVER.replace("127.0.0.1:8181", "/run/x:1"), "[tunnel:things] upstream: /run/x:1 is not host:port"),
        (SERVER + "alpn =\n", "[tunnel:things] alpn: is empty"),
        (SERVER + "alpn = h2, none\n", "[tunnel:things] alpn: none is not the name of a protocol"),
        (SERVER + f"alpn = {'h' * 256}\n", "[tunnel:things] alpn: hhh"),
        (SERVER + "half_close_timeout = 0\n", "[tunnel:things] half_close_timeout: must be more than 0 seconds"),
        (SERVER + "cn = key\nidentity = uri\n", "[tunnel:things] identity: is uri, but with cn = key the key is in"),
        (SERVER + "root_certificate = a\n", "[tunnel:things] root_certificate: is for mode = client only"),
        (SERVER + "crl = a\n", "[tunnel:things] crl: is for mode = client only"),
        (SERVER + "tls = disable\n", "[tunnel:things] tls: is for mode = client only"),
        (SERVER + "insecure = no\n", "[tunnel:things] insecure: is for mode = client only"),
        (SERVER.replace(" all\n", " all method=GET\n"), "[tunnel:things] rules, line 1: method is for routes"),
        (SERVER.replace(" all\n", " all ca=none\n"), "[tunnel:things] rules, line 1: DIR/none: No such file"),
        (CLIENT + "rules = allow all all\n", "[tunnel:adapter] rules: is for mode = server only"),
        (CLIENT + "client_certificate = a.crt\n", "[tunnel:adapter] client_certificate: is for mode = server only"),
        (
            CLIENT + "client_certificate = a.crt\n",
            "[tunnel:adapter] client_certificate: a.crt is not one of none, optional",
        ),
        (CLIENT + "client_ca = a.crt\n", "[tunnel:adapter] client_ca: is for mode = server only"),
        (CLIENT + "sni = a b\n", "[tunnel:adapter] sni: is for mode = server only"),
        (CLIENT + "cn = id\n", "[tunnel:adapter] cn: is for mode = server only"),
        (CLIENT + "proxy_protocol = 192.0.2.1\n", "[tunnel:adapter] proxy_protocol: is for mode = server only"),
        (CLIENT + "certificate = a\n", "[tunnel:adapter] key: is required with certificate"),
        (CLIENT + "key = a\n", "[tunnel:adapter] certificate: is required with key"),
        (CLIENT.replace("things.example:8183", "unix:/x"), "[tunnel:adapter] upstream: no certificate is for a Unix"),
        (CLIENT + "tls = disable\ninsecure = yes\ncrl = a\n", "[tunnel:adapter] crl: is of no use: tls = disable"),
        (CLIENT + "tls = disable\ninsecure = yes\nkey = a\n", "[tunnel:adapter] key: is of no use: tls = disable"),
        (
            SERVER + CLIENT.replace("127.0.0.1:7183", "127.0.0.1:8183"),
            "[tunnel:adapter] listen: 127.0.0.1:8183 is taken",
        ),
    ],
)
def test_each_mistake_is_told_with_its_place(read: Reader, ini: str, problem: str) -> None:
    _, problems = read(ini)
    assert any(told.startswith(problem) for told in problems), problems


@pytest.mark.parametrize(
    "elsewhere", ["*:1", "0.0.0.0:1", "[::]:1", "192.0.2.1:1", "[2001:db8::1]:1", "[::ffff:127.0.0.1]:1"]
)
def test_what_is_plain_is_for_this_machine_only(read: Reader, elsewhere: str) -> None:
    _, problems = read(CLIENT.replace("127.0.0.1:7183", f"127.0.0.1:7183, {elsewhere}"))
    assert problems == [
        "[tunnel:adapter] listen: is plain with mode = client, so only 127.0.0.1:port, [::1]:port or unix:/path"
    ]
    _, problems = read(f"{CLIENT}[health]\nlisten = 127.0.0.1:9464, {elsewhere}\n")
    assert len(problems) == 1
    assert problems[0].startswith(f"[health] listen: {elsewhere} can be reached from elsewhere; use 127.0.0.1:port")


# --- health -----------------------------------------------------------------------------------------------------------


def test_health_is_told_nowhere_unless_asked_for(read: Reader) -> None:
    assert read(CLIENT)[0].health == ()
    assert read(f"{CLIENT}[health]\n")[0].health == ()
    config, problems = read(f"{CLIENT}[health]\nlisten = 127.0.0.1:9464, [::1]:9464\n    unix:/run/health.sock\n")
    assert problems == []
    assert config.health == (Address("127.0.0.1", 9464), Address("::1", 9464), Address("/run/health.sock", 0))


def test_health_alone_is_nothing_to_run(read: Reader) -> None:
    _, problems = read("[health]\nlisten = 127.0.0.1:9464\n")
    assert problems == [
        (
            "[postgres:main] section: is missing, and so is any [https:NAME], [mqtt:NAME] or [tunnel:NAME]: "
            "nothing would listen"
        )
    ]
