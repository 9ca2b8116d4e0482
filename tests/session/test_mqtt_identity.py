"""Who an MQTT client is: every combination of certificate, user name and password, with and without a registry; and
that a client id is nobody else's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.session.mqtt_access import BrokerLogin
from gateway.session.mqtt_caller import Entry, Rejected, broker_client_id
from gateway.session.vocabulary import Dialed, TLSFacts
from gateway.things import key_hash
from gateway.wire.mqtt_packets import ConnAck, Connect, Reason, Refusal, Subscribe, Subscription, Will
from tests.mqtt_sessions import (
    CA,
    CHANNEL,
    KEY,
    METER,
    NAMED,
    NAMELESS,
    OTHER_ID,
    OTHER_KEY,
    OTHER_THING,
    THING,
    THING_ID,
    TOPIC,
    V5,
    V311,
    Talk,
    World,
    admission,
    broker,
    hello,
    shown,
    topics,
)
from tests.pki import Issued, issue, subject_of

LET_IN = None
PASSWORD, NOT_ALLOWED, UNAVAILABLE = (
    Reason.BAD_USER_NAME_OR_PASSWORD,
    Reason.NOT_AUTHORIZED,
    Reason.SERVER_UNAVAILABLE,
)
STRANGER = issue(CA, "no-thing-has-this-key")
UPPER = issue(CA, THING_ID.upper())
TWO_NAMES = issue(CA, subject=subject_of([(NameOID.COMMON_NAME, THING_ID)], [(NameOID.COMMON_NAME, OTHER_ID)]))
# The name of one within that of another.
INJECTED = issue(CA, subject=subject_of([(NameOID.ORGANIZATION_NAME, f"x,CN={KEY}")], [(NameOID.COMMON_NAME, "y")]))
ANYTHING = topics("allow all all #")


def verdict(talk: Talk) -> int | None:
    return talk.code if talk.closed else LET_IN


def asks(world: World, tls: TLSFacts, user: str | None = None, password: bytes | None = None, **more: Any) -> Talk:
    return world.talk(tls).said(hello(V5, user_name=user, password=password, **more))


def certificate(issued: Issued | None) -> TLSFacts:
    return NAMELESS if issued is None else shown(issued)


# --- cn = key --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("issued", "user", "password", "expected"),
    [
        (THING, THING_ID, KEY, LET_IN),
        (THING, None, KEY, LET_IN),
        (THING, THING_ID, None, LET_IN),
        (THING, None, None, LET_IN),
        (THING, OTHER_ID, KEY, PASSWORD),
        (THING, OTHER_ID, None, PASSWORD),
        (THING, "", KEY, PASSWORD),
        (THING, THING_ID.upper(), KEY, PASSWORD),
        (THING, THING_ID, OTHER_KEY, PASSWORD),
        (THING, OTHER_ID, OTHER_KEY, PASSWORD),
        (THING, THING_ID, "", PASSWORD),
        (THING, THING_ID, KEY + " ", PASSWORD),
        (THING, THING_ID, KEY[:-1], PASSWORD),
        (THING, THING_ID, KEY.upper(), PASSWORD),
        (STRANGER, THING_ID, "no-thing-has-this-key", NOT_ALLOWED),
        (STRANGER, THING_ID, KEY, PASSWORD),
        (INJECTED, THING_ID, KEY, PASSWORD),
        (TWO_NAMES, THING_ID, KEY, NOT_ALLOWED),
        (None, THING_ID, KEY, LET_IN),
        (None, THING_ID, OTHER_KEY, PASSWORD),
        (None, THING_ID, None, PASSWORD),
        (None, None, KEY, PASSWORD),
        (None, None, None, PASSWORD),
        (None, "nobody", KEY, PASSWORD),
        (None, "", "", PASSWORD),
    ],
)
def test_with_a_registry_and_the_key_in_the_certificate(
    issued: Issued | None, user: str | None, password: str | None, expected: int | None
):
    talk = asks(World(), certificate(issued), user, password.encode() if password is not None else None)
    assert verdict(talk) == expected
    assert talk.counted == ([THING_ID] if expected is LET_IN else [])
    if expected is LET_IN:
        assert talk.session.facts.subject == THING_ID


@pytest.mark.parametrize("password", [None, KEY.encode(), b"", OTHER_KEY.encode()])
def test_a_password_that_is_required_is_not_filled_in(password: bytes | None):
    talk = asks(World(fill_password=False), shown(), THING_ID, password)
    assert verdict(talk) == (LET_IN if password == KEY.encode() else PASSWORD)


@pytest.mark.parametrize(
    ("user", "password", "expected"),
    [
        (None, None, LET_IN),
        (None, KEY, LET_IN),
        ("whoever", KEY, LET_IN),
        ("whoever", OTHER_KEY, PASSWORD),
        (None, "", PASSWORD),
    ],
)
def test_without_a_registry_the_key_is_all_there_is(user: str | None, password: str | None, expected: int | None):
    world = World(things=None, topics=ANYTHING)
    talk = asks(world, shown(), user, None if password is None else password.encode())
    assert verdict(talk) == expected
    assert (talk.session.facts.subject or "").startswith("key:")
    assert KEY not in repr(talk.session.facts)


# --- cn = id ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("issued", "user", "password", "expected"),
    [
        (NAMED, THING_ID, KEY, LET_IN),
        (NAMED, None, KEY, LET_IN),
        (NAMED, THING_ID, OTHER_KEY, PASSWORD),
        (NAMED, THING_ID, None, PASSWORD),
        (NAMED, None, "", PASSWORD),
        (NAMED, OTHER_ID, OTHER_KEY, PASSWORD),
        (NAMED, OTHER_ID, KEY, PASSWORD),
        (UPPER, THING_ID, KEY, NOT_ALLOWED),
        (METER, None, KEY, NOT_ALLOWED),
        (TWO_NAMES, THING_ID, KEY, NOT_ALLOWED),
        (None, THING_ID, KEY, LET_IN),
        (None, THING_ID, None, PASSWORD),
    ],
)
def test_with_a_registry_and_the_id_in_the_certificate(
    issued: Issued | None, user: str | None, password: str | None, expected: int | None
):
    talk = asks(World(cn="id"), certificate(issued), user, password.encode() if password is not None else None)
    assert verdict(talk) == expected


def test_a_password_that_is_ignored_may_be_anything_but_the_user_name_may_not():
    world = World(cn="id", check_password=False)
    assert verdict(asks(world, shown(NAMED), THING_ID, b"whatever")) is LET_IN
    assert verdict(asks(world, shown(NAMED), OTHER_ID, b"whatever")) == PASSWORD
    # Without a certificate it is the only proof there is.
    assert verdict(asks(world, NAMELESS, THING_ID, b"whatever")) == PASSWORD


def test_without_a_registry_the_name_is_all_there_is():
    world = World(cn="id", things=None, topics=topics("allow all publish user/%u", "allow all publish name/%c"))
    for user, allowed in ((None, False), ("meter-8", False), ("meter-7", True)):
        talk = asks(world, shown(METER), user, b"whatever")
        assert verdict(talk) is LET_IN
        permission = talk.link.entry.permission
        assert permission.publish("name/meter-7")
        assert permission.publish("user/meter-7") == allowed
        assert not permission.publish("user/meter-8")


# --- certificates ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("client", "tls", "expected"),
    [
        ("required", NAMELESS, NOT_ALLOWED),
        ("required", shown(), LET_IN),
        ("optional", NAMELESS, LET_IN),
        ("none", NAMELESS, LET_IN),
        # Whoever shows one where nobody looks at it is as good as without.
        ("none", shown(OTHER_THING), LET_IN),
    ],
)
def test_whether_a_certificate_has_to_be_there(client: str, tls: TLSFacts, expected: int | None):
    talk = asks(World(client=client), tls, THING_ID, KEY.encode())
    assert verdict(talk) == expected
    if expected is LET_IN:
        assert talk.counted == [THING_ID]


def test_one_that_has_expired_does_not_count_though_tls_took_it():
    world = World()
    assert verdict(asks(world, shown(expires=world.time.now), THING_ID, KEY.encode())) == NOT_ALLOWED
    assert verdict(asks(world, shown(expires=world.time.now + 1), THING_ID, KEY.encode())) is LET_IN


def test_the_name_may_be_in_the_subject_alternative_names():
    issued = issue(CA, "whatever", sans=["meter.example"])
    world = World(cn="id", identity="dns", things=None, topics=ANYTHING, admission=admission("allow meter.example all"))
    assert verdict(asks(world, shown(issued))) is LET_IN
    assert verdict(asks(world, shown(METER))) == NOT_ALLOWED


def test_who_is_nobody_in_particular_needs_a_rule_for_such():
    for rules, expected in (("allow meter-7 all", NOT_ALLOWED), ("allow anonymous all", LET_IN)):
        world = World(things=None, topics=ANYTHING, admission=admission(rules))
        assert verdict(asks(world, NAMELESS, "meter-7", b"x")) == expected
    # What such a one calls itself proves nothing.
    world = World(things=None, topics=topics("allow all all u/%u/#", "allow all all c/%c/#", "allow all all i/%i/#"))
    permission = asks(world, NAMELESS, "meter-7", b"x").link.entry.permission
    assert not permission.publish("u/meter-7/x")
    assert not permission.publish("c//x")
    assert not permission.publish("c/meter-7/x")
    assert permission.publish("i/c/x")


# --- the registry ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cn", ["key", "id"])
@pytest.mark.parametrize("proof", ["certificate", "password"])
def test_a_disabled_thing_stays_outside_however_it_proves_itself(cn: str, proof: str):
    world = World(cn=cn)
    world.registry.disable()
    tls = NAMELESS if proof == "password" else shown(THING if cn == "key" else NAMED)
    talk = asks(world, tls, THING_ID, KEY.encode())
    assert (verdict(talk), talk.reason) == (NOT_ALLOWED, "denied: the thing is disabled")
    # A wrong key does not tell that it is disabled.
    if proof == "password":
        assert verdict(asks(world, tls, THING_ID, b"wrong")) == PASSWORD


@pytest.mark.parametrize("tls", [shown(), NAMELESS])
def test_nobody_is_let_in_while_nobody_can_say_who_is_who(tls: TLSFacts):
    world = World()
    world.registry.available = False
    talk = asks(world, tls, THING_ID, KEY.encode())
    assert (verdict(talk), talk.reason) == (UNAVAILABLE, "denied: the registry cannot be asked")
    assert world.talk(tls).said(hello(user_name=THING_ID, password=KEY.encode())).code == Refusal.SERVER_UNAVAILABLE


def test_a_rotated_key_is_the_only_one():
    world = World()
    world.registry.things[THING_ID] = replace(world.registry.things[THING_ID], key=key_hash(b"new"))
    assert verdict(asks(world, shown(), THING_ID, None)) == NOT_ALLOWED
    assert verdict(asks(world, NAMELESS, THING_ID, KEY.encode())) == PASSWORD
    assert verdict(asks(world, NAMELESS, THING_ID, b"new")) is LET_IN


def test_rules_name_things_by_their_id_whatever_the_certificate_says():
    for rules in (f"deny {THING_ID} all", "deny key:0123456789abcdef all"):
        world = World(admission=admission(rules, "allow all all"))
        expected = NOT_ALLOWED if THING_ID in rules else LET_IN
        assert verdict(asks(world, shown())) == expected
        assert verdict(asks(world, NAMELESS, THING_ID, KEY.encode())) == expected


# --- what a client may do --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        (TOPIC, LET_IN),
        (f"{TOPIC}/bye", LET_IN),
        (f"channels/{CHANNEL}", NOT_ALLOWED),
        ("elsewhere", NOT_ALLOWED),
    ],
)
def test_a_will_obeys_the_rules_of_a_publish(topic: str, expected: int | None, qos: int):
    world = World()
    talk = asks(world, shown(), will=Will(topic, b"bye", qos))
    assert verdict(talk) == expected


def test_where_there_are_rules_about_topics_they_decide_and_not_the_channels():
    world = World(topics=topics("allow all publish devices/%u/#"))
    permission = asks(world, shown()).link.entry.permission
    assert permission.publish(f"devices/{THING_ID}/x")
    assert not permission.publish(f"devices/{OTHER_ID}/x")
    assert not permission.publish(TOPIC)


# --- client ids ------------------------------------------------------------------------------------------------------


def test_the_same_client_id_of_two_things_is_two_sessions():
    world = World()
    kept: dict[str, Any] = {"clean_start": False, "client_id": "same"}
    one = world.client(shown(), **kept).subscribed(TOPIC, qos=1)
    other = world.client(shown(OTHER_THING), **kept)
    assert not one.closed
    assert other.link.filters() == []
    one.gone()
    answer = world.talk(shown(OTHER_THING)).said(hello(**kept)).take()[0]
    assert answer == ConnAck(True)  # its own
    assert world.talk(shown()).said(hello(**kept)).take()[0] == ConnAck(True)


def test_the_same_thing_takes_over_its_own_session():
    world = World()
    before = world.client(shown(), version=V5)
    # By id and key from elsewhere, it is the same one.
    world.client(NAMELESS, user_name=THING_ID, password=KEY.encode())
    assert before.code == Reason.SESSION_TAKEN_OVER


def test_a_name_of_one_listeners_authorities_is_not_that_of_anothers():
    world = World(cn="id", things=None, topics=ANYTHING)
    first = world.client(shown(METER))
    world.reload(name="second")
    second = world.client(shown(METER))
    assert not first.closed
    assert not second.closed


def test_a_client_id_may_have_to_be_the_name():
    world = World(prefix_client_ids=False)
    assert verdict(asks(world, shown(), client_id=THING_ID)) is LET_IN
    for client_id in ("c", OTHER_ID, THING_ID + " ", THING_ID.upper()):
        assert verdict(asks(world, shown(), client_id=client_id)) == Reason.CLIENT_IDENTIFIER_NOT_VALID
    talk = asks(world, shown(), client_id="")
    (answer,) = talk.take()
    assert isinstance(answer, ConnAck)
    assert answer.properties.assigned_client_identifier == THING_ID
    nobody = World(prefix_client_ids=False, things=None, topics=ANYTHING)
    for client_id in ("", "c"):
        assert verdict(asks(nobody, NAMELESS, client_id=client_id)) == Reason.CLIENT_IDENTIFIER_NOT_VALID


def test_one_that_is_left_to_us_is_new_each_time_and_told_in_5():
    world = World()
    told = set()
    for _ in range(2):
        (answer,) = asks(world, shown(), client_id="").take()
        assert isinstance(answer, ConnAck)
        told.add(answer.properties.assigned_client_identifier)
    assert len(told) == 2
    assert None not in told
    (chosen,) = asks(world, shown(), client_id="mine").take()
    assert isinstance(chosen, ConnAck)
    assert chosen.properties.assigned_client_identifier is None


def test_before_5_a_session_that_is_to_be_kept_needs_a_client_id():
    """3.1.1: MQTT-3.1.3-8."""
    world = World()
    assert world.talk().said(hello(client_id="", clean_start=False)).code == Refusal.IDENTIFIER_REJECTED
    assert world.talk().said(hello(client_id="", clean_start=True)).entered


_NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=6) | st.sampled_from(
    ["a", "a:b", "b", "a%3Ab", "main/a", "main%2Fa", ":", "%", "a:", ":b", "a/b"]
)


@given(_NAMES, _NAMES, _NAMES, _NAMES)
@settings(max_examples=500, deadline=None)
def test_no_owner_and_client_id_look_like_anothers_to_a_broker(owner: str, mine: str, other: str, theirs: str):
    def seen(owner: str, client_id: str) -> str:
        return broker_client_id(Entry(Connect(V311, client_id), owner, 1.0, None, ""), prefixed=True)  # type: ignore[arg-type]  # nobody asks it

    assert (seen(owner, mine) == seen(other, theirs)) == ((owner, mine) == (other, theirs))


@pytest.mark.parametrize(
    ("owner", "mine", "other", "theirs"),
    [("a", "b:c", "a:b", "c"), ("a", "%3Ab", "a:", "b"), ("a", ":b", "a:", "b"), ("a%3Ab", "c", "a:b", "c")],
)
def test_nor_where_somebody_tries(owner: str, mine: str, other: str, theirs: str):
    def seen(owner: str, client_id: str) -> str:
        return broker_client_id(Entry(Connect(V311, client_id), owner, 1.0, None, ""), prefixed=True)  # type: ignore[arg-type]  # nobody asks it

    assert seen(owner, mine) != seen(other, theirs)


def test_what_a_broker_hears_of_a_client_id():
    for given_id, expected in (("c:d", f"{THING_ID}:c:d"), ("", None)):
        world = World(upstream=broker())
        talk = world.talk().said(hello(client_id=given_id))
        talk.tell(Dialed())
        (connect,) = talk.upstream()
        assert isinstance(connect, Connect)
        assert connect.client_id.startswith(f"{THING_ID}:")
        assert expected is None or connect.client_id == expected
    named = World(upstream=broker(), prefix_client_ids=False, cn="id", things=None, topics=ANYTHING)
    talk = named.talk(shown(METER)).said(hello(client_id="meter-7")).event(Dialed())
    (connect,) = talk.upstream()
    assert isinstance(connect, Connect)
    assert connect.client_id == "meter-7"


# --- credentials for the broker --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("login", "tls", "user", "password", "expected"),
    [
        (BrokerLogin(), shown(), None, None, (THING_ID, KEY.encode())),
        (BrokerLogin(), shown(), THING_ID, KEY.encode(), (THING_ID, KEY.encode())),
        (BrokerLogin(), NAMELESS, THING_ID, KEY.encode(), (THING_ID, KEY.encode())),
        (BrokerLogin(False, "gateway", b"secret"), shown(), THING_ID, KEY.encode(), ("gateway", b"secret")),
        (BrokerLogin(False, None, b"secret"), shown(), None, KEY.encode(), (THING_ID, b"secret")),
        (BrokerLogin(False), shown(), None, KEY.encode(), (THING_ID, None)),
    ],
)
def test_with_what_the_gateway_logs_in(
    login: BrokerLogin, tls: TLSFacts, user: str | None, password: bytes | None, expected: tuple[str, bytes | None]
):
    talk = asks(World(upstream=broker(), login=login), tls, user, password).event(Dialed())
    (connect,) = talk.upstream()
    assert isinstance(connect, Connect)
    assert (connect.user_name, connect.password) == expected


def test_without_a_registry_the_clients_own_words_go_on_but_for_a_key_that_is_proven():
    world = World(upstream=broker(), things=None, topics=ANYTHING)
    (connect,) = asks(world, shown(), "me", None).event(Dialed()).upstream()
    assert isinstance(connect, Connect)
    assert (connect.user_name, connect.password) == ("me", KEY.encode())
    (connect,) = asks(world, NAMELESS, "me", b"mine").event(Dialed()).upstream()
    assert isinstance(connect, Connect)
    assert (connect.user_name, connect.password) == ("me", b"mine")
    # 3.1.1 has no password without a user name.
    (connect,) = world.talk(shown()).said(hello()).event(Dialed()).upstream()
    assert isinstance(connect, Connect)
    assert (connect.user_name, connect.password) == ("", KEY.encode())
    gateway = World(upstream=broker(), things=None, topics=ANYTHING, cn="id", login=BrokerLogin(False, None, b"s"))
    (connect,) = asks(gateway, shown(METER), "me", b"mine").event(Dialed()).upstream()
    assert isinstance(connect, Connect)
    assert (connect.user_name, connect.password) == ("main/meter-7", b"s")


def test_no_secret_is_in_a_repr():
    talk = asks(World(upstream=broker(), login=BrokerLogin(False, "g", b"hush-hush")), shown(), None, KEY.encode())
    for one in (talk.link.entry, talk.session._current(), Rejected(Reason.NOT_AUTHORIZED, "x")):
        assert KEY not in repr(one)
        assert "hush" not in repr(one)


def test_a_subscription_is_asked_of_the_channels_too():
    talk = World().client()
    talk.said(Subscribe(1, (Subscription(TOPIC), Subscription("elsewhere"))))
    (answer,) = talk.take()
    assert getattr(answer, "codes", None) == (0, 0x80)
