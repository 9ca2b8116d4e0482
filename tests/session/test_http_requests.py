"""An HTTPS connection up to the dial: its order, what is refused with nothing dialed, what the upstream is asked."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admission import Admission
from gateway.serials import serial_text
from gateway.session.vocabulary import (
    Asked,
    Close,
    Dial,
    Dialed,
    Event,
    Expired,
    Idle,
    Lost,
    Passage,
    RequestRecord,
    Secured,
    SetDeadline,
    ShuttingDown,
    Side,
    Sniff,
    Sniffed,
    StartTLS,
    TimedOut,
)
from gateway.upstream import Address
from tests.http_sessions import (
    FIRST,
    HANDSHAKE,
    HEAD,
    HOST,
    KEEPALIVE,
    KEY,
    METER,
    SECOND,
    Conversation,
    House,
    access,
    message,
    nameless,
    request,
    response,
    route,
    shown,
    sized,
    talk,
    upstream,
)

# --- from the first byte to the first request ------------------------------------------------------------------------


def test_from_the_first_byte_to_the_first_request() -> None:
    one = Conversation(secured=False)
    assert one.commands == [SetDeadline(HANDSHAKE), Sniff()]
    assert one.tell(Sniffed(b"\x16")) == [StartTLS(Side.CLIENT)]
    assert one.tell(Secured(Side.CLIENT, shown())) == [SetDeadline(HEAD)]
    assert one.session.facts.tls == "TLSv1.3"


@pytest.mark.parametrize("first", [b"G", b"\0", b"\x15", b"\x17", b"\xff"])
def test_who_does_not_begin_with_tls_is_told_once_and_heard_no_more(first: bytes) -> None:
    one = Conversation(secured=False)
    one.tell(Sniffed(first))
    assert one.closed is not None
    assert message(one.closed.farewell).status == 400
    assert not one.of(StartTLS)
    assert "TLS" in one.closed.reason


@pytest.mark.parametrize("events", [[], [Sniffed(b"\x16")]])
@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (TimedOut(), "TLS was not finished in time"),
        (Lost(Side.CLIENT, "unknown CA"), "unknown CA"),
        (ShuttingDown(), "the gateway is shutting down"),
    ],
)
def test_ends_before_tls_is_up(events: list[Event], event: Event, reason: str) -> None:
    one = Conversation(secured=False)
    for before in events:
        one.tell(before)
    assert one.tell(event) == [Close(reason)]
    assert not one.of(RequestRecord)


def test_a_connection_on_which_nothing_is_asked() -> None:
    assert Conversation().time_out() == [Close("nothing was asked for")]
    assert Conversation().lose(Side.CLIENT) == [Close("it broke")]
    assert Conversation().tell(ShuttingDown()) == [Close("the gateway is shutting down")]


def test_heads_that_stop_coming_are_cut() -> None:
    """One deadline for all of a head: dripping does not move it."""
    one = Conversation()
    assert one.client(b"GET / HT") == [SetDeadline(HEAD)]
    assert one.client(b"TP/1.1\r\nHost: ") == []
    one.time_out()
    assert one.refused(408) == "the request did not come in time"
    assert one.record.asked == Asked()


def test_the_head_of_a_later_request_has_the_same_time() -> None:
    one = Conversation().ask(request())
    one.upstream(sized())
    assert one.deadline == KEEPALIVE
    assert one.client(b"G") == [SetDeadline(HEAD)]
    one.time_out()
    assert one.closed is not None
    assert message(one.closed.farewell).status == 408
    assert [record.status for record in one.of(RequestRecord)] == [200, 408]


@pytest.mark.parametrize("begin", [b"garbage\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"GET / HT"])
def test_what_is_not_understood_was_let_in_by_no_rule(begin: bytes) -> None:
    """Its record tells who sent it, as a good request before has shown; that one's route and rule are not its own."""
    one = Conversation().ask(request())
    one.upstream(sized())
    good = one.record.passage
    assert None not in (good.route, good.rule, good.subject, good.serial)
    one.client(begin)
    if one.closed is None:
        one.time_out()
    record = one.of(RequestRecord)[-1]
    assert record.status in (400, 408)
    assert record.asked == Asked()
    assert record.passage == Passage(subject=good.subject, serial=good.serial)


def test_between_two_requests_the_end_is_a_quiet_one() -> None:
    one = Conversation().ask(request())
    one.upstream(sized())
    assert one.time_out() == [Close("nothing was asked for")]
    assert len(one.of(RequestRecord)) == 1


