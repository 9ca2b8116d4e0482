"""HTTPS listeners and their routes: what is read, and that every mistake is told with its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import sha256
from ipaddress import ip_network
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.config import load
from gateway.errors import Problems
from gateway.identity import Identity
from gateway.settings import Config, HTTPSListener
from gateway.upstream import Address, ClientTLS, ServerTLS, TLSMode
from tests.pki import make_ca, write_pem

# The least that guards a web service.
TLS = "[tls]\ncertificate = server.crt\nkey = server.key\nclient_certificate = required\nclient_ca = ca.crt\n"
HTTPS = "[https:main]\n"
ROUTE = "[route:main]\nupstream = http://127.0.0.1:8080\nrules = allow all all\n"
COMPLETE = TLS + HTTPS + ROUTE

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


def thing(subject: str = "thing", *issuers: bytes) -> Identity:
    return Identity("certificate", subject, expires=2e9, issuers=issuers)


# --- what is read -----------------------------------------------------------------------------------------------------


def test_the_least_configuration_and_its_defaults(read: Reader, tmp_path: Path) -> None:
    config, problems = read(COMPLETE)
    assert problems == []
    assert config.warnings == ()
    assert config.configured
    assert (config.postgres, config.upstreams, config.tunnels, config.health) == ((), {}, (), ())
    tls = ServerTLS(tmp_path / "server.crt", tmp_path / "server.key", (), "required", tmp_path / "ca.crt")
    assert config.https == (HTTPSListener("main", (Address("127.0.0.1", 8443),), tls, (), 30, 30, 75),)
    (route,) = config.routes
    assert (route.name, route.listeners, route.hosts, route.path, route.base) == ("main", ("main",), (), "", None)
    assert route.upstream.name == "route:main"
    assert route.upstream.addresses == (Address("127.0.0.1", 8080),)
    assert route.upstream.tls == ClientTLS(TLSMode.DISABLE)
    assert (route.upstream.connect_timeout, route.response_timeout) == (10, 60)
    assert (route.client, route.cn, route.identity) == ("required", "key", "cn")
    assert route.schemes == {b"", b"thing", b"client", b"bearer"}
    assert (route.send_scheme, route.client_cert, route.keep_host) == (b"", True, True)
    assert (route.websocket, route.ws_key, route.ws_forward_key) == (False, True, False)
    assert route.admission.decide(thing(), "192.0.2.1", "GET").rule == "[route:main] rules, line 1: allow all all"


def test_everything_said_otherwise(read: Reader, tmp_path: Path) -> None:
    config, problems = read(
        TLS
        + """
[https:one]
listen = *:443, [::1]:8444
    unix:/run/securegw/https.sock
proxy_protocol = 203.0.113.0/24
head_timeout = 1
body_timeout = 2
keepalive_timeout = 3
client_certificate = optional
[https:two]
[route:api]
listener = one, two
    one
host = API.Example.org, *.things.example.org
    192.0.2.1, [2001:DB8:0::1]
path = /v1/things/
upstream = https://a.example/api/, https://[2001:db8::2]:8443/api
tls = verify-ca
root_certificate = up/ca.crt
crl = up.crl
client_certificate = gw.crt
client_key = gw.key
connect_timeout = 0.5
response_timeout = 5
host_header = upstream
client = optional
cn = id
identity = uri
rules =
    # no scripts
    deny anonymous all method=DELETE

    allow all all
