"""POST to a channel, as transcripts: the body, the message, the answer, and what may be wrong with the request."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.hub.message import Message
from gateway.session.channel_request import MAX_CONTENT_TYPE
from gateway.session.vocabulary import (
    Enter,
    Hold,
    Proceed,
    RequestRecord,
    Send,
    SetDeadline,
    ShuttingDown,
    Side,
    TLSFacts,
)
from gateway.things import Rights
from gateway.wire.mqtt_packets import NOTHING, Properties, Reason
from tests.channels import (
    BOTH,
    CHANNEL,
    MISSING,
    NAMED,
    OTHER,
    OTHER_KEY,
    PACKET,
    STRANGE,
    THING,
    TOPIC,
    Site,
    Talk,
    answers,
)
from tests.http_sessions import (
    BODY,
    GRACE,
    HOST,
    KEEPALIVE,
    KEY,
    METER,
    NOW,
    RESPONSE,
    chunks,
    message,
    nameless,
    request,
    response,
    rules,
    shown,
)

PATH = f"/http/{TOPIC}"
ACCEPTED = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"


def posted(*lines: str, target: str = PATH, body: bytes = b"hello", **more: Any) -> bytes:
    return request(target, f"Content-Length: {len(body)}", *lines, method="POST", body=body, **more)


def refused(status: int, data: bytes, tls: TLSFacts | None = None, site: Site | None = None, **settings: Any) -> str:
    """The true reason. Nothing was published."""
    site = site or Site()
    one = site.talk(tls, **settings)
    one.client(data)
    assert not site.heard
    return one.refused(status)


class Deferred:
    """A hub that answers later. answer: to the last message."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.flushed = 0
        self.answer: Any = None

    def publish(self, message: Message, done: Any = None) -> None:
        self.messages.append(message)
        self.answer = done

    def flush(self) -> None:
        self.flushed += 1


def deferred(site: Site) -> Deferred:
    """In the place of the site's hub."""
    hub = Deferred()
    object.__setattr__(site.mqtt, "hub", hub)
    return hub


# --- what goes well --------------------------------------------------------------------------------------------------


def test_a_message() -> None:
    site = Site()
    one = site.talk()
    one.post(PATH, "Content-Type: application/octet-stream", body=b"\0\xff")
    assert one.sent(Side.CLIENT) == ACCEPTED
    assert site.heard == [Message(TOPIC, b"\0\xff", 1, False, Properties(content_type="application/octet-stream"))]
    assert site.heard[0].payload == b"\0\xff"
    record = one.record
    assert (record.status, record.decision, record.from_client, record.to_client) == (202, "allowed", 2, 0)
    assert record.passage[:2] == ("http", THING)
    assert record.passage.serial is not None
    assert one.office.counted == [THING]
    assert one.session.facts.subject == THING
    assert one.deadline == KEEPALIVE
    assert not one.dials


def test_the_client_is_let_in_once() -> None:
    one = Site().talk()
    for _ in range(3):
        one.post(PATH)
    assert one.of(Enter) == [Enter(audited=False)]
    assert one.office.counted == [THING]
    assert answers(one) == [202] * 3


def test_who_is_refused_is_not_let_in() -> None:
    one = Site().talk(nameless(), client="optional")
    one.post(PATH)
    assert not one.of(Enter)
    one.refused(401)


def test_an_empty_message() -> None:
    site = Site()
    one = site.talk()
    one.post(PATH, body=b"")
    one.client(request(PATH, method="POST"))
    assert answers(one) == [202, 202]
    assert [heard.payload for heard in site.heard] == [b"", b""]
    assert site.heard[0].properties is NOTHING


