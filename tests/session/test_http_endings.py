"""How an operator, a reload and the registry end an HTTPS connection, in each of its states; and whom they leave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from gateway.registry.book import Changes
from gateway.session.vocabulary import (
    Close,
    Dialed,
    Ended,
    Event,
    Killed,
    Reloaded,
    RequestRecord,
    Sniffed,
    TLSFacts,
)
from gateway.upstream import TLSMode
from gateway.wire.mqtt_packets import PingReq, SubAck
from tests.channels import (
    ACCEPT,
    BROKER,
    NAMED,
    OPENING,
    OTHER,
    OTHER_KEY,
    THING,
    TOPIC,
    Site,
    Talk,
    answers,
    brokers,
)
from tests.client_frames import BINARY, CLOSE, TEXT, frame
from tests.http_sessions import (
    FIRST,
    KEY,
    METER,
    Conversation,
    access,
    message,
    nameless,
    request,
    response,
    route,
    shown,
    sized,
    upstream,
)
from tests.session.test_websocket_mqtt import connected, sent

KILL = Killed("killed by an operator")
NOT_TRUSTED = "the client certificate is not trusted any more"
DISABLED = "denied: the thing is disabled"
GET = request("/a", f"Authorization: {KEY}")
AGREED = response(
    "101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket", f"Sec-WebSocket-Accept: {ACCEPT}"
)


def over_tls() -> Conversation:
    return Conversation(access(route(upstream=upstream(mode=TLSMode.REQUIRE))))


def asked(one: Conversation | None = None) -> Conversation:
    return (one or Conversation()).ask(GET)


def begun() -> Conversation:
    """Half of an answer is on its way."""
    one = asked()
    one.upstream(sized(b"0123456789")[:-4])
    return one


def idle() -> Conversation:
    one = asked()
    one.upstream(sized())
    return one


def half_a_head() -> Conversation:
    one = idle()
    one.client(GET[:20])
    return one


def spliced(one: Conversation | None = None) -> Conversation:
    one = one or Conversation(access(route(websocket=True)))
    one.ask(request("/a", f"Authorization: {KEY}", *OPENING))
    one.upstream(AGREED)
    assert one.spliced
    return one


def dialing(one: Conversation | None = None) -> Conversation:
    one = one or Conversation()
    one.client(GET)
    return one


def securing() -> Conversation:
    one = dialing(over_tls())
    one.tell(Dialed())
    return one


def early(*events: Event) -> Conversation:
    one = Conversation(secured=False)
    for event in events:
        one.tell(event)
    return one


def parted(one: Conversation, code: int, words: str) -> str:
    """The true reason; the client has got a Close frame with that code and these words."""
    assert one.closed is not None
    assert one.closed.farewell == bytes((0x88, 2 + len(words))) + code.to_bytes(2) + words.encode()
    return one.closed.reason


# --- killed -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [early, lambda: early(Sniffed(b"\x16")), Conversation, idle, half_a_head])
def test_killed_between_requests(at: Callable[[], Conversation]) -> None:
    """Nothing was asked for, so nothing is answered."""
    one = at()
    before = len(one.of(RequestRecord))
    one.tell(KILL)
    assert one.closed == Close(KILL.reason, audited=True)
    assert len(one.of(RequestRecord)) == before


@pytest.mark.parametrize("at", [dialing, securing, asked])
def test_killed_before_the_answer(at: Callable[[], Conversation]) -> None:
    one = at()
    one.tell(KILL)
    assert one.failed(503) == KILL.reason
    assert one.answered.said["error"] == "ended by an administrator"


def test_killed_in_the_middle_of_the_answer() -> None:
    """What the client has got must not look complete."""
    one = begun()
    one.tell(KILL)
    assert one.closed == Close(KILL.reason, broken=True)
    assert (one.record.status, one.record.reason) == (200, KILL.reason)


def test_a_websocket_of_an_upstreams_is_killed() -> None:
    one = spliced()
    one.tell(KILL)
    assert parted(one, 1008, "ended by an administrator") == KILL.reason


def test_a_channel_is_killed() -> None:
    one = channel()
    one.tell(KILL)
    assert one.parted(1008) == KILL.reason
    assert not one.site.book._watches


def test_what_a_connection_has_moved() -> None:
    """As far as it is a WebSocket of ours; the records of requests tell of theirs."""
    assert idle().session.moved() == spliced().session.moved() == (0, 0)
    one = channel()
    data = frame(TEXT, b"hello")
    one.client(data)
    assert one.session.moved() == (len(data), 7)
    one = connected()
    before = one.session.moved()
    one.client(sent(PingReq()))
    assert one.session.moved() == (before[0] + 2, before[1] + 2)


def test_mqtt_over_a_websocket_is_killed() -> None:
    one = connected()
    one.tell(KILL)
    assert one.frames[-2] == (BINARY, bytes((0xE0, 1, 0x98)))
    assert one.parted(1008) == KILL.reason


def channel(site: Site | None = None) -> Talk:
    one = (site or Site()).talk()
    one.open()
    assert answers(one) == [101]
    return one


@pytest.mark.parametrize("loggedin", [False, True])
def test_a_channel_on_its_way_to_a_broker_is_killed(loggedin: bool) -> None:
    one = Site(broker=brokers()).talk()
    one.open()
    if loggedin:
        one.log_in()
    one.tell(KILL)
    assert one.failed(503) == KILL.reason
    assert not one.site.book._watches


def test_a_post_is_killed() -> None:
    one = Site(broker=brokers()).talk()
    one.post(f"/http/{TOPIC}")
    assert one.dials == [BROKER]
    one.tell(KILL)
    assert one.failed(503) == KILL.reason


# --- a certificate that is not trusted any more -----------------------------------------------------------------------

EVERYWHERE = [Conversation, idle, half_a_head, dialing, securing, asked, begun, spliced]


def distrust(one: Conversation) -> None:
    one.house.trusts = False
    one.tell(Reloaded())


@pytest.mark.parametrize("at", EVERYWHERE)
def test_who_is_trusted_stays(at: Callable[[], Conversation]) -> None:
    one = at()
    assert one.tell(Reloaded()) == []
    assert one.closed is None


@pytest.mark.parametrize("events", [[], [Sniffed(b"\x16")]])
def test_before_the_end_of_the_handshake_that_is_the_drivers(events: Sequence[Event]) -> None:
    one = early(*events)
    distrust(one)
    assert one.closed is None


@pytest.mark.parametrize("at", [Conversation, idle])
def test_between_two_requests(at: Callable[[], Conversation]) -> None:
    one = at()
    distrust(one)
    assert one.closed == Close(NOT_TRUSTED, audited=True)


def test_in_a_head() -> None:
    """The record says who it was, as far as that is known."""
    one = half_a_head()
    distrust(one)
    record = one.of(RequestRecord)[-1]
    assert (record.status, record.reason, record.decision) == (403, NOT_TRUSTED, "refused")
    assert record.passage.serial == one.of(RequestRecord)[0].passage.serial is not None
    assert one.closed is not None
    assert message(one.closed.farewell).status == 403


@pytest.mark.parametrize("at", [dialing, securing, asked])
def test_before_the_answer(at: Callable[[], Conversation]) -> None:
    one = at()
    distrust(one)
    assert one.failed(403) == NOT_TRUSTED


def test_in_the_middle_of_the_answer() -> None:
    one = begun()
    distrust(one)
    assert one.closed == Close(NOT_TRUSTED, broken=True)


def test_a_websocket_of_an_upstreams() -> None:
    one = spliced()
    distrust(one)
    assert parted(one, 1008, NOT_TRUSTED) == NOT_TRUSTED


def test_a_channel_at_once() -> None:
    """Not only when something moves."""
    site = Site()
    one = channel(site)
    one.access = site.access()
    distrust(one)
    assert one.parted(1008) == NOT_TRUSTED
    assert not site.book._watches


def test_mqtt_over_a_websocket_at_once() -> None:
    site = Site()
    one = connected(site)
    one.access = site.access()
    distrust(one)
    assert one.frames[-2] == (BINARY, bytes((0xE0, 1, 0x87)))
    assert one.parted(1008) == NOT_TRUSTED


def test_sockets_that_may_stay() -> None:
    site = Site()
    for one, data in ((channel(site), frame(TEXT, b"x")), (connected(site), sent(PingReq()))):
        one.access = site.access()
        one.tell(Reloaded())
        one.client(data)
        assert one.closed is None
        assert one.frames[-1][0] != CLOSE


def test_a_rule_that_has_changed_ends_a_channel_at_once() -> None:
    site = Site()
    one = channel(site)
    one.access = site.access(admission=route("deny all all").admission)
    one.tell(Reloaded())
    assert one.parted(1008) == "denied: rules:1: deny all all"


@pytest.mark.parametrize("trusted", [False, True])
def test_a_reload_while_a_broker_is_asked(trusted: bool) -> None:
    """Who opens under the rules of before is asked once more when it is open."""
    site = Site(broker=brokers())
    one = site.talk()
    one.open()
    one.access = site.access(admission=route(*(() if trusted else ("deny all all",))).admission)
    one.tell(Reloaded())
    assert one.closed is None
    one.log_in()
    one.broker(SubAck(1, (0,)))
    if trusted:
        assert one.closed is None
        assert one.frames == []
    else:
        assert one.parted(1008) == "denied: rules:1: deny all all"


# --- a thing that is disabled, where an upstream decides --------------------------------------------------------------


def at(site: Site, tls: TLSFacts | None = None, **settings: Any) -> Talk:
    """To the upstream of a route that things use."""
    settings.setdefault("websocket", True)
    return Talk(site, replace(access(route(**settings)), things=site.book), tls or shown())


def test_a_thing_that_is_disabled_is_refused() -> None:
    site = Site()
    site.know(THING, KEY, {}, enabled=False)
    one = at(site)
    one.client(GET)
    assert one.refused(403) == DISABLED
    assert one.record.passage.route == "main"
    assert not site.book._watches


@pytest.mark.parametrize("tls", [shown(METER), nameless(), shown()])
def test_whom_the_registry_does_not_know_it_does_not_refuse(tls: TLSFacts) -> None:
    """Nor whom the route does not look at."""
    site = Site()
    client = "required" if tls == shown(METER) else "optional" if tls == nameless() else "none"
    if client == "none":
        site.know(THING, KEY, {}, enabled=False)
    one = at(site, tls, client=client)
    one.ask(request("/a"))
    one.upstream(sized())
    assert answers(one) == [200]
    assert one.tell(Reloaded()) == []
    assert not site.book._watches


def test_a_head_that_comes_again_is_asked_about_again() -> None:
    """Also of a key that was nobody's when it came first."""
    site = Site()
    one = at(site, shown(METER))
    data = request("/a")
    one.ask(data)
    one.upstream(sized())
    site.know(OTHER, "meter-7", {}, enabled=False)
    one.client(data)
    assert one.of(RequestRecord)[-1].status == 403
    assert one.of(RequestRecord)[-1].reason == DISABLED
    assert one.dials == [FIRST]


