"""What is remembered and what is not: new rules at the next request, and heads that come again."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.session.http_heads import known_request, known_response
from gateway.session.vocabulary import Close, Dialed, Passage, RequestRecord, Reuse, Side
from tests.http_sessions import (
    CA,
    FIRST,
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
from tests.pki import issue

OTHER = "another-key"
GET = request("/a", f"Authorization: {KEY}")


def served(one: Conversation, data: bytes = GET) -> Conversation:
    """One more request, and its answer."""
    one.client(data)
    one.tell(Dialed())
    one.upstream(sized())
    return one


def last_status(one: Conversation) -> int:
    assert one.closed is not None
    return message(one.closed.farewell).status


# --- a reload ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [GET, request("/b"), request("/a", method="DELETE")])
@pytest.mark.parametrize(
    "settings", [{"admission": talk("deny all all").access.routes.routes[0].admission}, {"path": "/elsewhere"}]
)
def test_new_rules_at_the_next_request(data: bytes, settings: dict[str, Any]) -> None:
    """Of a head that comes again, too."""
    one = served(Conversation())
    one.access = access(route(**settings))
    one.client(data)
    assert last_status(one) == (403 if "admission" in settings else 404)
    assert one.dials == [FIRST]


@pytest.mark.parametrize(
    ("settings", "authorization"),
    [({"cn": "id"}, KEY), ({"schemes": frozenset({b"thing"})}, None), ({"send_scheme": b"Thing"}, f"Thing {KEY}")],
)
def test_new_settings_at_the_next_request(settings: dict[str, Any], authorization: str | None) -> None:
    # With an id the common name is no secret.
    one = served(Conversation(secrets=()))
    one.access = access(route(**settings))
    one.client(GET)
    if authorization is None:
        assert last_status(one) == 403
        return
    one.tell(Dialed())
    assert message(one.of_upstream()[-1]).all("Authorization") == [authorization]


def test_the_connection_ends_with_the_first_answer_under_new_rules() -> None:
    """So its client comes back and is asked for its certificate under the new trust."""
    one = served(Conversation())
    assert one.answered.one("Connection") is None
    one.access = access(route())
    one.client(GET + GET)
    one.tell(Dialed())
    one.upstream(sized())
    assert message(one.sent(Side.CLIENT).removeprefix(sized())).one("Connection") == "close"
    assert one.closed == Close("the last answer was given")
    assert len(one.of(RequestRecord)) == 2


def test_a_request_that_has_begun_is_finished_under_the_rules_it_began_with() -> None:
    one = Conversation().ask(GET)
    one.access = access(route("deny all all"))
    one.upstream(sized())
    assert one.answered.status == 200
    assert one.closed is None
    one.client(GET)
    assert last_status(one) == 403


def test_a_reload_before_the_first_request() -> None:
    one = Conversation()
    one.access = access(route("deny all all"))
    one.client(GET)
    one.refused(403)


def test_a_reload_may_move_the_upstream() -> None:
    one = served(Conversation())
    one.access = access(route(upstream=upstream(SECOND), client_cert=False))
    one.client(GET)
    one.tell(Dialed())
    assert one.dials == [FIRST, SECOND]
    assert message(one.of_upstream()[-1]).one("Client-Cert") is None


def test_the_same_rules_read_again_are_new_ones() -> None:
    """Whether they differ, nobody needs to know: the trust may."""
    one = Conversation()
    one.access = access(*one.access.routes.routes)
    one.ask(GET)
    one.upstream(sized())
    assert one.closed is not None


# --- who is not trusted any more --------------------------------------------------------------------------------------

UPGRADE = request(
    "/a",
    f"Authorization: {KEY}",
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


@pytest.mark.parametrize("data", [GET, UPGRADE, GET * 3, request("/b", "Content-Length: 1", method="POST", body=b"x")])
@pytest.mark.parametrize("served_before", [0, 1])
def test_a_client_that_is_not_trusted_any_more(served_before: int, data: bytes) -> None:
    """Although the rules are the same; also where an idle connection to the upstream waits, and for a known head."""
    settings = route(websocket=True)
    one = Conversation(access(settings), house=House(*[FIRST] * 5))
    for _ in range(served_before):
        one.client(GET)
        one.upstream(sized())
    one.access = access(settings)
    one.house.trusts = False
    sent = one.sent(Side.UPSTREAM)
    reused = len(one.of(Reuse))
    one.client(data)
    assert last_status(one) == 403
    assert one.dials == []
    assert len(one.of(Reuse)) == reused
    assert one.sent(Side.UPSTREAM) == sent
    assert [record.status for record in one.of(RequestRecord)] == [200] * served_before + [403]


def test_the_record_of_such_a_refusal() -> None:
    """It tells what was asked for now, and of who asked; nothing that an earlier request was let in by."""
    one = served(Conversation())
    before = one.of(RequestRecord)[0].passage
    assert (before.route, before.rule) != (None, None)
    one.access = access(route())
    one.house.trusts = False
    one.client(request("/b", method="DELETE"))
    record = one.of(RequestRecord)[-1]
    assert (record.decision, record.reason) == ("refused", "the client certificate is not trusted any more")
    assert (record.asked.method, record.asked.path) == ("DELETE", "/b")
    assert record.passage == Passage(subject=before.subject, serial=before.serial)


def test_trust_is_asked_about_only_after_a_reload() -> None:
    one = served(Conversation())
    one.house.trusts = False
    served(one)
    assert one.closed is None
    assert len(one.dials) == 2


def test_who_is_still_trusted_gets_one_more_answer() -> None:
    one = served(Conversation())
    one.access = access(route())
    served(one)
    assert len(one.dials) == 2
    assert one.closed == Close("the last answer was given")


# --- heads that come again --------------------------------------------------------------------------------------------


def test_the_same_head_is_answered_for_by_the_same_decision() -> None:
    one = Conversation()
    for _ in range(3):
        served(one)
    first, second, third = one.of_upstream()
    assert first == second == third
    records = one.of(RequestRecord)
    assert len({(record.asked, record.passage, record.status) for record in records}) == 1
    assert len(one.house.counted) == 1


def test_the_same_head_with_another_body() -> None:
    one = Conversation()
    head = request("/a", "Content-Length: 3", method="POST")
    for body in (b"abc", b"def"):
        served(one, head + body)
        assert message(one.of_upstream()[-1]).body == body


def test_the_same_head_under_another_certificate() -> None:
    """Each connection decides for itself, whatever another one was told."""
    served(Conversation())
    for tls in (shown(issue(CA, OTHER)), nameless(), shown(METER)):
        one = Conversation(tls=tls)
        one.client(GET)
        one.refused(403)
    served(Conversation())


def test_the_same_head_without_a_key_is_filled_from_each_certificate() -> None:
    for key in (KEY, OTHER, KEY):
        one = Conversation(tls=shown(issue(CA, key)), secrets=(KEY, OTHER))
        served(one, request("/a"))
        assert one.asked.all("Authorization") == [key]


def test_the_same_head_of_another_listener() -> None:
    served(Conversation())
    one = talk("deny all all")
    one.client(GET)
    one.refused(403)


def test_the_same_head_for_another_name_in_tls() -> None:
    served(Conversation(tls=shown(server_name="gw.example")))
    one = Conversation(tls=shown(server_name="other.example"))
    one.client(GET)
    one.refused(421)


def test_the_same_head_after_expiry() -> None:
    one = served(served(Conversation()))
    one.clock.now += 600
    one.client(GET)
    assert last_status(one) == 403
    assert one.of(RequestRecord)[-1].reason == "the client certificate has expired"
    assert len(one.dials) == 2


def test_the_same_head_after_another_one() -> None:
    """Nothing of the one in between is left over."""
    one = Conversation()
    data = [GET, request("/b", "X-Mine: 1", method="DELETE"), GET]
    for each in data:
        served(one, each)
    first, between, again = one.of_upstream()
    assert first == again != between
    assert [record.asked.path for record in one.of(RequestRecord)] == ["/a", "/b", "/a"]


def test_heads_that_differ_a_little_are_different_ones() -> None:
    one = Conversation(secrets=())
    served(one)
    one.client(request("/a", f"Authorization: {KEY[:-1]}x"))
    assert last_status(one) == 403


def test_a_head_that_is_too_long_to_be_remembered() -> None:
    long = request("/a", "X-Long: " + "a" * 3_000)
    one = Conversation()
    served(served(one, long), long)
    first, second = one.of_upstream()
    assert first == second
    one.clock.now += 600
    one.client(long)
    assert last_status(one) == 403


def test_what_is_remembered_is_bounded() -> None:
    """Few heads, and short ones."""
    short, long = request("/short"), request("/", "X-Long: " + "a" * 2_048)
    assert known_request(short) is known_request(short)
    assert known_request(long) is not known_request(long)
    first = known_request(short)
    for n in range(512):
        known_request(request(f"/{n}"))
    assert known_request(short) is not first
    assert known_response(response(body=b"")) is known_response(response(body=b""))
    long = response("200 OK", "X-Long: " + "a" * 2_048)
    assert known_response(long) is not known_response(long)


def test_the_same_answer_to_other_clients() -> None:
    """An upstream's head is remembered, too: what was made of it depends on the request."""
    told = []
    for lines, version in (((), "1.1"), (("Connection: close",), "1.1"), (("Connection: keep-alive",), "1.0")):
        one = Conversation().ask(request("/", *lines, version=version))
        one.upstream(sized())
        told.append(one.answered.one("Connection"))
    assert told == [None, "close", "keep-alive"]
    for method, body in (("HEAD", b""), ("GET", b"ok"), ("HEAD", b"")):
        one = Conversation().ask(request(method=method))
        one.upstream(sized()[: None if body else -2])
        assert one.answered.body == body
        assert one.closed is None


def test_a_house_that_is_full_counts_each_connection() -> None:
    house = House()
    served(Conversation(house=house))
    house.room = False
    one = Conversation(house=house)
    one.client(GET)
    assert one.refused(503) == "too many connections of this subject"
    assert len(house.counted) == 2