@pytest.mark.parametrize(
    ("content_type", "body", "text"),
    [
        ("text/plain", b"x", True),
        ("text/plain; charset=utf-8", "ä".encode(), True),
        ('Text/HTML;charset="UTF-8"', b"x", True),
        ("text/plain;charset=us-ascii", b"x", True),
        ("text/plain; charset=iso-8859-1", b"x", False),
        ("text/plain; charset=utf-16", b"x\0", False),
        ("text/plain; charset=utf-8x", b"x", False),
        ("text/plain", b"\xff", False),
        ("application/json", b"{}", True),
        ("application/senml+json", b"[]", True),
        ("image/svg+xml", b"<svg/>", True),
        ("application/jsonx", b"{}", False),
        ("application/x-www-form-urlencoded", b"a=1", True),
        ("application/octet-stream", b"x", False),
        ("application/cbor", b"x", False),
        ("nonsense", b"x", False),
    ],
)
def test_what_is_said_of_the_payload(content_type: str, body: bytes, text: bool) -> None:
    site = Site()
    site.talk().post(PATH, f"Content-Type: {content_type}", body=body)
    expected = Properties(content_type=content_type, payload_format=1 if text else None)
    assert [heard.properties for heard in site.heard] == [expected]


@pytest.mark.parametrize(
    ("path", "subtopic"),
    [
        ("/a", "a"),
        ("/a/b/c", "a/b/c"),
        ("/a%20b/%C3%A4", "a b/ä"),
        ("/a;b=1", "a;b=1"),
        ("/50%25", "50%"),
        ("/a:b@c,d=e$f!g'h(i)*~_-.", "a:b@c,d=e$f!g'h(i)*~_-."),
        ("/%24SYS", "$SYS"),
    ],
)
def test_a_subtopic(path: str, subtopic: str) -> None:
    site = Site()
    one = site.talk()
    one.post(PATH + path)
    assert answers(one) == [202]
    assert [heard.topic for heard in site.heard] == [f"{TOPIC}/{subtopic}"]


def test_the_query_is_nobodys_business() -> None:
    site = Site()
    site.talk().post(f"{PATH}?a=1")
    assert [heard.topic for heard in site.heard] == [TOPIC]


def test_a_body_in_pieces() -> None:
    site = Site()
    one = site.talk()
    data = posted(body=b"x" * 400)
    for byte in range(len(data) - 1):
        one.client(data[byte : byte + 1])
    assert not site.heard
    assert one.deadline == BODY
    one.client(data[-1:])
    assert [heard.payload for heard in site.heard] == [b"x" * 400]
    assert one.sent(Side.CLIENT) == ACCEPTED


@pytest.mark.parametrize("bytewise", [False, True])
def test_a_body_in_chunks(bytewise: bool) -> None:
    site = Site()
    one = site.talk()
    data = request(PATH, "Transfer-Encoding: chunked", method="POST", body=chunks(b"hel", b"lo", trailers="X: y\r\n"))
    for at in range(len(data)) if bytewise else []:
        one.client(data[at : at + 1])
    if not bytewise:
        one.client(data + posted(body=b"next"))
    assert [heard.payload for heard in site.heard] == [b"hello", *([] if bytewise else [b"next"])]
    assert set(answers(one)) == {202}
    assert one.of(RequestRecord)[0].from_client == 5


def test_a_client_that_waits_to_be_asked_for_its_body() -> None:
    site = Site()
    one = site.talk()
    one.client(request(PATH, "Content-Length: 2", "Expect: 100-continue", method="POST"))
    assert one.sent(Side.CLIENT) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert one.deadline == BODY
    one.client(b"ok")
    assert one.sent(Side.CLIENT) == b"HTTP/1.1 100 Continue\r\n\r\n" + ACCEPTED
    assert [heard.payload for heard in site.heard] == [b"ok"]


def test_nobody_is_asked_for_a_body_that_is_not_wanted() -> None:
    lines = ("Content-Length: 2", "Expect: 100-continue")
    for target, status in ((f"/http/channels/{STRANGE}/messages", 403), (f"/http/channels/{MISSING}/messages", 404)):
        one = Site().talk()
        one.client(request(target, *lines, method="POST"))
        one.refused(status)
        assert not one.of(Send)


def test_one_that_has_begun_is_not_asked() -> None:
    one = Site().talk()
    one.client(request(PATH, "Content-Length: 2", "Expect: 100-continue", method="POST", body=b"o"))
    one.client(b"k")
    assert one.sent(Side.CLIENT) == ACCEPTED