client_cert = no
websocket = yes
ws_key = optional
ws_query = forward
[route:keys]
listener = one
upstream = unix:/run/things.sock
schemes = Thing, Apikey
send_scheme = Thing
client = none
rules = allow all all
"""
    )
    assert problems == []
    assert config.warnings == ()
    one, two = config.https
    assert one.listen == (Address("*", 443), Address("::1", 8444), Address("/run/securegw/https.sock", 0))
    assert one.proxy_protocol == (ip_network("203.0.113.0/24"),)
    assert (one.head_timeout, one.body_timeout, one.keepalive_timeout) == (1, 2, 3)
    assert (one.tls and one.tls.client_certificate, two.tls and two.tls.client_certificate) == ("optional", "required")
    api, keys = config.routes
    assert api.listeners == ("one", "two")
    assert api.hosts == ("api.example.org", "*.things.example.org", "192.0.2.1", "[2001:db8::1]")
    assert (api.path, api.base) == ("/v1/things", "/api")
    assert api.upstream.addresses == (Address("a.example", 443), Address("2001:db8::2", 8443))
    assert api.upstream.tls == ClientTLS(
        TLSMode.VERIFY_CA,
        tmp_path / "up/ca.crt",
        tmp_path / "gw.crt",
        tmp_path / "gw.key",
        tmp_path / "up.crl",
        alpn=(b"http/1.1",),
    )
    assert (api.upstream.connect_timeout, api.response_timeout, api.keep_host) == (0.5, 5, False)
    assert (api.client, api.cn, api.identity, api.client_cert) == ("optional", "id", "uri", False)
    assert (api.websocket, api.ws_key, api.ws_forward_key) == (True, False, True)
    assert not api.admission.decide(None, "192.0.2.1", "DELETE").allowed
    assert api.admission.decide(None, "192.0.2.1", "GET").rule == "[route:api] rules, line 2: allow all all"
    assert keys.upstream.addresses == (Address("/run/things.sock", 0),)
    assert keys.upstream.tls == ClientTLS(TLSMode.DISABLE)
    assert keys.schemes == {b"thing", b"apikey"}
    assert (keys.send_scheme, keys.base) == (b"Thing", None)


@pytest.mark.parametrize(
    ("urls", "addresses", "base"),
    [
        ("http://127.0.0.1", (Address("127.0.0.1", 80),), None),
        ("http://127.0.0.1/", (Address("127.0.0.1", 80),), ""),
        ("http://[::1]:81/v1", (Address("::1", 81),), "/v1"),
        ("http://localhost/a/b/, http://localhost:1/a/b", (Address("localhost", 80), Address("localhost", 1)), "/a/b"),
        ("unix:/run/a b.sock", (Address("/run/a b.sock", 0),), None),
    ],
)
def test_upstreams(read: Reader, urls: str, addresses: tuple[Address, ...], base: str | None) -> None:
    config, problems = read(COMPLETE.replace("http://127.0.0.1:8080", urls))
    assert problems == []
    assert config.warnings == ()
    assert (config.routes[0].upstream.addresses, config.routes[0].base) == (addresses, base)


def test_the_authorities_of_a_rule(read: Reader, tmp_path: Path) -> None:
    ours, theirs = make_ca("ours"), make_ca("theirs")
    (tmp_path / "cas").mkdir()
    write_pem(tmp_path / "cas" / "ours.crt", ours.certificate)
    config, problems = read(
        COMPLETE + "[route:ca]\npath = /ca\nrules = allow all all ca=cas/ours.crt\n" + "upstream = unix:/x\n"
    )
    assert problems == []
    decide = config.routes[1].admission.decide
    print_of = [sha256(ca.certificate.public_bytes(Encoding.DER)).digest() for ca in (ours, theirs)]
    assert [decide(thing("thing", one), "192.0.2.1", "GET").allowed for one in print_of] == [True, False]


# --- what is complete, and what the quickstart completes --------------------------------------------------------------


def test_without_an_upstream_it_is_for_the_quickstart(read: Reader) -> None:
    config, problems = read("[postgres:main]\n[https:main]\n[route:main]\nrules =\n")
    assert problems == []
    assert config.warnings == ()
    assert not config.configured
    assert config.https[0].tls is None
    assert config.routes[0].upstream.addresses == ()
    assert config.routes[0].upstream.tls == ClientTLS(TLSMode.DISABLE)
    assert config.routes[0].admission.rules == ()


def test_an_upstream_of_postgresql_asks_for_those_of_the_routes_and_the_other_way_round(read: Reader) -> None:
    _, problems = read(TLS + HTTPS + "[route:main]\n[upstream:main]\nhosts = db\n")
    assert problems == ["[route:main] upstream: is required (or remove this section and its listener)"]
    _, problems = read(COMPLETE + "[postgres:main]\nclient_certificate = none\n")
    assert problems == [
        "[postgres:main] upstream: no section [upstream:main]",
        "[postgres:main] jwt: no section [jwt:main]",
    ]


def test_no_rule_is_nobody_and_told(read: Reader) -> None:
    config, problems = read(COMPLETE.replace("rules = allow all all\n", ""))
    assert problems == []
    assert config.warnings == ("[route:main] rules is empty, so nobody is let in",)
    assert not config.routes[0].admission.decide(thing(), "192.0.2.1", "GET").allowed


def test_a_listener_without_a_route_is_told(read: Reader) -> None:
    config, problems = read(COMPLETE + "[https:idle]\nlisten = 127.0.0.1:8444\n")
    assert problems == []
    assert config.warnings == ("[https:idle] has no [route:...] to serve",)


@pytest.mark.parametrize("url", ["http://things.internal", "http://127.0.0.1, http://192.0.2.1"])
def test_clear_text_is_told(read: Reader, url: str) -> None:
    config, problems = read(COMPLETE.replace("http://127.0.0.1:8080", url))
    assert problems == []
    assert config.warnings == ("[route:main] upstream: requests, with their keys, cross the network in clear text",)


def test_an_upstream_that_nobody_verifies_is_told(read: Reader) -> None:
    config, problems = read(COMPLETE.replace("http://127.0.0.1:8080", "https://a\ntls = require"))
    assert problems == []
    assert config.warnings == ("[route:main] tls = require encrypts, but whoever answers is taken for the upstream",)
    config, problems = read(COMPLETE.replace("http://127.0.0.1:8080", "https://a\ntls = require\nroot_certificate = c"))
    assert (problems, config.warnings) == ([], ())


def test_the_environment_alone(read: Reader) -> None:
    config, problems = read(
        TLS,
        {
            "SECUREGW_HTTPS_MAIN_LISTEN": "*:443",
            "SECUREGW_ROUTE_MAIN_UPSTREAM": "http://127.0.0.1:1",
            "SECUREGW_ROUTE_MAIN_RULES": "allow all all",
            "SECUREGW_HEALTH_LISTEN": "127.0.0.1:9464",
        },
    )
    assert problems == []
    assert config.warnings == ()
    assert config.https[0].listen == (Address("*", 443),)
    assert config.routes[0].upstream.addresses == (Address("127.0.0.1", 1),)
    assert config.health == (Address("127.0.0.1", 9464),)


def test_no_listener_springs_up_by_itself(read: Reader) -> None:
    config, problems = read("[postgres:main]\n", {"SECUREGW_LIMITS_CANCEL_RATE": "1"})
    assert problems == []
    assert (config.https, config.routes) == ((), ())
    config, problems = read(TLS + "[postgres:main]\n", {"SECUREGW_ROUTE_MAIN_UPSTREAM": "http://127.0.0.1:1"})
    assert config.https == ()
    assert "[route:main] listener: no section [https:main]" in problems


# --- mistakes ---------------------------------------------------------------------------------------------------------


def route(keys: str, url: str = "http://127.0.0.1") -> str:
    return f"{TLS}{HTTPS}[route:x]\nupstream = {url}\n{keys}\n"


@pytest.mark.parametrize(
    ("ini", "problem"),
    [
        ("[http:main]\n", "[http:main] section: no such section; did you mean [https:main]?"),
        (HTTPS + "listen = localhost:1\n", "[https:main] listen: localhost is a name"),
        (HTTPS + "listen = 127.0.0.1\n", "[https:main] listen: 127.0.0.1 is not ip:port"),
        (HTTPS + "listen = /run/x:1\n", "[https:main] listen: /run/x:1 is not ip:port, [v6]:port, *:port or unix:/abs"),
        (HTTPS + "listen = unix:run/x\n", "[https:main] listen: unix:run/x is not unix:/absolute/path"),
        (HTTPS + "listen = unix:@x\n", "[https:main] listen: unix:@x is not unix:/absolute/path"),
        (HTTPS + "listen = unix:/x/\n", "[https:main] listen: unix:/x/ is not unix:/absolute/path"),
        (HTTPS + f"listen = unix:/{'x' * 107}\n", "[https:main] listen: /xxx"),
        (HTTPS + "head_timeout = 0\n", "[https:main] head_timeout: must be more than 0 seconds"),
        (HTTPS + "rules = allow all all\n", "[https:main] rules: no such key"),
        (HTTPS + ROUTE, "[tls] certificate: is required (or in [https:main])"),
        (HTTPS + ROUTE, "[tls] key: is required (or in [https:main])"),
        (route("", "things:80"), "[route:x] upstream: things:80 is not http://host[:port][/path]"),
        (route("", "HTTP://things"), "[route:x] upstream: HTTP://things is not http://host"),
        (route("", "ftp://things"), "[route:x] upstream: ftp://things is not http://host"),
        (route("", "http://"), "[route:x] upstream:  is not http://host"),
        (route("", "http://*"), "[route:x] upstream: * is not http://host"),
        (route("", "http:///x"), "[route:x] upstream:  is not http://host"),
        (route("", "http://::1"), "[route:x] upstream: ::1 is not http://host"),
        (route("", "http://1.2.3"), "[route:x] upstream: Expected 4 octets"),
        (route("", "http://things:0"), "[route:x] upstream: 0 is not a port"),
        (route("", "http://things:x"), "[route:x] upstream: things:x is not http://host"),
        (route("", "http://things/a//b"), "[route:x] upstream: /a//b is not a path such as /things"),
        (route("", "http://things/a/../b"), "[route:x] upstream: /a/../b is not a path such as /things"),
        (route("", "http://things/%61"), "[route:x] upstream: /%61 is not a path such as /things"),
        (route("", "http://things/a b"), "[route:x] upstream: /a b is not a path such as /things"),
        (route("", "/run/things.sock"), "[route:x] upstream: /run/things.sock is not http://host"),
        (route("", "http://a, https://a"), "[route:x] upstream: these differ in more than host and port"),
        (route("", "http://a, http://a/"), "[route:x] upstream: these differ in more than host and port"),
        (route("", "http://a/x, http://b/y"), "[route:x] upstream: these differ in more than host and port"),
        (route("", "http://a, unix:/x"), "[route:x] upstream: these differ in more than host and port"),
        (route("", ""), "[route:x] upstream: is empty"),
        (route("tls = require"), "[route:x] tls: the upstream is http://, without TLS: say disable, or nothing"),
        (route("tls = require", "unix:/x"), "[route:x] tls: the upstream is a Unix socket, without TLS"),
        (route("tls = disable", "https://a"), "[route:x] tls: is disable, but the upstream is https://"),
        (
            route("root_certificate = a"),
            "[route:x] root_certificate: is of no use: the upstream is http://, without TLS",
        ),
        (route("crl = a"), "[route:x] crl: is of no use"),
        (route("client_key = a"), "[route:x] client_key: is of no use"),
        (route("client_key = a", "https://a"), "[route:x] client_certificate: is required with client_key"),
        (
            route("host_header = upstream", "unix:/x"),
            "[route:x] host_header: is upstream, but a Unix socket has no name",
        ),
        (route("host = example.org:443"), "[route:x] host: example.org:443 is not a host name"),
        (route("host = *"), "[route:x] host: * is not a host name"),
        (route("host = a.*.b"), "[route:x] host: a.*.b is not a host name"),
        (route("host = *.*.b"), "[route:x] host: *.*.b is not a host name"),
        (route("host = example.org."), "[route:x] host: example.org. is not a host name"),
        (route("host = bücher.example"), "[route:x] host: bücher.example is not a host name"),
        (route("host = 1.2.3"), "[route:x] host: Expected 4 octets"),
        (route("host = ::1"), "[route:x] host: ::1 is not a host name"),
        (route("path = things"), "[route:x] path: things is not a path such as /things"),
        (route("path = //"), "[route:x] path: // is not a path such as /things"),
        (route("path = /a/./b"), "[route:x] path: /a/./b is not a path such as /things"),
        (route("path = /a;b"), "[route:x] path: /a;b is not a path such as /things"),
        (route("path = /a%2fb"), "[route:x] path: /a%2fb is not a path such as /things"),
        (route("path = /a?b"), "[route:x] path: /a?b is not a path such as /things"),
        (route("path = /é"), "[route:x] path: /é is not a path such as /things"),
        (route("path ="), "[route:x] path: is empty"),
        (route("listener = other"), "[route:x] listener: no section [https:other]"),
        (route("listener = a b"), "[route:x] listener: a name has up to 63 of"),
        (route("ws_key = hunter2"), "[route:x] ws_key: is not one of required, optional"),
        (route("client = maybe"), "[route:x] client: maybe is not one of required, optional, none"),
        (route("identity = dns"), "[route:x] identity: is dns, but with cn = key the key is in the CN"),
        (route("cn = id\nschemes = none"), "[route:x] schemes: is about the key in Authorization"),
        (route("cn = id\nsend_scheme = Thing"), "[route:x] send_scheme: is about the key in Authorization"),
        (route("schemes = a b"), "[route:x] schemes: a b is neither none nor a word such as Thing"),
        (route("schemes ="), "[route:x] schemes: is empty"),
        (route("send_scheme = a, b"), "[route:x] send_scheme: a, b is neither none nor a word"),
        (route("send_scheme = a\n  b"), "[route:x] send_scheme: a"),
        (route("websocket = true"), "[route:x] websocket: true is not one of yes, no"),
        (route("ws_query = drop"), "[route:x] ws_query: drop is not one of strip, forward"),
        (route("rules = allow all"), "[route:x] rules, line 1: a rule is: allow|deny IDENTITY NETWORK"),
        (route("rules =\n  allow a all\n  permit all all"), "[route:x] rules, line 2: "),
        (
            route("rules = allow all all ca=none.crt"),
            "[route:x] rules, line 1: DIR/none.crt: No such file or directory",
        ),
        (
            route("rules = allow 2b3c-a-secret all"),
            "[route:x] rules, line 1: with cn = key an identity is key: and 16 hexadecimal digits",
        ),
        (route("rules = deny key:0123456789ABCDEF all"), "[route:x] rules, line 1: with cn = key an identity is key:"),
        (
            route("rules = allow all all method=GTE"),
            "[route:x] rules, line 1: method has one that no client can ask for",
        ),
        (route("rules = allow all all ca=gw.ini"), "[route:x] rules, line 1: DIR/gw.ini: is not a readable PEM cert"),
        (COMPLETE + "[route:x]\n" + ROUTE[13:], "[route:x] path: [route:main] has the same listener, host and path"),
    ],
)
def test_each_mistake_is_told_with_its_place(read: Reader, ini: str, problem: str) -> None:
    _, problems = read(ini)
    assert any(told.startswith(problem) for told in problems), problems


@pytest.mark.parametrize(
    "url", ["http://user:hunter2@things", "http://things/?authorization=hunter2", "http://things/#hunter2"]
)
def test_what_could_be_secret_in_a_url_is_refused_and_not_quoted(read: Reader, url: str) -> None:
    _, problems = read(route("", url))
    assert len(problems) == 1
    assert problems[0].endswith("without a user, password, query or fragment")
    assert "hunter2" not in problems[0]


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        ("", "", True),
        ("path = /a", "path = /a/", True),
        ("path = /a", "path = /a/b", False),
        ("host = a.example", "host = b.example, A.example", True),
        ("host = a.example", "", False),
        ("host = a.example", "host = *.example", False),
        ("", "listener = other", False),
        ("", "listener = other, main", True),
    ],
)
def test_two_routes_for_the_same_requests(read: Reader, first: str, second: str, clash: bool) -> None:
    other = "[https:other]\nlisten = 127.0.0.1:8444\n[route:other]\nlistener = other\npath = /o\n" + ROUTE[13:]
    _, problems = read(f"{COMPLETE}{first}\n[route:b]\n{ROUTE[13:]}{second}\n{other}")
    told = ["[route:b] path: [route:main] has the same listener, host and path"]
    assert problems == (told if clash else [])


@pytest.mark.parametrize(("client", "wrong"), [("required", True), ("optional", True), ("none", False)])
@pytest.mark.parametrize("asked", ["", "client_certificate = none\n"])
def test_a_route_requires_no_more_than_its_listener_asks_for(
    read: Reader, client: str, wrong: bool, asked: str
) -> None:
    tls = TLS if asked else TLS.partition("client_cert")[0]
    _, problems = read(f"{tls}{HTTPS}{asked}{ROUTE}client = {client}\n")
    told = f"[route:main] client: is {client}, but [https:main] has client_certificate = none, so nobody could show one"
    assert problems == ([told] if wrong else [])


def test_that_is_told_although_the_certificate_is_missing_and_never_to_the_quickstart(read: Reader) -> None:
    _, problems = read(HTTPS + ROUTE)
    assert any(told.startswith("[route:main] client: is required, but") for told in problems)
    _, problems = read(HTTPS + "[route:main]\n")
    assert problems == []
    # With a certificate of its own it would not ask for one in the quickstart either.
    _, problems = read(TLS.partition("client_cert")[0] + HTTPS + "[route:main]\n")
    assert [told.partition(":")[0] for told in problems] == ["[route"]


ADDRESSES = [
    ("127.0.0.1:1", "127.0.0.1:1", True),
    ("127.0.0.1:1", "127.0.0.1:2", False),
    ("127.0.0.1:1", "127.0.0.2:1", False),
    ("127.0.0.1:1", "*:1", True),
    ("*:1", "[::1]:1", True),
    ("*:1", "*:1", True),
    ("127.0.0.1:1", "0.0.0.0:1", True),
    ("[::]:1", "[::1]:1", True),
    ("[::]:1", "0.0.0.0:1", False),
    ("[::]:1", "127.0.0.1:1", False),
    ("unix:/run/a", "unix:/run/a", True),
    ("unix:/run/a", "unix:/run/b", False),
    ("unix:/run/a", "*:1", False),
]


@pytest.mark.parametrize(("one", "other", "clash"), [*ADDRESSES, *((b, a, clash) for a, b, clash in ADDRESSES)])
def test_two_listeners_on_one_address(read: Reader, one: str, other: str, clash: bool) -> None:
    ini = COMPLETE.replace(HTTPS, f"{HTTPS}listen = {one}\n[https:b]\nlisten = {other}\n")
    _, problems = read(ini)
    address = other.removeprefix("unix:")
    before = one.removeprefix("unix:")
    assert problems == ([f"[https:b] listen: {address} is taken: [https:main] listens on {before}"] if clash else [])


def test_one_address_for_listeners_of_different_kinds_or_twice_for_one(read: Reader) -> None:
    _, problems = read("[postgres:main]\nlisten = /run/x\n[https:main]\nlisten = unix:/run/x/.s.PGSQL.5432\n")
    assert problems == [
        "[https:main] listen: /run/x/.s.PGSQL.5432 is taken: [postgres:main] listens on /run/x/.s.PGSQL.5432"
    ]
    _, problems = read("[https:main]\nlisten = 127.0.0.1:8443, *:8443\n[health]\nlisten = 127.0.0.1:8443\n")
    assert problems == [
        "[https:main] listen: *:8443 is taken: [https:main] listens on 127.0.0.1:8443",
        "[health] listen: 127.0.0.1:8443 is taken: [https:main] listens on 127.0.0.1:8443",
        "[health] listen: 127.0.0.1:8443 is taken: [https:main] listens on *:8443",
    ]


def test_all_mistakes_are_told_at_once(read: Reader) -> None:
    _, problems = read(
        "[https:main]\nhead_timeout = x\n[route:a]\nupstream = http://a\ntls = require\nhost = :\nrules = allow\n"
        "cn = name\n[route:b]\nlistener = c\n"
    )
    assert sorted(problem.partition(": ")[0] for problem in problems) == [
        "[https:main] head_timeout",
        "[route:a] client",
        "[route:a] cn",
        "[route:a] host",
        "[route:a] rules, line 1",
        "[route:a] tls",
        "[route:b] listener",
        "[route:b] upstream",
        "[tls] certificate",
        "[tls] key",
    ]


def test_where_the_files_were_named(read: Reader) -> None:
    """Their problems are told there."""
    config, problems = read(COMPLETE.replace(HTTPS, HTTPS + "key = https.key\n"))
    assert problems == []
    assert config.https[0].tls is not None
    assert config.https[0].tls.sections == dict.fromkeys(("certificate", "client_certificate", "client_ca"), "tls")
    assert replace(config.routes[0].upstream.tls).own_keys == ("client_certificate", "client_key")
