"""Between a client and a broker: what passes does so to the byte, what may not is answered here, in both directions."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.session.mqtt_link import TOPIC_ALIASES
from gateway.session.mqtt_mediation import _MAX_DUE, _MAX_FILTERS
from gateway.session.vocabulary import HangUp, Send, Side
from gateway.things import Change, topic_of
from gateway.wire import mqtt
from gateway.wire.mqtt_packets import (
    Auth,
    ConnAck,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    Properties,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    Reason,
    Refusal,
    SubAck,
    Subscribe,
    Subscription,
    UnsubAck,
    Unsubscribe,
    Version,
)
from tests import mqtt_packets
from tests.mqtt_sessions import CHANNEL, FOREIGN, TOPIC, V5, V31, V311, Talk, World, alias, broker, parsed, topics

versions = pytest.mark.parametrize("version", [V31, V311, V5])
MINE, DENIED = f"channels/{CHANNEL}/messages/#", topic_of(FOREIGN)
ALL_ALIASES = ConnAck(False, 0, Properties(topic_alias_maximum=TOPIC_ALIASES))


def through(version: Version = V311, answer: ConnAck = ConnAck(), **given: Any) -> Talk:  # noqa: B008 - frozen
    connect: dict[str, Any] = {"properties": Properties(topic_alias_maximum=10)} if version is V5 else {}
    return World(upstream=broker(), **given).through(version=version, answer=answer, **connect)


def publish(qos: int = 0, topic: str = TOPIC, payload: bytes = b"m", packet_id: int = 5, **more: Any) -> Publish:
    return Publish(topic, payload, qos, packet_id=packet_id if qos else 0, **more)


# --- what passes -----------------------------------------------------------------------------------------------------


@versions
def test_what_passes_is_one_write_of_the_very_bytes(version: Version):
    packets: list[Packet] = [
        publish(),
        publish(1),
        publish(2, retain=True),
        PubRel(5),
        PubAck(6),
        PubRec(7),
        PubComp(8),
        Subscribe(9, (Subscription(MINE, 1),)),
        Unsubscribe(10, (MINE,)),
        PingReq(),
        publish(payload=b"x" * 500),
    ]
    talk = through(version)
    data = b"".join(mqtt.serialize(packet, version) for packet in packets)
    before = len(talk.commands)
    talk.client(data)
    assert talk.commands[before:] == [Send(Side.UPSTREAM, data)]
    assert talk.raw_upstream() == data


@pytest.mark.parametrize("version", [V311, V5])
def test_so_it_is_on_the_way_back(version: Version):
    packets: list[Packet] = [
        publish(),
        publish(1, f"{TOPIC}/sub"),
        publish(2, dup=True),
        PubRel(5),
        PubAck(6),
        PubRec(7),
        PubComp(8),
        SubAck(9, (1,)),
        UnsubAck(10, (0,) if version is V5 else ()),
        PingResp(),
    ]
    talk = through(version)
    data = b"".join(mqtt.serialize(packet, version) for packet in packets)
    before = len(talk.commands)
    talk.broker(data)
    assert talk.commands[before:] == [Send(Side.CLIENT, data)]


@given(st.data(), st.sampled_from([V311, V5]), st.lists(st.integers(0, 5000), max_size=6))
@settings(max_examples=150, deadline=None)
def test_whatever_a_client_says_in_whatever_pieces_a_broker_hears_whole_packets_that_it_may_say(
    data: Any, version: Version, cuts: list[int]
):
    """Everything may be said here but what begins with `no`."""
    rules = topics("deny all all no/#", "deny all all no", "allow all all #")
    talk = through(version, topics=rules, drop_denied=True)
    names = st.sampled_from(["yes", "no", "no/x", "yes/no"])
    publishes = st.builds(publish, st.integers(0, 2), names, st.binary(max_size=40), st.integers(1, 9))
    some = data.draw(st.lists(publishes | mqtt_packets.acks(version) | st.just(PingReq()), max_size=12))
    whole = b"".join(mqtt.serialize(packet, version) for packet in some)
    edges = [0, *sorted(cut % (len(whole) + 1) for cut in cuts), len(whole)]
    for start, end in pairwise(edges):
        if start < end:
            talk.client(whole[start:end])
    dropped: set[int] = set()
    expected = []
    for packet in some:
        if isinstance(packet, Publish) and packet.topic.split("/")[0] == "no":
            if packet.qos == 2 and version is not V5:
                dropped.add(packet.packet_id)
        elif isinstance(packet, PubRel) and packet.packet_id in dropped:
            dropped.discard(packet.packet_id)
        else:
            expected.append(packet)
    assert talk.upstream() == expected
    assert not talk.closed


@given(st.sampled_from([V311, V5]), st.binary(max_size=60), st.booleans())
@settings(max_examples=300, deadline=None)
def test_whatever_bytes_come_from_either_side_nothing_breaks(version: Version, data: bytes, from_client: bool):
    """What never may happen, the conversation itself sees to."""
    talk = through(version)
    talk.client(data) if from_client else talk.broker(data)
    if not talk.closed:
        talk.client(b"") if from_client else talk.broker(b"\xff" * 6)


def test_3_1_may_mark_what_it_repeats_and_the_broker_does_not_hear_that():
    """3.1: 2.1; 3.1.1 has no such flag but in PUBLISH."""
    talk = through(V31)
    for packet in (PubRel(5), Subscribe(6, (Subscription(MINE),)), Unsubscribe(7, (MINE,))):
        data = mqtt.serialize(packet, V31)
        talk.client(bytes((data[0] | 8,)) + data[1:])
        assert talk.raw_upstream() == data
    marked = mqtt.serialize(publish(1, dup=True), V31)
    assert talk.client(marked).raw_upstream() == marked


# --- PUBLISH that is denied ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "qos", "drop", "answer", "ends"),
    [
        (V31, 0, False, None, True),
        (V311, 0, False, None, True),
        (V311, 1, False, None, True),
        (V311, 2, False, None, True),
        (V5, 0, False, None, True),
        (V5, 1, False, PubAck(5, Reason.NOT_AUTHORIZED), False),
        (V5, 2, False, PubRec(5, Reason.NOT_AUTHORIZED), False),
        (V31, 0, True, None, False),
        (V31, 1, True, PubAck(5), False),
        (V311, 0, True, None, False),
        (V311, 1, True, PubAck(5), False),
        (V311, 2, True, PubRec(5), False),
        (V5, 0, True, None, False),
        (V5, 1, True, PubAck(5, Reason.NOT_AUTHORIZED), False),
        (V5, 2, True, PubRec(5, Reason.NOT_AUTHORIZED), False),
    ],
)
def test_a_publish_that_is_denied_never_reaches_the_broker(
    version: Version, qos: int, drop: bool, answer: Packet | None, ends: bool
):
    talk = through(version, drop_denied=drop).said(publish(qos, DENIED))
    assert not [one for one in talk.upstream() if isinstance(one, Publish)]
    assert talk.denials == [("publish", DENIED)]
    assert bool(talk.closed) == ends
    if ends:
        assert talk.code == (Reason.NOT_AUTHORIZED if version is V5 else None)
        return
    assert talk.take() == ([answer] if answer else [])
    talk.said(publish(qos))
    assert talk.upstream() == [publish(qos)]


def test_the_pubrel_of_what_was_dropped_is_answered_here():
    talk = through(drop_denied=True).said(publish(2, DENIED), publish(2, packet_id=6))
    talk.said(PubRel(5), PubRel(6))
    assert talk.take() == [PubRec(5), PubComp(5)]
    assert talk.upstream() == [publish(2, packet_id=6), PubRel(6)]
    # Once; the identifier may come again.
    talk.said(publish(2), PubRel(5))
    assert talk.upstream() == [publish(2), PubRel(5)]


def test_in_5_a_refusal_is_the_end_of_it_and_the_identifier_is_free_again():
    """MQTT-4.3.3: after such a PUBREC there is no PUBREL."""
    talk = through(V5).said(publish(2, DENIED), publish(2))
    talk.heard(PubRec(5))
    talk.said(PubRel(5))
    assert talk.upstream() == [publish(2), PubRel(5)]


def test_what_is_dropped_between_others_leaves_those_as_they_were():
    talk = through(drop_denied=True)
    talk.said(publish(payload=b"1"), publish(topic=DENIED), publish(payload=b"2"), publish(1, DENIED), PingReq())
    assert talk.upstream() == [publish(payload=b"1"), publish(payload=b"2"), PingReq()]
    assert talk.take() == [PubAck(5)]


# --- topic aliases of the client -------------------------------------------------------------------------------------


def test_an_alias_is_resolved_before_anybody_decides_and_passes_as_it_is():
    talk = through(V5, ALL_ALIASES)
    some = publish(properties=alias(1)), publish(topic="", payload=b"2", properties=alias(1))
    talk.said(*some)
    assert talk.upstream() == list(some)
    talk.said(publish(1, DENIED, properties=alias(1)), publish(1, "", properties=alias(1)))
    assert talk.upstream() == []
    assert talk.take() == [PubAck(5, Reason.NOT_AUTHORIZED)] * 2


def test_an_alias_that_the_broker_was_not_told_is_spelt_out_once_it_may_be_used():
    here = World(upstream=broker())
    talk = here.through(version=V5, answer=ALL_ALIASES)
    talk.said(publish(1, DENIED, properties=alias(1)))
    here.registry.allow(True, True, channel=FOREIGN)
    here.registry.tell(Change.GROWN)
    talk.said(publish(topic="", properties=alias(1)), publish(topic="", payload=b"2", properties=alias(1)))
    assert talk.upstream() == [
        publish(topic=DENIED, properties=alias(1)),
        publish(topic="", payload=b"2", properties=alias(1)),
    ]


def test_the_brokers_old_meaning_of_an_alias_is_never_used():
    """It was told of TOPIC; then the client means another one, which does not pass."""
    here = World(upstream=broker())
    talk = here.through(version=V5, answer=ALL_ALIASES)
    talk.said(publish(properties=alias(1)), publish(1, DENIED, properties=alias(1)))
    assert talk.upstream() == [publish(properties=alias(1))]
    talk.said(publish(1, "", payload=b"for the other", properties=alias(1)))
    assert talk.upstream() == []
    talk.said(publish(topic=f"{TOPIC}/x", properties=alias(1)), publish(topic="", properties=alias(1)))
    assert talk.upstream() == [publish(topic=f"{TOPIC}/x", properties=alias(1)), publish(topic="", properties=alias(1))]


@pytest.mark.parametrize(
    ("theirs", "used", "code"),
    [
        (0, 1, Reason.TOPIC_ALIAS_INVALID),
        (None, 1, Reason.TOPIC_ALIAS_INVALID),
        (5, 6, Reason.TOPIC_ALIAS_INVALID),
        (5, 5, None),
        (65_535, TOPIC_ALIASES, None),
        (65_535, TOPIC_ALIASES + 1, Reason.TOPIC_ALIAS_INVALID),
    ],
)
def test_as_many_aliases_as_the_broker_takes_and_no_more_than_are_kept_here(
    theirs: int | None, used: int, code: int | None
):
    talk = through(V5, ConnAck(False, 0, Properties(topic_alias_maximum=theirs)))
    assert talk.said(publish(properties=alias(used))).code == code


# --- SUBSCRIBE -------------------------------------------------------------------------------------------------------

REFUSED = {V31: Refusal.SUBSCRIPTION_FAILED, V311: Refusal.SUBSCRIPTION_FAILED, V5: Reason.NOT_AUTHORIZED}


@versions
@pytest.mark.parametrize("allowed", ["", "10", "01", "0110", "1001", "11100", "00000", "01010101"])
def test_a_suback_has_our_codes_and_the_brokers_at_their_places(version: Version, allowed: str):
    allowed = allowed or "1"
    talk = through(version)
    asked = tuple(
        Subscription(f"{TOPIC}/{at}" if one == "1" else f"{DENIED}/{at}", at % 3) for at, one in enumerate(allowed)
    )
    talk.said(Subscribe(3, asked))
    may = tuple(one for one in asked if one.filter.startswith(TOPIC))
    if not may:
        assert talk.upstream() == []
        assert talk.take() == [SubAck(3, (REFUSED[version],) * len(asked))]
        return
    assert talk.upstream() == [Subscribe(3, may)]
    assert talk.take() == []
    talk.heard(SubAck(3, tuple(one.qos for one in may)))
    expected = tuple(one.qos if one in may else REFUSED[version] for one in asked)
    assert talk.take() == [SubAck(3, expected)]


def test_properties_of_a_subscribe_and_a_suback_stay():
    talk = through(V5)
    properties = Properties(subscription_identifiers=(7,), user_properties=(("a", "b"),))
    talk.said(Subscribe(3, (Subscription(DENIED), Subscription(MINE, 1, True, True, 2)), properties))
    assert talk.upstream() == [Subscribe(3, (Subscription(MINE, 1, True, True, 2),), properties)]
    talk.heard(SubAck(3, (Reason.QUOTA_EXCEEDED,), Properties(reason_string="full")))
    codes = (Reason.NOT_AUTHORIZED, Reason.QUOTA_EXCEEDED)
    assert talk.take() == [SubAck(3, codes, Properties(reason_string="full"))]


@pytest.mark.parametrize("codes", [(0,), (0, 0, 0), (0, 0, 0, 0)])
@pytest.mark.parametrize("order", ["denied first", "denied last"])
def test_a_suback_with_the_wrong_number_of_codes_ends_it(codes: tuple[int, ...], order: str):
    talk = through(V5)
    asked = [Subscription(DENIED), Subscription(f"{TOPIC}/1"), Subscription(f"{TOPIC}/2")]
    talk.said(Subscribe(3, tuple(asked if order == "denied first" else reversed(asked))))
    talk.heard(SubAck(3, codes))
    assert talk.code == Reason.SERVER_SHUTTING_DOWN
    assert talk.reason == "the broker's SUBACK has not one code for each subscription"


def test_several_may_wait_for_their_suback_but_not_without_end():
    talk = through(V5)
    pair = (Subscription(DENIED), Subscription(MINE))
    talk.said(*[Subscribe(number, pair) for number in range(1, _MAX_DUE + 1)])
    talk.heard(SubAck(2, (1,)), SubAck(1, (2,)))
    assert talk.take() == [SubAck(2, (Reason.NOT_AUTHORIZED, 1)), SubAck(1, (Reason.NOT_AUTHORIZED, 2))]
    talk.said(Subscribe(201, pair), Subscribe(202, pair))
    assert not talk.closed
    assert talk.said(Subscribe(203, pair)).code == Reason.QUOTA_EXCEEDED


def test_a_share_is_asked_by_the_filter_in_it():
    talk = through(V5).said(Subscribe(3, (Subscription(f"$share/g/{MINE}"), Subscription(f"$share/g/{DENIED}"))))
    assert talk.upstream() == [Subscribe(3, (Subscription(f"$share/g/{MINE}"),))]
    assert talk.denials == [("subscribe", f"$share/g/{DENIED}")]


def test_what_is_subscribed_to_is_known_until_it_is_not():
    talk = through(V5)
    talk.said(Subscribe(1, (Subscription(MINE), Subscription(f"$share/g/{TOPIC}"), Subscription(DENIED))))
    link = talk.link
    assert sorted(link.filters()) == sorted([MINE, TOPIC])
    talk.said(Unsubscribe(2, (f"$share/g/{TOPIC}", "never")))
    assert list(link.filters()) == [MINE]
    assert talk.upstream()[-1] == Unsubscribe(2, (f"$share/g/{TOPIC}", "never"))


@pytest.mark.parametrize(("size", "most"), [(0, _MAX_FILTERS), (60_000, 4)])
def test_what_is_subscribed_to_is_bounded(size: int, most: int):
    """In bytes, too, and whatever is subscribed to again or not any more."""
    long = "x" * size
    talk = through(V5)
    talk.said(*[Subscribe(1, (Subscription(f"{MINE[:-1]}{n}{long}"),)) for n in range(most)] * 2)
    assert not talk.closed
    talk.said(Unsubscribe(2, (f"{MINE[:-1]}0{long}", "never" + long)), Subscribe(3, (Subscription(MINE[:-1] + long),)))
    assert not talk.closed
    talk.said(Subscribe(4, (Subscription(MINE[:-1] + "more" + long),)))
    assert (talk.code, talk.reason) == (Reason.QUOTA_EXCEEDED, "more subscriptions than can be remembered")
    assert len(talk.upstream()) == 2 * most + 2


# --- from the broker -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [V311, V5])
def test_what_a_broker_has_kept_and_the_client_may_not_hear_any_more_is_taken_off_it(version: Version):
    talk = through(version)
    talk.heard(publish(0, DENIED), publish(1, DENIED), publish(2, DENIED, packet_id=6), publish(payload=b"mine"))
    assert talk.take() == [publish(payload=b"mine")]
    assert talk.upstream() == [PubAck(5), PubRec(6)]
    talk.heard(PubRel(6), PubRel(7))
    assert talk.take() == [PubRel(7)]
    assert talk.upstream() == [PubComp(6)]
    talk.heard(PubRel(6))
    assert talk.take() == [PubRel(6)]


def test_the_registry_is_asked_once_for_a_topic_in_each_direction():
    here = World(upstream=broker())
    talk = here.through()
    for _ in range(3):
        talk.heard(publish(), publish(1), publish(2, packet_id=7))
        talk.said(publish(), publish(1))
    assert here.registry.asked == [CHANNEL] * 2


def test_an_alias_of_the_brokers_is_resolved_before_anybody_decides():
    talk = through(V5)
    some = publish(properties=alias(1)), publish(topic="", payload=b"2", properties=alias(1))
    talk.heard(*some)
    assert talk.take() == list(some)
    talk.heard(publish(topic=DENIED, properties=alias(1)), publish(1, "", properties=alias(1)))
    assert talk.take() == []
    assert talk.upstream() == [PubAck(5)]


def test_an_alias_that_the_client_was_not_told_is_spelt_out_once_it_may_hear_it():
    here = World(upstream=broker(), topics=topics("allow all all a"))
    talk = here.through(version=V5, properties=Properties(topic_alias_maximum=10))
    talk.heard(publish(topic="b", properties=alias(1)))
    here.reload(topics=topics("allow all all b"))
    talk.heard(publish(topic="", properties=alias(1)), publish(topic="", payload=b"2", properties=alias(1)))
    assert talk.take() == [
        publish(topic="b", properties=alias(1)),
        publish(topic="", payload=b"2", properties=alias(1)),
    ]


@pytest.mark.parametrize(
    ("asked", "packet"),
    [
        (None, publish(properties=alias(1))),
        (10, publish(properties=alias(11))),
        (10, publish(topic="", properties=alias(1))),
        (65_535, publish(properties=alias(TOPIC_ALIASES + 1))),
    ],
)
def test_an_alias_that_the_client_has_not_allowed_ends_it(asked: int | None, packet: Publish):
    talk = World(upstream=broker()).through(version=V5, properties=Properties(topic_alias_maximum=asked))
    talk.heard(packet)
    assert talk.reason == "the broker used a topic alias that it may not use"
    assert [type(one) for one in talk.take()] == [Disconnect]


@pytest.mark.parametrize(
    ("version", "packet"),
    [
        (V311, ConnAck()),
        (V5, ConnAck()),
        (V5, Auth()),
        (V311, Subscribe(1, (Subscription("#"),))),
        (V5, Unsubscribe(1, ("#",))),
        (V311, PingReq()),
        (V311, Disconnect()),
    ],
)
def test_what_no_broker_says_ends_it_and_is_not_passed_on(version: Version, packet: Packet):
    talk = through(version).heard(PingResp(), packet, PingResp())
    assert talk.reason == f"{type(packet).__name__} from the broker"
    assert talk.code == (Reason.SERVER_SHUTTING_DOWN if version is V5 else None)
    assert not [one for one in talk.take() if type(one) is type(packet) and version is not V5]


@pytest.mark.parametrize(
    "data", [b"\x00\x00", b"\x30\xff\xff\xff\x7f", b"\xff\xff\xff\xff\xff", b"\x10\x00", b"\x36\x00"]
)
def test_a_broker_that_says_nothing_that_is_mqtt(data: bytes):
    talk = through(V5).broker(data)
    assert talk.reason.startswith("the broker: ")
    assert talk.code == Reason.SERVER_SHUTTING_DOWN


def test_a_packet_of_the_brokers_that_is_larger_than_any_client_was_promised():
    talk = through(V5, max_packet=1024).heard(publish(payload=b"x" * 1100))
    assert talk.reason == "the broker: a packet is larger than it may be"


def test_the_brokers_goodbye_is_passed_on_but_not_where_else_it_could_go():
    properties = Properties(reason_string="moved", server_reference="10.0.0.9")
    talk = through(V5).heard(publish(), Disconnect(Reason.USE_ANOTHER_SERVER, properties), publish())
    assert talk.take() == [publish(), Disconnect(Reason.USE_ANOTHER_SERVER, Properties(reason_string="moved"))]
    assert talk.reason == f"the broker has ended it with code {Reason.USE_ANOTHER_SERVER.value}"
    assert talk.code is None


# --- the end ---------------------------------------------------------------------------------------------------------


def test_nothing_is_said_to_the_broker_of_a_client_that_broke_the_rules_but_goodbye():
    """Whoever has no right has no last word either."""
    talk = through(V5).said(publish(topic=DENIED))
    before = parsed(b"".join(one.data for one in talk.of(Send) if one.side is Side.UPSTREAM)[-2:], V5)
    assert before == [Disconnect()]
    assert talk.of(HangUp) == [HangUp(orderly=True)]