@pytest.mark.parametrize(
    ("lines", "version", "connection", "kept"),
    [
        ((), "1.1", None, True),
        (("Connection: close",), "1.1", "close", False),
        ((), "1.0", "close", False),
        (("Connection: keep-alive",), "1.0", "keep-alive", True),
    ],
)
def test_the_connection_goes_on(lines: tuple[str, ...], version: str, connection: str | None, kept: bool) -> None:
    one = Site().talk()
    one.post(PATH, *lines, version=version)
    assert one.answered.status == 202
    assert one.answered.one("Connection") == connection
    assert (one.closed is None) is kept


def test_a_request_behind_a_body_in_pieces() -> None:
    site = Site()
    hub = deferred(site)
    one = site.talk()
    one.client(posted()[:-1])
    one.client(posted()[-1:] + posted(body=b"next")[:-1])
    assert one.held
    hub.answer(Reason.SUCCESS)
    assert not one.held
    one.client(b"t")
    hub.answer(Reason.SUCCESS)
    assert [sent.payload for sent in hub.messages] == [b"hello", b"next"]
    assert answers(one) == [202, 202]


def test_requests_behind_each_other() -> None:
    site = Site()
    one = site.talk()
    one.client(b"".join(posted(body=b"%d" % n) for n in range(5)) + b"POST /ht")
    assert [heard.payload for heard in site.heard] == [b"0", b"1", b"2", b"3", b"4"]
    assert answers(one) == [202] * 5
    one.client(posted(body=b"5")[8:])
    assert answers(one) == [202] * 6
    assert not one.held


def test_many_requests_in_one_read() -> None:
    site = Site()
    one = site.talk()
    one.client(posted(body=b"") * 600)
    assert answers(one) == [202] * 600


def test_beside_requests_for_an_upstream() -> None:
    site = Site()
    one = site.talk()
    one.post(PATH)
    one.ask(request("/"))
    one.upstream(response("204 No Content"))
    one.post(PATH)
    assert answers(one) == [202, 204, 202]
    assert one.office.counted == [THING]


# --- who it is -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [KEY, f"Thing {KEY}", f"Bearer {KEY}", f"client  {KEY}"])
@pytest.mark.parametrize("tls", [shown(), nameless()])
def test_a_key_in_authorization(given: str, tls: TLSFacts) -> None:
    one = Site().talk(tls, client="optional")
    one.post(PATH, f"Authorization: {given}")
    assert answers(one) == [202]
    assert one.record.passage.subject == THING


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("", "no thing has that key"),
        ("nobodys-key", "no thing has that key"),
        (KEY.upper(), "no thing has that key"),
        (KEY + "x", "no thing has that key"),
        (f"Basic {KEY}", "the scheme in Authorization is not accepted"),
        ("Bearer", "no thing has that key"),
        (THING, "no thing has that key"),
    ],
)
def test_a_key_that_does_not_count(given: str, reason: str) -> None:
    one = Site().talk(nameless(), client="optional")
    one.post(PATH, f"Authorization: {given}")
    assert one.refused(401) == reason
    answer = message(one.sent(Side.CLIENT))
    assert answer.said["error"] == "unknown key"
    assert answer.one("WWW-Authenticate") == 'Bearer realm="channels"'


def test_a_page_of_another_origin_has_to_know_the_key() -> None:
    """Its browser shows the certificate of whoever looks at it, and asks nobody before such a POST (CORS)."""
    elsewhere = "Origin: https://evil.example"
    assert refused(403, posted(elsewhere)).startswith("no key")
    refused(403, posted(elsewhere, f"Authorization: {KEY}"), client="none")
    refused(403, posted(elsewhere, f"Authorization: {KEY}"), tls=shown(NAMED), cn="id")
    site = Site()
    site.talk().client(posted(elsewhere, f"Authorization: {KEY}"))
    site.talk().client(posted(f"Origin: https://{HOST}"))
    site.talk(nameless(), client="optional").client(posted(elsewhere, f"Authorization: {KEY}"))
    assert len(site.heard) == 3


