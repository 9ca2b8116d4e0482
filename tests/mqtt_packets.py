"""Random MQTT packets for hypothesis: every type, in every version, with everything that it may have.

Says on its own what each packet may have, so that a mistake in the grammar's tables shows.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from gateway.wire.mqtt_packets import (
    NOTHING,
    Auth,
    ConnAck,
    Connect,
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
    SubAck,
    Subscribe,
    Subscription,
    UnsubAck,
    Unsubscribe,
    Version,
    Will,
)

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
binaries = st.binary(max_size=12)
shorts, longs = st.integers(0, 0xFFFF), st.integers(0, 0xFFFF_FFFF)
packet_ids = st.integers(1, 0xFFFF)
flags = st.integers(0, 1)

_levels = st.text(st.characters(codec="utf-8", exclude_characters="\0/+#"), max_size=5)
names = st.lists(_levels, min_size=1, max_size=5).map("/".join).filter(bool)
plain_filters = st.builds(
    lambda levels, last: "/".join(levels + last),
    st.lists(_levels | st.just("+"), min_size=1, max_size=4),
    st.sampled_from([[], ["#"]]),
).filter(lambda text: text and not text.startswith("$share/")) | st.just("#")
shares = st.builds("$share/{}/{}".format, _levels.filter(bool), plain_filters)
filters = plain_filters | shares

_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "payload_format": flags,
    "message_expiry": longs,
    "content_type": texts,
    "response_topic": names,
    "correlation_data": binaries,
    "subscription_identifiers": st.lists(st.integers(1, 268_435_455), min_size=1, max_size=3).map(tuple),
    "session_expiry": longs,
    "assigned_client_identifier": texts,
    "server_keep_alive": shorts,
    "authentication_method": texts,
    "authentication_data": binaries,
    "request_problem_information": flags,
    "will_delay": longs,
    "request_response_information": flags,
    "response_information": texts,
    "server_reference": texts,
    "reason_string": texts,
    "receive_maximum": st.integers(1, 0xFFFF),
    "topic_alias_maximum": shorts,
    "topic_alias": st.integers(1, 0xFFFF),
    "maximum_qos": flags,
    "retain_available": flags,
    "user_properties": st.lists(st.tuples(texts, texts), min_size=1, max_size=3).map(tuple),
    "maximum_packet_size": st.integers(1, 0xFFFF_FFFF),
    "wildcard_subscription_available": flags,
    "subscription_identifier_available": flags,
    "shared_subscription_available": flags,
}

# As the sections of the standard list them: 3.1.2.11, 3.1.3.2, 3.2.2.3, 3.3.2.3 …
OF_CONNECT = [
    "session_expiry",
    "receive_maximum",
    "maximum_packet_size",
    "topic_alias_maximum",
    "request_response_information",
    "request_problem_information",
    "user_properties",
    "authentication_method",
    "authentication_data",
]
OF_WILL = [
    "will_delay",
    "payload_format",
    "message_expiry",
    "content_type",
    "response_topic",
    "correlation_data",
    "user_properties",
]
OF_CONNACK = [
    "session_expiry",
    "receive_maximum",
    "maximum_qos",
    "retain_available",
    "maximum_packet_size",
    "assigned_client_identifier",
    "topic_alias_maximum",
    "reason_string",
    "user_properties",
    "wildcard_subscription_available",
    "subscription_identifier_available",
    "shared_subscription_available",
    "server_keep_alive",
    "response_information",
    "server_reference",
    "authentication_method",
    "authentication_data",
]
OF_PUBLISH = [
    "payload_format",
    "message_expiry",
    "topic_alias",
    "response_topic",
    "correlation_data",
    "user_properties",
    "subscription_identifiers",
    "content_type",
]
OF_REASON = ["reason_string", "user_properties"]
OF_SUBSCRIBE = ["subscription_identifiers", "user_properties"]
OF_UNSUBSCRIBE = ["user_properties"]
OF_DISCONNECT = ["session_expiry", "reason_string", "user_properties", "server_reference"]
OF_AUTH = ["authentication_method", "authentication_data", "reason_string", "user_properties"]

CONNACK_CODES = [0, *range(0x80, 0x8B), 0x8C, 0x90, 0x95, 0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F]
PUBACK_CODES = [0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]
PUBREL_CODES = [0, 0x92]
SUBACK_CODES = [0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2]
UNSUBACK_CODES = [0, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91]
# 0x8C is not in the table of 3.14.2.1, but in that of 2.4.
DISCONNECT_CODES = [
    *(0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96),
    *(0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2),
]
AUTH_CODES = [0, 0x18, 0x19]


def properties(names_of: list[str]) -> st.SearchStrategy[Properties]:
    some = st.fixed_dictionaries({}, optional={name: _VALUES[name] for name in names_of})
    return st.just(NOTHING) | some.map(lambda values: Properties(**values) if values else NOTHING)


def _with_method(properties_of: Properties) -> bool:
    return properties_of.authentication_data is None or properties_of.authentication_method is not None


def _if_5(version: Version, names_of: list[str]) -> st.SearchStrategy[Properties]:
    return properties(names_of) if version is Version.V5 else st.just(NOTHING)


def wills(version: Version) -> st.SearchStrategy[Will]:
    return st.builds(Will, names, binaries, st.integers(0, 2), st.booleans(), _if_5(version, OF_WILL))


def connects(version: Version) -> st.SearchStrategy[Connect]:
    users = st.tuples(st.none() | texts, st.none() | binaries)
    if version is not Version.V5:
        users = users.filter(lambda user: user[0] is not None or user[1] is None)
    given = _if_5(version, OF_CONNECT).filter(_with_method)
    will = st.none() | wills(version)
    return users.flatmap(
        lambda user: st.builds(
            Connect, st.just(version), texts, st.booleans(), shorts, st.just(user[0]), st.just(user[1]), will, given
        )
    )


def _publish(topic: str, payload: bytes, qos: int, more: tuple[bool, bool, int], given: Properties) -> Publish:
    retain, dup, packet_id = more
    if given.topic_alias is not None and packet_id % 2:
        topic = ""
    return Publish(topic, payload, qos, retain, dup and qos > 0, packet_id if qos else 0, given)


def publishes(version: Version) -> st.SearchStrategy[Publish]:
    more = st.tuples(st.booleans(), st.booleans(), packet_ids)
    return st.builds(_publish, names, st.binary(max_size=200), st.integers(0, 2), more, _if_5(version, OF_PUBLISH))


def connacks(version: Version) -> st.SearchStrategy[ConnAck]:
    codes = st.sampled_from(CONNACK_CODES if version is Version.V5 else list(range(6)))
    return st.builds(
        lambda present, code, given: ConnAck(present and not code, code, given),
        st.booleans(),
        codes,
        _if_5(version, OF_CONNACK),
    )


def acks(version: Version) -> st.SearchStrategy[Packet]:
    if version is not Version.V5:
        received = st.builds(PubAck, packet_ids) | st.builds(PubRec, packet_ids)
        return received | st.builds(PubRel, packet_ids) | st.builds(PubComp, packet_ids)
    given = properties(OF_REASON)
    return (
        st.builds(PubAck, packet_ids, st.sampled_from(PUBACK_CODES), given)
        | st.builds(PubRec, packet_ids, st.sampled_from(PUBACK_CODES), given)
        | st.builds(PubRel, packet_ids, st.sampled_from(PUBREL_CODES), given)
        | st.builds(PubComp, packet_ids, st.sampled_from(PUBREL_CODES), given)
    )


def subscriptions(version: Version) -> st.SearchStrategy[Subscription]:
    if version is not Version.V5:
        return st.builds(Subscription, filters, st.integers(0, 2))
    of_5 = (st.integers(0, 2), st.booleans(), st.booleans(), st.integers(0, 2))
    return st.builds(Subscription, plain_filters, *of_5) | st.builds(
        Subscription, shares, st.integers(0, 2), st.just(False), st.booleans(), st.integers(0, 2)
    )


def subscribes(version: Version) -> st.SearchStrategy[Packet]:
    some = st.lists(subscriptions(version), min_size=1, max_size=4).map(tuple)
    given = _if_5(version, OF_SUBSCRIBE).filter(lambda one: len(one.subscription_identifiers) < 2)
    old_codes, codes = st.sampled_from([0, 1, 2, 0x80]), st.sampled_from(SUBACK_CODES)
    is_5 = version is Version.V5
    granted = st.lists(codes if is_5 else old_codes, min_size=1, max_size=4).map(tuple)
    removed = st.lists(st.sampled_from(UNSUBACK_CODES), min_size=1, max_size=4).map(tuple) if is_5 else st.just(())
    wanted = st.lists(filters, min_size=1, max_size=4).map(tuple)
    return (
        st.builds(Subscribe, packet_ids, some, given)
        | st.builds(SubAck, packet_ids, granted, _if_5(version, OF_REASON))
        | st.builds(Unsubscribe, packet_ids, wanted, _if_5(version, OF_UNSUBSCRIBE))
        | st.builds(UnsubAck, packet_ids, removed, _if_5(version, OF_REASON))
    )


def endings(version: Version) -> st.SearchStrategy[Packet]:
    if version is not Version.V5:
        return st.just(Disconnect())
    methodical = properties(OF_AUTH).filter(lambda given: given.authentication_method is not None)
    return (
        st.builds(Disconnect, st.sampled_from(DISCONNECT_CODES), properties(OF_DISCONNECT))
        | st.builds(Auth, st.sampled_from(AUTH_CODES), methodical)
        | st.just(Auth())
    )


def packets(version: Version) -> st.SearchStrategy[Packet]:
    """Every type but CONNECT."""
    return st.one_of(
        publishes(version),
        connacks(version),
        acks(version),
        subscribes(version),
        st.sampled_from([PingReq(), PingResp()]),
        endings(version),
    )


def all_packets(version: Version) -> st.SearchStrategy[Packet]:
    return connects(version) | packets(version)