@pytest.mark.parametrize("state", ["idle", "asked", "begun", "spliced"])
@pytest.mark.parametrize("how", ["disabled", "another key", "deleted"])
def test_what_happens_to_a_thing_meanwhile(state: str, how: str) -> None:
    site = Site()
    one = at(site)
    if state == "spliced":
        spliced(one)
    else:
        asked(one)
        one.upstream({"idle": sized(), "begun": sized(b"0123456789")[:-4], "asked": b""}[state])
    assert one.closed is None
    match how:
        case "disabled":
            site.know(THING, KEY, {}, enabled=False)
        case "another key":
            site.know(THING, "a-new-key-0001", {})
        case "deleted":
            site.book.apply(Changes({THING: None}, {}))
    reason = DISABLED if how == "disabled" else "denied: the thing was deleted or given another key"
    if state == "asked":
        assert one.failed(403) == reason
    elif state == "spliced":
        assert parted(one, 1008, "forbidden") == reason
        one.tell(Ended())
    else:
        assert one.closed == Close(reason, broken=state == "begun", audited=state == "idle")
    assert not site.book._watches


def test_rights_in_channels_are_not_what_it_is_about() -> None:
    site = Site()
    one = spliced(at(site))
    site.know(THING, KEY, {})
    site.know(OTHER, OTHER_KEY, {}, enabled=False)
    assert one.closed is None