def test_no_key() -> None:
    several: list[dict[str, Any]] = [{"client": "optional"}, {"client": "none"}, {"client": "none", "cn": "id"}]
    for settings in several:
        assert refused(401, posted(), nameless(), **settings) == "no key"
    assert refused(401, posted(), shown(), client="none") == "no key"


def test_a_certificate_and_another_key() -> None:
    """As on every route: the key is somebody's, but not that of the certificate."""
    for given in (OTHER_KEY, "nobodys-key", f"Basic {KEY}"):
        refused(403, posted(f"Authorization: {given}"))
    refused(400, posted(f"Authorization: {KEY}", f"Authorization: {KEY}"))


def test_a_certificate_that_is_nobodys() -> None:
    refused(403, posted(), nameless())
    site = Site()
    site.know(THING, "rotated", {CHANNEL: BOTH})
    assert refused(401, posted(), site=site) == "no thing has that key"


def test_a_thing_that_is_disabled() -> None:
    site = Site()
    site.know(THING, KEY, {CHANNEL: BOTH}, enabled=False)
    assert refused(401, posted(), site=site) == "the thing is disabled"
    assert refused(401, posted(), shown(NAMED), site=site, cn="id") == "the thing is disabled"


def test_a_certificate_with_the_id() -> None:
    for lines in ((), (f"Authorization: {KEY}",), (f"Authorization: Thing {KEY}",)):
        one = Site().talk(shown(NAMED), cn="id")
        one.post(PATH, *lines)
        assert answers(one) == [202]
        assert one.record.passage.subject == THING


def test_a_certificate_with_the_id_and_another_key() -> None:
    for given in (OTHER_KEY, "nobodys-key", f"Basic {KEY}", ""):
        refused(401, posted(f"Authorization: {given}"), shown(NAMED), cn="id")


def test_a_certificate_with_an_id_that_nobody_has() -> None:
    assert refused(401, posted(), shown(METER), cn="id") == "the certificate names no thing"


def test_the_rules_of_the_route() -> None:
    assert refused(403, posted(), admission=rules("deny all all", "allow all all")).startswith("denied")
    refused(403, posted(), admission=rules("allow all all method=GET"))
    refused(403, posted(), admission=rules())


def test_rules_are_about_things() -> None:
    """Whatever has proven which one it is: a key in a certificate, an id in one, or a key alone."""
    allowed, denied = rules(f"allow {THING} all"), rules(f"deny {THING} all", "allow all all")
    ways: list[tuple[TLSFacts, dict[str, Any], tuple[str, ...]]] = [
        (shown(), {}, ()),
        (shown(NAMED), {"cn": "id"}, ()),
        (nameless(), {"client": "optional"}, (f"Authorization: {KEY}",)),
    ]
    for tls, settings, lines in ways:
        one = Site().talk(tls, admission=allowed, **settings)
        one.post(PATH, *lines)
        assert answers(one) == [202]
        assert one.record.passage.rule == f"rules:1: allow {THING} all"
        refused(403, posted(*lines), tls, admission=denied, **settings)
        other = Site().talk(tls, admission=denied, **settings)
        other.post(PATH, *lines)
        assert other.record.passage[:2] == ("http", THING)


def test_a_key_that_is_another_things_now() -> None:
    """The same bytes on the same connection, and yet somebody else."""
    site = Site()
    one = site.talk(admission=rules(f"allow {THING} all"))
    one.post(PATH)
    site.know(THING, "rotated", {CHANNEL: BOTH})
    site.know(OTHER, KEY, {CHANNEL: BOTH})
    one.post(PATH)
    assert len(site.heard) == 1
    assert [(record.passage.subject, record.status) for record in one.of(RequestRecord)] == [(THING, 202), (OTHER, 403)]


def test_a_key_comes_before_the_rules() -> None:
    refused(401, posted("Authorization: nobodys-key"), nameless(), client="optional", admission=rules())


def test_too_many_connections_of_one_thing() -> None:
    site = Site()
    one = Talk(site, site.access(), shown(), room=False)
    one.post(PATH)
    assert one.refused(503) == "too many connections of this subject"
    assert one.office.counted == [THING]


# --- the order of the answers ----------------------------------------------------------------------------------------