def test_who_is_over_a_limit_may_learn_that() -> None:
    one = Conversation(over_limit=True)
    one.client(request())
    assert one.refused(503) == "too many connections"


def test_too_many_of_one_subject() -> None:
    one = Conversation(house=House(room=False))
    one.client(request())
    assert one.refused(503) == "too many connections of this subject"
    assert one.record.passage.subject is not None


def test_a_subject_is_counted_once_and_only_when_it_was_let_in() -> None:
    one = talk("deny all all")
    one.client(request())
    one.refused(403)
    assert one.house.counted == []
    one = talk(client="none")
    one.ask(request())
    assert one.house.counted == []
    one = talk()
    for target in ("/a", "/b"):
        one.client(request(target))
        one.tell(Dialed())
        one.upstream(sized())
    assert one.house.counted == [one.of(RequestRecord)[0].passage.subject]


# --- heads that are refused ------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[int, bytes]] = {
    "length and coding": (400, request("/", "Content-Length: 3", "Transfer-Encoding: chunked", body=b"0\r\n\r\n")),
    "coding and length": (400, request("/", "Transfer-Encoding: chunked", "Content-Length: 3", body=b"0\r\n\r\n")),
    "two lengths": (400, request("/", "Content-Length: 3", "Content-Length: 3", body=b"abc")),
    "other lengths": (400, request("/", "Content-Length: 3", "content-length: 4", body=b"abc")),
    "length as a list": (400, request("/", "Content-Length: 3, 3", body=b"abc")),
    "signed length": (400, request("/", "Content-Length: +3", body=b"abc")),
    "negative length": (400, request("/", "Content-Length: -3", body=b"abc")),
    "hexadecimal length": (400, request("/", "Content-Length: 0x3", body=b"abc")),
    "coding twice": (400, request("/", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked")),
    "chunked, chunked": (400, request("/", "Transfer-Encoding: chunked, chunked")),
    "other coding": (501, request("/", "Transfer-Encoding: gzip, chunked")),
    "identity": (501, request("/", "Transfer-Encoding: identity")),
    "vertical tab in the coding": (400, request("/", "Transfer-Encoding: \x0bchunked")),
    "coding in HTTP/1.0": (400, request("/", "Transfer-Encoding: chunked", version="1.0", body=b"0\r\n\r\n")),
    "obs-fold": (400, request("/", "X: a\r\n b")),
    "bare LF": (400, request("/", "X: a\nY: b")),
    "bare LF at the end": (400, b"GET / HTTP/1.1\nHost: gw.example\n\n"),
    "bare CR": (400, request("/", "X: a\rY: b")),
    "NUL": (400, request("/", "X: a\0b")),
    "no Host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "empty Host": (400, request("/", "Host: ")),
    "two Hosts": (400, request("/", "Host: gw.example", "Host: other.example")),
    "the same Host twice": (400, request("/", "Host: gw.example", "HOST: gw.example")),
    "Host with a path": (400, request("/", "Host: gw.example/x")),
    "Host with a user": (400, request("/", "Host: me@gw.example")),
    "Host as a list": (400, request("/", "Host: gw.example, other.example")),
    "Host with a port too far": (400, request("/", "Host: gw.example:65536")),
    "space before the colon": (400, request("/", "X : a")),
    "space before Host's colon": (400, b"GET / HTTP/1.1\r\nHost : gw.example\r\n\r\n"),
    "absolute-form of another host": (400, request("https://other.example/")),
    "absolute-form of another port": (400, request(f"https://{HOST}:444/")),
    "absolute-form in clear": (400, request(f"http://{HOST}/")),
    "absolute-form with a user": (400, request(f"https://{HOST}@other.example/")),
    "authority-form": (501, request("gw.example:443", method="CONNECT")),
    "CONNECT": (501, request("/", method="CONNECT")),
    "TRACE": (501, request("/", method="TRACE")),
    "unknown method": (501, request("/", method="GETS")),
    "small method": (501, request("/", method="get")),
    "asterisk with GET": (400, request("*")),
    "HTTP/2.0": (505, request("/", version="2.0")),
    "HTTP/1.2": (505, request("/", version="1.2")),
    "preface of HTTP/2": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "two spaces": (400, b"GET  / HTTP/1.1\r\nHost: gw.example\r\n\r\n"),
    "tab": (400, b"GET\t/\tHTTP/1.1\r\nHost: gw.example\r\n\r\n"),
    "HTTP/0.9": (400, b"GET /\r\n\r\n"),
    "fragment": (400, request("/a#b")),
    "space in the target": (400, request("/a b")),
    "half a percent": (400, request("/a%2")),
    "umlaut in the target": (400, request("/ä")),
    "another expectation": (417, request("/", "Expect: 200-ok", "Content-Length: 1")),
    "101 fields": (431, request("/", *(f"X{n}: {n}" for n in range(100)))),
    "broken Connection": (400, request("/", "Connection: close, a b")),
    "chunk of odd size": (400, request("/", "Transfer-Encoding: chunked", body=b"0x3\r\nabc\r\n0\r\n\r\n")),
    "chunk ended by LF": (400, request("/", "Transfer-Encoding: chunked", body=b"3\nabc\r\n0\r\n\r\n")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_heads(name: str) -> None:
    """With a status, the end of the connection, one record and nothing dialed; what follows is not looked at."""
    status, data = REFUSED[name]
    one = Conversation()
    one.client(data + request("/next"))
    one.refused(status)
    # Of a body the head is known, and so is who sent it.
    chunked = name.startswith("chunk ")
    assert (one.record.passage.subject is None) is not chunked
    assert one.record.asked == (Asked("GET", HOST, "/") if chunked else Asked())


@pytest.mark.parametrize("name", [name for name in REFUSED if not name.startswith("chunk ")])
def test_refused_heads_byte_by_byte(name: str) -> None:
    status, data = REFUSED[name]
    one = Conversation()
    for at in range(data.index(b"\r\n\r\n") + 4 if b"\r\n\r\n" in data else len(data)):
        if one.closed is None:
            one.client(data[at : at + 1])
    one.refused(status)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_answer_of_ours_to_head_has_no_body(method: str) -> None:
    one = talk("deny all all")
    one.client(request(method=method))
    assert one.answered.status == 403
    assert bool(one.answered.body) is (method == "GET")
    assert one.answered.one("Content-Length") != "0"
    assert one.answered.one("Cache-Control") == "no-store"


def test_a_head_that_never_ends() -> None:
    one = Conversation()
    one.client(request("/", "X: " + "a" * 32_000)[:-4])
    assert one.closed is None
    one.client(b"a" * 1_000)
    one.refused(431)


def test_a_head_of_exactly_the_limit() -> None:
    head = request("/", "X: ")
    one = Conversation()
    one.ask(request("/", "X: " + "a" * (32_768 - len(head))))
    one = Conversation()
    one.client(request("/", "X: " + "a" * (32_769 - len(head))))
    one.refused(431)


@given(st.binary(max_size=200))
def test_whatever_comes_gets_no_further(data: bytes) -> None:
    one = Conversation()
    one.client(data)
    if one.closed is None:
        one.client(b"\r\n\r\n")
    if one.closed is None:
        one.time_out()
    assert one.closed is not None
    assert not one.dials
    assert len(one.of(RequestRecord)) == 1


@given(st.binary(max_size=40).filter(lambda value: b"\r\n" not in value))
def test_whatever_is_in_a_field_reaches_the_upstream_as_one_field_or_not_at_all(value: bytes) -> None:
    one = Conversation(secrets=())
    one.client(request()[:-2] + b"X-Value: " + value + b"\r\n\r\n")
    if one.dials:
        one.tell(Dialed())
        assert one.asked.all("X-Value") == [value.decode("latin-1").strip(" \t")]
        assert one.asked.body == b""


# --- which name ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", [HOST, "GW.Example", "gw.example.", "gw.example:443", "GW.EXAMPLE.:8443"])
@pytest.mark.parametrize("server_name", [HOST, "GW.EXAMPLE", "gw.example.", None])
def test_the_same_name_in_tls_and_in_host(host: str, server_name: str | None) -> None:
    one = Conversation(tls=shown(server_name=server_name))
    one.ask(request("/", f"Host: {host}"))
    assert one.asked.one("Host") == one.asked.one("X-Forwarded-Host") == host
    assert one.record_of_end().asked == Asked("GET", HOST, "/")


@pytest.mark.parametrize(
    "host",
    [
        "other.example",
        "gw.example.evil.example",
        "www.gw.example",
        "evilgw.example",
        "w.example",
        "gw.example..",
        "[::1]",
        "127.0.0.1",
    ],
)
def test_another_name_than_tls_was_asked_for(host: str) -> None:
    one = Conversation(tls=shown(server_name=HOST))
    one.client(request("/", f"Host: {host}"))
    one.refused(400 if host.endswith("..") else 421)
    assert one.record.passage == Passage()


def test_another_name_in_a_later_request() -> None:
    one = Conversation(tls=shown(server_name=HOST)).ask(request())
    one.upstream(sized())
    one.client(request("/", "Host: other.example"))
    assert one.closed is not None
    assert message(one.closed.farewell).status == 421
    assert one.dials == [FIRST]


def test_hosts_have_routes_of_their_own() -> None:
    routes = (
        route(name="one", hosts=("one.example",)),
        route("deny all all", name="any", hosts=("*.example",)),
    )
    for host, known in (("one.example", True), ("ONE.example.:443", True), ("two.example", False)):
        one = Conversation(access(*routes))
        one.client(request("/", f"Host: {host}"))
        assert bool(one.dials) is known
    one = Conversation(access(*routes))
    one.client(request("/", "Host: example"))
    assert one.refused(404) == "no route"


# --- which path ------------------------------------------------------------------------------------------------------

PATHS = ("open", "closed")


def guarded() -> Conversation:
    """/closed is for nobody, and everything below / for everybody."""
    return Conversation(access(route(name="open"), route("deny all all", name="closed", path="/closed")))


@pytest.mark.parametrize(
    "path",
    [
        "/a/../closed",
        "/a/%2e%2e/closed",
        "/a/.%2E/closed",
        "/%2e/closed",
        "/./closed",
        "/%63losed",
        "/%2563losed",
        "/%252563losed",
        "//closed",
        "//gw.example/closed",
        "/a//../closed",
        "/closed;x=1",
        "/clo%73ed/x",
        "/a%2f..%2fclosed",
        "/%2fclosed",
        "/a\\..\\closed",
        "/a%5c..%5cclosed",
        "/closed%00",
        "/%c0%afclosed",
        "/a%0d%0ax",
        "/..;/closed",
        "/a/..;x/closed",
        "/closed%3b",
        "/closed%3fx",
        "/closed%23",
        "/a%2f;/closed",
    ],
)
def test_paths_that_another_reader_could_take_for_a_closed_one(path: str) -> None:
    """No way to it: 400, or 403 where the raw path is already the closed route's."""
    one = guarded()
    one.client(request(path))
    assert one.closed is not None
    assert message(one.closed.farewell).status in (400, 403)
    one.refused(one.record.status)


@pytest.mark.parametrize("path", ["/closed", "/closed/", "/closed/x", "/closed/%61", "/closed?x=1"])
def test_the_closed_route_is_closed(path: str) -> None:
    one = guarded()
    one.client(request(path))
    assert one.refused(403) == "denied: rules:1: deny all all"
    assert one.record.passage.route == "closed"
    assert one.record.passage.rule is None


@pytest.mark.parametrize("path", ["/closedx", "/CLOSED", "/a/closed", "/a%20b", "/%C3%A4", "/a;b=c/d", "/a:b@c/~d/"])
def test_paths_that_are_open(path: str) -> None:
    one = guarded().ask(request(path))
    assert one.asked.target == path


def test_the_path_in_the_record_is_without_its_query() -> None:
    one = talk().ask(request("/a/b?token=hidden&x=1"))
    one.upstream(sized())
    assert one.record.asked == Asked("GET", HOST, "/a/b")
    assert one.asked.target == "/a/b?token=hidden&x=1"
    assert "hidden" not in repr(one.commands)


@pytest.mark.parametrize(
    ("base", "target", "asked"),
    [
        (None, "/things/1?x", "/things/1?x"),
        ("", "/things/1?x", "/1?x"),
        ("", "/things", "/"),
        ("", "/things?x=/things/", "/?x=/things/"),
        ("", "/things//evil.example/", "/evil.example/"),
        ("/v1", "/things/1", "/v1/1"),
        ("/v1", "/things", "/v1"),
        ("/v1", "/things?x", "/v1?x"),
        ("/v1", "/things/things", "/v1/things"),
    ],
)
def test_the_upstreams_own_path(base: str | None, target: str, asked: str) -> None:
    one = talk(path="/things", base=base).ask(request(target))
    assert one.asked.target == asked


@pytest.mark.parametrize("base", [None, "", "/v1"])
@pytest.mark.parametrize("target", ["*", f"https://{HOST}"])
def test_the_server_as_a_whole(base: str | None, target: str) -> None:
    one = talk(base=base).ask(request(target, method="OPTIONS"))
    assert one.asked.first == "OPTIONS * HTTP/1.1"
    one = Conversation(access(route(path="/things")))
    one.client(request("*", method="OPTIONS"))
    assert one.refused(404) == "no route"


# --- rules -----------------------------------------------------------------------------------------------------------


def test_no_rule_lets_nobody_in() -> None:
    one = talk(admission=Admission(()))
    one.client(request())
    assert one.refused(403) == "denied: no rule matches"


@pytest.mark.parametrize(
    "rule",
    [
        "deny all all",
        "allow anonymous all",
        "allow meter-8 all",
        "allow METER-7 all",
        "allow all 192.0.2.0/24",
        "allow all local",
        "allow all all method=POST",
    ],
)
def test_no_rule_no_dial(rule: str) -> None:
    one = Conversation(access(route(rule, cn="id")), shown(METER))
    one.client(request())
    assert one.refused(403).startswith("denied: ")
    assert one.answered.said["error"] == "forbidden", "the client does not learn the rule"
    assert (one.record.passage.subject, one.session.facts.subject) == ("meter-7", "meter-7")


@pytest.mark.parametrize("rule", ["allow meter-7 all", "allow meter-* 10.0.0.0/8", "allow all all method=GET,HEAD"])
def test_rules_that_let_in(rule: str) -> None:
    one = Conversation(access(route(rule, cn="id")), shown(METER)).ask(request())
    one.upstream(sized())
    serial = serial_text(METER.certificate.serial_number)
    assert one.record.passage == Passage("main", "meter-7", serial, f"rules:1: {rule}")
    assert one.record.decision == "allowed"


@pytest.mark.parametrize("first", ["GET", "HEAD"])
def test_a_method_that_no_rule_allows_after_one_that_is(first: str) -> None:
    one = talk("allow all all method=GET,HEAD").ask(request(method=first))
    one.upstream(response("200 OK", "Content-Length: 0"))
    one.client(request(method="DELETE"))
    assert one.closed is not None
    assert message(one.closed.farewell).status == 403
    assert [record.status for record in one.of(RequestRecord)] == [200, 403]
    assert len(one.dials) == 1


def test_a_route_that_is_closed_after_one_that_is_open() -> None:
    one = guarded().ask(request("/open"))
    one.upstream(sized())
    one.client(request("/closed"))
    assert one.closed is not None
    assert message(one.closed.farewell).status == 403
    assert len(one.dials) == 1


# --- what the upstream is asked --------------------------------------------------------------------------------------


def test_the_whole_of_a_request() -> None:
    one = talk(client="none").ask(request("/a?b", "accept: */*", "X-Two: 1", "ACCEPT-Language: de", "X-Two: 2 "))
    assert one.sent(Side.UPSTREAM) == (
        b"GET /a?b HTTP/1.1\r\nHost: gw.example\r\naccept: */*\r\nX-Two: 1\r\nACCEPT-Language: de\r\nX-Two: 2\r\n"
        b"X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\nVia: 1.1 securegw\r\n"
        b"X-Forwarded-Host: gw.example\r\n\r\n"
    )


def test_absolute_form_becomes_origin_form() -> None:
    one = talk().ask(request(f"https://{HOST}/a?b"))
    assert one.asked.first == "GET /a?b HTTP/1.1"
    assert one.asked.all("Host") == [HOST]


def test_the_upstreams_own_host() -> None:
    one = talk(keep_host=False).ask(request())
    assert one.asked.one("Host") == str(FIRST)
    assert one.asked.one("X-Forwarded-Host") == HOST


HOP_BY_HOP = [
    "Connection: keep-alive, X-Mine",
    "X-Mine: 1",
    "Keep-Alive: timeout=5",
    "Proxy-Authorization: Basic eDp5",
    "Proxy-Authenticate: Basic",
    "Proxy-Connection: close",
    "TE: gzip",
    "Upgrade: h2c",
]


def test_what_is_between_the_client_and_us_stays_there() -> None:
    one = talk(client="none").ask(request("/", *HOP_BY_HOP, "X-Kept: 1"))
    names = [name for name, _ in one.asked.fields]
    assert names == ["Host", "X-Kept", "X-Forwarded-For", "X-Forwarded-Proto", "Via", "X-Forwarded-Host"]


@pytest.mark.parametrize(
    "name",
    ["Host", "Authorization", "X-Forwarded-For", "X-Forwarded-Host", "Client-Cert", "Via", "Content-Length", "TE"],
)
def test_connection_cannot_take_away_what_is_ours(name: str) -> None:
    one = talk().ask(request("/", f"Connection: {name}, close", "Content-Length: 3", method="POST", body=b"abc"))
    asked = one.asked
    expected = {
        "Host": HOST,
        "Authorization": KEY,
        "X-Forwarded-For": "10.0.0.1",
        "X-Forwarded-Host": HOST,
        "Via": "1.1 securegw",
        "Content-Length": "3",
    }
    assert {found: asked.one(found) for found in expected} == expected
    assert asked.one("Client-Cert") is not None
    assert asked.one("Connection") is None
    assert asked.body == b"abc"


def test_connection_named_authorization_is_no_way_around_the_key() -> None:
    """The field is for us alone then, and the upstream gets ours; with nothing to compare with, it gets none."""
    one = talk().ask(request("/", "Connection: authorization", "Authorization: somebody-else"))
    assert one.asked.all("Authorization") == [KEY]
    one = Conversation(access(route(client="optional")), nameless())
    one.ask(request("/", "Connection: authorization", "Authorization: somebody-else"))
    assert one.asked.all("Authorization") == []


@pytest.mark.parametrize(
    ("lines", "framing"),
    [
        ((), {}),
        (("Connection: TE", "TE: trailers"), {"Connection": "TE", "TE": "trailers"}),
        (("TE: trailers, gzip",), {"Connection": "TE", "TE": "trailers"}),
        (("TE: gzip",), {}),
        (("Content-Length: 0",), {}),
        (("Content-Length: 1",), {"Content-Length": "1"}),
        (("Content-Length: 0001",), {"Content-Length": "1"}),
        (("Transfer-Encoding: Chunked",), {"Transfer-Encoding": "chunked"}),
        (("Expect: 100-Continue", "Content-Length: 1"), {"Expect": "100-continue", "Content-Length": "1"}),
        (("Expect: 100-continue",), {}),
    ],
)
def test_framing_is_said_anew(lines: tuple[str, ...], framing: dict[str, str]) -> None:
    one = talk().ask(request("/", *lines))
    names = ("Connection", "TE", "Content-Length", "Transfer-Encoding", "Expect", "Upgrade")
    assert {name: value for name in names if (value := one.asked.one(name)) is not None} == framing


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_methods_whose_missing_body_is_said(method: str) -> None:
    assert talk().ask(request(method=method)).asked.one("Content-Length") == "0"


@pytest.mark.parametrize(
    "lines",
    [
        ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"),
        ("Connection: Upgrade", "Upgrade: TLS/1.0"),
        ("Connection: Upgrade", "Upgrade: websocket, h2c"),
        ("Upgrade: websocket",),
    ],
)
def test_upgrades_to_anything_else_are_ignored(lines: tuple[str, ...]) -> None:
    one = talk(websocket=True).ask(request("/", *lines))
    assert {"connection", "upgrade", "http2-settings"}.isdisjoint(name.lower() for name, _ in one.asked.fields)
    one.upstream(sized())
    assert one.answered.status == 200
    assert one.closed is None


def test_a_client_on_a_unix_socket_has_a_name_too() -> None:
    one = Conversation(client=Address("", 0))
    assert one.ask(request()).asked.one("X-Forwarded-For") == "unix"


# --- what has no place -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", [Dialed(), Secured(Side.UPSTREAM, shown()), Expired(), Idle(), Sniffed(b"\x16")])
def test_what_has_no_place_between_requests_ends_it(event: Event) -> None:
    one = Conversation()
    one.tell(event)
    assert one.closed is not None
    assert not one.dials


def test_bytes_of_an_upstream_are_never_a_request() -> None:
    """It has been released, so it can say nothing; if it ever could, it would ask in this client's name."""
    one = Conversation().ask(request())
    one.upstream(sized())
    one.upstream(request("/admin"))
    assert one.dials == [FIRST]


def test_after_the_end_nothing_is_answered() -> None:
    """What is said last, at a message boundary, must not be replaced by anything that comes until then."""
    one = talk("deny all all")
    one.client(request())
    events: list[Any] = [ShuttingDown(), TimedOut(), Lost(Side.CLIENT, "gone"), Expired(), Idle()]
    assert [list(one.session.handle(event)) for event in events] == [[]] * len(events)


def test_two_addresses_are_one_upstream() -> None:
    one = Conversation(access(route(upstream=upstream(FIRST, SECOND), keep_host=False)))
    one.client(request())
    assert [dial.name for dial in one.of(Dial)] == [("route:main", str(FIRST))]