@pytest.mark.parametrize("state", ["new", "idle", "spliced"])
def test_a_registry_that_cannot_be_asked(state: str) -> None:
    """Nobody can say who was disabled meanwhile: whoever keeps the registry away takes back nothing."""
    site = Site()
    one = at(site)
    if state == "spliced":
        spliced(one)
    elif state == "idle":
        asked(one).upstream(sized())
    site.book.lost()
    site.later[-1]()
    if state == "spliced":
        assert parted(one, 1013, "not available at present, try again later") == "the registry cannot be asked"
    elif state == "idle":
        assert one.closed == Close("the registry cannot be asked", audited=True)
    else:
        one.client(GET)
        assert one.refused(503) == "the registry cannot be asked"


def test_without_a_key_in_the_certificate_and_a_registry_that_cannot_be_asked() -> None:
    """Such a name could be no thing's."""
    site = Site()
    site.book.lost()
    site.later[-1]()
    one = at(site, shown(METER), cn="id")
    one.ask(request("/a"))


def test_a_certificate_that_names_the_thing_by_its_id() -> None:
    site = Site()
    one = spliced(at(site, shown(NAMED), cn="id"))
    site.know(THING, KEY, {}, enabled=False)
    assert parted(one, 1008, "forbidden") == DISABLED


def test_the_same_connection_as_two_of_them() -> None:
    """By its key at one route, by its name at another."""
    site = Site()
    site.know(OTHER, THING, {})
    current = access(route(name="a", path="/a"), route(name="b", path="/b", cn="id"))
    one = Talk(site, replace(current, things=site.book), shown(NAMED))
    for path in ("/a", "/b", "/a"):
        one.client(request(path))
        one.tell(Dialed())
        one.upstream(sized())
    assert set(site.book._watches) == {THING, OTHER}
    site.know(OTHER, THING, {}, enabled=False)
    assert one.closed == Close(DISABLED, audited=True)
    assert not site.book._watches