WRONG = {
    "a channel that it is not connected to": (403, f"/http/channels/{STRANGE}/messages", "POST"),
    "a channel that there is not": (404, f"/http/channels/{MISSING}/messages", "POST"),
    "no id": (404, "/http/channels/1/messages", "POST"),
    "an id in upper case": (404, f"/http/channels/{CHANNEL.upper()}/messages", "POST"),
    "an encoded id": (404, f"/http/channels/%61{CHANNEL[1:]}/messages", "POST"),
    "no messages": (404, f"/http/channels/{CHANNEL}", "POST"),
    "other messages": (404, f"/http/channels/{CHANNEL}/messagesx", "POST"),
    "nothing": (404, "/http", "POST"),
    "GET": (405, PATH, "GET"),
    "HEAD": (405, PATH, "HEAD"),
    "PUT": (405, PATH, "PUT"),
    "DELETE": (405, PATH, "DELETE"),
    "OPTIONS": (405, PATH, "OPTIONS"),
    **{
        f"subtopic {bad}": (400, f"{PATH}/{bad}", "POST")
        for bad in ("", "a/", "/a", "a//b", "+", "a/+", "%2B", "%23", "a%23", "a%2Fb", "%ff", "%C0%AF", "%ED%A0%80")
    },
    "subtopic of NUL": (400, f"{PATH}/%00", "POST"),
    "subtopic of dots": (400, f"{PATH}/../messages", "POST"),
    "subtopic too deep": (400, f"{PATH}/{'/'.join('a' * 130)}", "POST"),
    "a Content-Type twice": (400, PATH, "POST"),
}


@pytest.mark.parametrize(("status", "target", "method"), WRONG.values(), ids=WRONG)
def test_what_is_wrong(status: int, target: str, method: str) -> None:
    twice = ("Content-Type: a/b", "Content-Type: a/b") if (target, method) == (PATH, "POST") else ()
    data = request(target, *twice, method=method)
    one = Site().talk()
    one.client(data)
    if method == "HEAD":
        assert message(one.sent(Side.CLIENT)).status == 405
        assert not message(one.sent(Side.CLIENT)).body
    else:
        one.refused(status)
    if status == 405:
        assert message(one.sent(Side.CLIENT)).one("Allow") == "POST"


@pytest.mark.parametrize(("status", "target", "method"), WRONG.values(), ids=WRONG)
def test_nobody_learns_anything_without_a_key(status: int, target: str, method: str) -> None:
    """The answer is the same to the byte for every channel, unless no route has that path."""
    said = set()
    for path in (target, PATH):
        one = Site().talk(nameless(), client="optional")
        one.client(request(path, "Authorization: nobodys-key", method=method))
        said.add(one.sent(Side.CLIENT))
    assert len(said) == 1 or (status == 400 and any(odd in target for odd in ("..", "%00", "//", "%ff", "%C0", "%ED")))


def test_the_right_to_publish_is_needed() -> None:
    refused(403, posted(), site=Site(Rights(subscribe=True)))
    refused(403, posted(), site=Site(Rights()))
    one = Site(Rights(publish=True)).talk()
    one.post(PATH)
    assert answers(one) == [202]


@pytest.mark.parametrize("content_type", ["\xff", "text/plain; \xe4", "x" * (MAX_CONTENT_TYPE + 1)])
def test_a_content_type_that_cannot_be_told(content_type: str) -> None:
    refused(400, posted(f"Content-Type: {content_type}"))


def test_the_registry_is_away() -> None:
    site = Site()
    site.book.lost()
    for call in list(site.later):
        call()
    for tls, settings in ((shown(), {}), (shown(NAMED), {"cn": "id"})):
        one = site.talk(tls, **settings)
        one.post(PATH)
        assert one.refused(503) == "the registry cannot be asked"


def test_no_registry_at_all() -> None:
    site = Site()
    object.__setattr__(site.mqtt, "things", None)
    refused(503, posted(), site=site)


def test_a_listener_that_a_reload_took_away() -> None:
    assert refused(503, posted(), mqtt="gone") == "[mqtt:gone] is not there"


# --- asked anew ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "key", "rights", "enabled"),
    [(401, "rotated", BOTH, True), (401, KEY, BOTH, False), (403, KEY, Rights(), True)],
)
def test_rights_are_asked_anew_for_each_request(status: int, key: str, rights: Rights, enabled: bool) -> None:
    site = Site()
    one = site.talk()
    one.post(PATH)
    site.know(THING, key, {CHANNEL: rights}, enabled=enabled)
    one.post(PATH)
    assert len(site.heard) == 1
    assert one.closed is not None
    assert message(one.closed.farewell).status == status
    assert [record.status for record in one.of(RequestRecord)] == [202, status]


@pytest.mark.parametrize(("status", "key", "rights"), [(401, "rotated", BOTH), (403, KEY, Rights())])
def test_rights_that_are_lost_while_the_body_comes(status: int, key: str, rights: Rights) -> None:
    site = Site()
    one = site.talk()
    data = posted()
    one.client(data[:-1])
    site.know(THING, key, {CHANNEL: rights})
    one.client(data[-1:])
    assert not site.heard
    assert one.failed(status)


def test_another_thing_on_the_same_connection() -> None:
    site = Site()
    one = site.talk(nameless(), client="optional")
    one.post(PATH, f"Authorization: {KEY}")
    one.post(f"/http/channels/{STRANGE}/messages", f"Authorization: {OTHER_KEY}")
    one.post(PATH, f"Authorization: {OTHER_KEY}")
    assert [heard.topic for heard in site.heard] == [TOPIC, f"channels/{STRANGE}/messages"]
    records = one.of(RequestRecord)
    assert [(record.passage.subject, record.status) for record in records] == [(THING, 202), (OTHER, 202), (OTHER, 403)]


# --- the size --------------------------------------------------------------------------------------------------------

ROOM = PACKET - len(TOPIC) - 32


def test_the_largest_message() -> None:
    site = Site()
    for data in (
        posted(body=bytes(ROOM)),
        request(PATH, "Transfer-Encoding: chunked", method="POST", body=chunks(bytes(ROOM))),
    ):
        one = site.talk()
        one.client(data)
        assert answers(one) == [202]
    assert [len(heard.payload) for heard in site.heard] == [ROOM, ROOM]


def test_a_message_that_is_too_large() -> None:
    site = Site()
    refused(413, posted(body=bytes(ROOM + 1)), site=site)
    # What its length says is enough.
    refused(413, posted(body=bytes(ROOM + 1))[: -ROOM - 1], site=site)
    refused(413, request(PATH, f"Content-Length: {10**17}", "Expect: 100-continue", method="POST"), site=site)
    refused(413, posted("Content-Type: text/plain", body=bytes(ROOM)), site=site)
    refused(413, posted(target=f"{PATH}/a", body=bytes(ROOM)), site=site)
    refused(413, request(PATH, "Transfer-Encoding: chunked", method="POST", body=chunks(bytes(ROOM + 1))), site=site)


def test_chunks_that_add_up() -> None:
    site = Site()
    one = site.talk()
    one.client(request(PATH, "Transfer-Encoding: chunked", method="POST"))
    for _ in range(ROOM // 100):
        one.client(b"64\r\n" + bytes(100) + b"\r\n")
    one.client(b"64\r\n" + bytes(100) + b"\r\n")
    assert not site.heard
    assert one.failed(413)


# --- how a body fails ------------------------------------------------------------------------------------------------


def test_chunks_that_are_none() -> None:
    refused(400, request(PATH, "Transfer-Encoding: chunked", method="POST", body=b"x\r\n"))
    one = Site().talk()
    one.client(request(PATH, "Transfer-Encoding: chunked", method="POST"))
    one.client(b"x\r\n")
    assert one.failed(400) == "malformed chunk size"


def test_a_body_that_does_not_come() -> None:
    one = Site().talk()
    one.client(posted()[:-1])
    assert one.deadline == BODY
    one.time_out()
    assert one.failed(408)


def test_a_slow_body_is_given_more_time_only_for_progress() -> None:
    site = Site()
    object.__setattr__(site.mqtt, "max_packet", 100_000)
    one = site.talk()
    one.client(request(PATH, "Content-Length: 10000", method="POST"))
    assert not [one for one in one.client(bytes(4095)) if isinstance(one, SetDeadline)]
    assert SetDeadline(BODY) in one.client(b"x")
    assert not [one for one in one.client(bytes(4095)) if isinstance(one, SetDeadline)]


def test_a_client_that_goes_away() -> None:
    site = Site()
    one = site.talk()
    one.client(posted()[:-1])
    one.lose(Side.CLIENT)
    assert not site.heard
    assert one.record.status == 0
    assert one.record.reason == "the client's connection: it broke"


# --- what the hub says -----------------------------------------------------------------------------------------------


def test_the_answer_waits_for_the_hub() -> None:
    site = Site()
    hub = deferred(site)
    one = site.talk()
    one.post(PATH)
    assert hub.flushed == 1
    assert not one.of(Send)
    assert one.deadline == RESPONSE
    hub.answer(Reason.SUCCESS)
    assert one.sent(Side.CLIENT) == ACCEPTED
    assert one.deadline == KEEPALIVE


def test_nothing_is_read_ahead_of_the_answer() -> None:
    site = Site()
    hub = deferred(site)
    one = site.talk()
    one.post(PATH)
    one.post(PATH)
    assert one.held
    assert len(hub.messages) == 1
    hub.answer(Reason.NO_MATCHING_SUBSCRIBERS)
    assert len(hub.messages) == 2
    assert not one.held
    hub.answer(Reason.SUCCESS)
    assert answers(one) == [202, 202]
    assert [type(one) for one in one.commands if isinstance(one, Hold | Proceed)] == [Hold, Proceed]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (Reason.NOT_AUTHORIZED, 403),
        (Reason.PACKET_TOO_LARGE, 413),
        (Reason.QUOTA_EXCEEDED, 503),
        (Reason.UNSPECIFIED_ERROR, 503),
        (Reason.SERVER_UNAVAILABLE, 503),
    ],
)
def test_the_hub_refuses(code: Reason, status: int) -> None:
    site = Site()
    hub = deferred(site)
    one = site.talk()
    one.post(PATH)
    hub.answer(code)
    assert one.failed(status)


def test_the_hub_is_slow() -> None:
    site = Site()
    hub = deferred(site)
    one = site.talk()
    one.post(PATH)
    one.time_out()
    assert one.failed(504)
    hub.answer(Reason.SUCCESS)


def test_a_client_that_does_not_wait_for_the_answer() -> None:
    site = Site()
    hub = deferred(site)
    one = site.talk()
    one.post(PATH)
    one.lose(Side.CLIENT, orderly=True)
    assert one.record.status == 0
    assert one.record.from_client == 5
    hub.answer(Reason.SUCCESS)


def test_a_shutdown_waits_for_the_answer() -> None:
    site = Site()
    hub = deferred(site)
    one = site.talk()
    one.post(PATH)
    one.tell(ShuttingDown())
    assert one.deadline == GRACE
    hub.answer(Reason.SUCCESS)
    assert one.answered.status == 202
    assert one.answered.one("Connection") == "close"
    assert one.closed is not None


def test_a_shutdown_does_not_wait_for_ever() -> None:
    site = Site()
    deferred(site)
    one = site.talk()
    one.client(posted()[:-1])
    one.tell(ShuttingDown())
    one.client(posted()[-1:])
    assert one.deadline == GRACE
    one.time_out()
    assert one.failed(503)


# --- a reload --------------------------------------------------------------------------------------------------------


def test_after_a_reload_the_new_listener_is_meant() -> None:
    before, after = Site(), Site()
    one = before.talk()
    one.post(PATH)
    one.access = after.access()
    one.post(PATH)
    assert (len(before.heard), len(after.heard)) == (1, 1)
    assert one.closed is not None


def test_the_certificate_expires() -> None:
    site = Site()
    one = site.talk()
    one.post(PATH)
    site.clock.now = NOW + 600
    one.post(PATH)
    assert len(site.heard) == 1
    assert one.closed is not None
    assert message(one.closed.farewell).status == 403
