"""What the tests of MQTT sessions talk with: a registry, the embedded hub, certificates, and a conversation that stands
for the driver.

Packets are built and read with `gateway.wire.mqtt`, which has an oracle of its own. Whatever is said in a conversation
is held to what must be true of all of them: see `Talk`.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from gateway.admission import Admission, parse_admission_rule
from gateway.hub.hub import Hub
from gateway.hub.settings import HubSettings
from gateway.hub.store import MemoryStore
from gateway.session.mqtt import MQTTSession
from gateway.session.mqtt_access import MQTTAccess
from gateway.session.mqtt_broker import BrokerLink
from gateway.session.mqtt_hub import HubLink
from gateway.session.vocabulary import (
    Close,
    Command,
    Data,
    Denial,
    Dial,
    Dialed,
    Drained,
    Ended,
    Enter,
    Event,
    Hold,
    Lost,
    Mail,
    Opened,
    Proceed,
    Questions,
    Secured,
    Send,
    SetDeadline,
    Side,
    TimedOut,
    TLSFacts,
)
from gateway.things import NO_RIGHTS, Change, Rights, Thing, Things, Unavailable, Watch, key_hash, topic_of
from gateway.topic_rules import TopicRules, parse_topic_rule
from gateway.upstream import Address, ClientTLS, TLSMode, Upstream
from gateway.wire import mqtt
from gateway.wire.mqtt_packets import (
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PacketType,
    Properties,
    Publish,
    Subscribe,
    Subscription,
    Version,
)
from tests.hub.clients import Call, Time
from tests.pki import Issued, issue, make_ca

V31, V311, V5 = Version.V31, Version.V311, Version.V5
CLIENT = Address("10.0.0.1", 40000)
FIRST, SECOND = Address("mq1.example", 1883), Address("mq2.example", 1883)
LIMIT = 1 << 28

# No two alike, so that a test sees which of them a deadline is.
HANDSHAKE, CONNECT_TIMEOUT = 31.0, 36.0

KEY, OTHER_KEY = "thing-key-4711", "thing-key-4712"
THING_ID, OTHER_ID = (f"{n}d7c9a52-1111-4222-8333-444455556666" for n in (0, 1))
CHANNEL, FOREIGN = (f"{n}aaaaaaa-1111-4222-8333-444455556666" for n in (2, 3))
TOPIC = topic_of(CHANNEL)

CA = make_ca()
# What the certificates of cn = key and of cn = id are called.
THING, OTHER_THING = issue(CA, KEY), issue(CA, OTHER_KEY)
NAMED, METER = issue(CA, THING_ID), issue(CA, "meter-7")


# --- who knows the things --------------------------------------------------------------------------------------------


class Registry:
    """Implements Things, as `gateway.registry.book` does; but is told what to tell whom. asked: the channels whose
    rights were asked for."""

    def __init__(self) -> None:
        self.things = {
            THING_ID: Thing(THING_ID, "one", key_hash(KEY.encode())),
            OTHER_ID: Thing(OTHER_ID, "other", key_hash(OTHER_KEY.encode())),
        }
        self.connections = {(THING_ID, CHANNEL): Rights(True, True), (OTHER_ID, CHANNEL): Rights(True, True)}
        self.available = True
        self.asked: list[str] = []
        self.watches: list[_Watch] = []

    def _check(self) -> None:
        if not self.available:
            raise Unavailable

    def with_key(self, key: bytes) -> Thing | None:
        self._check()
        return next((one for one in self.things.values() if one.key == key_hash(key)), None)

    def named(self, thing: str) -> Thing | None:
        self._check()
        return self.things.get(thing)

    def has_channel(self, channel: str) -> bool:
        self._check()
        return any(one == channel for _, one in self.connections)

    def rights(self, thing: str, channel: str) -> Rights:
        self._check()
        self.asked.append(channel)
        there = thing in self.things and self.things[thing].enabled
        return self.connections.get((thing, channel), NO_RIGHTS) if there else NO_RIGHTS

    def watch(self, thing: str, changed: Callable[[Change], None]) -> Watch:
        self._check()
        self.watches.append(_Watch(self, thing, changed))
        return self.watches[-1]

    # --- what a test does -------------------------------------------------------------------------------------------

    def tell(self, change: Change, thing: str = THING_ID) -> None:
        told = [watch for watch in self.watches if watch.thing == thing]
        for watch in told:
            if watch in self.watches:
                watch.changed(change)

    def allow(self, publish: bool, subscribe: bool, thing: str = THING_ID, channel: str = CHANNEL) -> None:
        self.connections[thing, channel] = Rights(publish, subscribe)

    def disable(self, thing: str = THING_ID) -> None:
        self.things[thing] = replace(self.things[thing], enabled=False)


class _Watch:
    def __init__(self, registry: Registry, thing: str, changed: Callable[[Change], None]) -> None:
        self._registry, self.thing, self.changed = registry, thing, changed

    def stop(self) -> None:
        self._registry.watches.remove(self)


# --- listeners -------------------------------------------------------------------------------------------------------


def admission(*lines: str) -> Admission:
    return Admission(tuple(parse_admission_rule(line, "rules:1", lambda _: frozenset({b"issuer"})) for line in lines))


def topics(*lines: str) -> TopicRules:
    return TopicRules(tuple(parse_topic_rule(line, "topics:1") for line in lines))


def broker(mode: TLSMode = TLSMode.DISABLE, *addresses: Address) -> Upstream:
    return Upstream("mqtt:main", addresses or (FIRST, SECOND), ClientTLS(mode), connect_timeout=CONNECT_TIMEOUT)


def shown(issued: Issued = THING, expires: float = 2e9) -> TLSFacts:
    """A handshake with that client certificate."""
    der = issued.certificate.public_bytes(Encoding.DER)
    return TLSFacts("TLSv1.3", b"mqtt", None, der, expires, (b"issuer",))


NAMELESS = TLSFacts("TLSv1.3", b"mqtt")


class World:
    """One process: its time, its registry, its hub. Everybody may come in; `reload` changes the listener's access."""

    def __init__(self, **given: Any) -> None:
        self.time = Time(1_700_000_000.0)
        self.registry = Registry()
        things: Things = self.registry
        self.hub = Hub(HubSettings(sys_interval=1e9), MemoryStore(), self.time.clock, self.time.later)
        defaults: dict[str, Any] = {
            "name": "main",
            "admission": admission("allow all all"),
            "topics": TopicRules(),
            "things": things,
            "hub": self.hub,
            "client": "optional",
            "handshake_timeout": HANDSHAKE,
        }
        if "upstream" in given:
            defaults["hub"] = None
        self.access = MQTTAccess(**(defaults | given))
        self.talks: list[Talk] = []

    def reload(self, **given: Any) -> None:
        self.access = replace(self.access, **given)

    def pass_by(self, seconds: float) -> None:
        self.time.pass_by(seconds)

    def talk(self, tls: TLSFacts | None = None, **how: Any) -> Talk:
        """A client whose handshake is done."""
        talk = Talk(self, **how)
        talk.tell(Secured(Side.CLIENT, tls or shown()))
        return talk

    def client(self, tls: TLSFacts | None = None, **connect: Any) -> Talk:
        """One that the hub has accepted; `connect`: as of `hello`."""
        talk = self.talk(tls).said(hello(**connect))
        answer = talk.take()[0]
        assert isinstance(answer, ConnAck)
        assert answer.code == 0
        return talk

    def through(self, tls: TLSFacts | None = None, answer: ConnAck = ConnAck(), **connect: Any) -> Talk:  # noqa: B008 - frozen
        """One whose broker has accepted it, with its CONNECT and CONNACK taken already."""
        talk = self.talk(tls).said(hello(**connect))
        talk.tell(Dialed())
        talk.heard(answer)
        (told,) = talk.take()
        assert isinstance(told, ConnAck)
        assert told.code == 0
        assert len(talk.upstream()) == 1
        return talk


def hello(version: Version = V311, client_id: str = "c", **fields: Any) -> Connect:
    return Connect(version, client_id, **fields)


# --- the conversation ------------------------------------------------------------------------------------------------


class Talk:
    """One session with what the driver is to it. Implements Questions.

    Holds every conversation to this: one event at a time; whole packets each way; nothing is dialed and nothing said to
    a broker before `Enter` or `Dial`; nothing after Close; after its end nothing is registered and nothing set.
    """

    def __init__(self, world: World, over_limit: bool = False, room: bool = True) -> None:
        self.world = world
        self.room, self.trusts, self.slow = room, True, False
        # Bytes that the client takes before it is congested; None: all.
        self.takes: int | None = None
        self.taken = 0
        self.counted: list[str] = []
        self.commands: list[Command] = []
        self._events: list[Event] = []
        self._running = False
        self._timer: Call | None = None
        self._unread = self._unread_up = b""
        self._version = V311
        questions: Questions = self
        self.session = MQTTSession(lambda: world.access, questions, world.time.clock)
        world.talks.append(self)
        self.tell(Opened(CLIENT, over_limit))

    # --- as the session sees it -------------------------------------------------------------------------------------

    def admit(self, subject: str) -> bool:
        self.counted.append(subject)
        return self.room

    def renew(self) -> bool:
        return self.trusts

    def trusted(self) -> bool:
        return self.trusts

    def idle(self, dial: Dial) -> bool:
        raise AssertionError(f"a broker is never asked for: {dial}")

    def deliver(self, data: bytes) -> None:
        if self._running:
            self._events.append(Mail(data))
        else:
            assert not self.closed, "something after the end"
            self._unread += data
            self.taken += len(data)

    def congested(self) -> bool:
        return self.slow or (self.takes is not None and self.taken >= self.takes)

    def tell(self, event: Event) -> None:
        self._events.append(event)
        if self._running:
            return
        self._running = True
        while self._events:
            answer = self.session.handle(self._events.pop(0))
            for command in answer:
                self._run(command)
        self._running = False

    def _run(self, command: Command) -> None:
        assert not self.closed, f"{command} after the end"
        self.commands.append(command)
        if isinstance(command, SetDeadline):
            self._set(command.seconds)
        elif isinstance(command, Send) and command.side is Side.CLIENT:
            self._unread += command.data
            self.taken += len(command.data)
        elif isinstance(command, Send):
            assert self.of(Dial), "said to a broker that was not dialed"
            self._unread_up += command.data
        elif isinstance(command, Close):
            self._set(None)
            self._unread += command.farewell
            self._events.append(Ended())

    def _set(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.world.time.later(seconds, self._timed_out)

    def _timed_out(self) -> None:
        self._timer = None
        self.tell(TimedOut())

    # --- what a test does -------------------------------------------------------------------------------------------

    def event(self, event: Event) -> Talk:
        self.tell(event)
        return self

    def client(self, data: bytes) -> Talk:
        return self.event(Data(Side.CLIENT, data))

    def said(self, *packets: Packet) -> Talk:
        """By the client, in one read. Its CONNECT says in which version."""
        for packet in packets:
            if isinstance(packet, Connect):
                self._version = packet.version
        return self.client(b"".join(mqtt.serialize(packet, self._version) for packet in packets))

    def broker(self, data: bytes) -> Talk:
        return self.event(Data(Side.UPSTREAM, data))

    def heard(self, *packets: Packet) -> Talk:
        """From the broker, in one read."""
        return self.broker(b"".join(mqtt.serialize(packet, self.spoken) for packet in packets))

    @property
    def spoken(self) -> Version:
        return V5 if self._version is V5 else V311

    def gone(self, reason: str = "connection reset") -> Talk:
        return self.event(Lost(Side.CLIENT, reason))

    def subscribed(self, *filters: str, qos: int = 0) -> Talk:
        self.said(Subscribe(7, tuple(Subscription(one, qos) for one in filters)))
        (answer,) = self.take()
        assert getattr(answer, "codes", None) == (qos,) * len(filters), answer
        return self

    def take(self) -> list[Packet]:
        """What the client was sent since the last time, with the farewell."""
        data, self._unread = self._unread, b""
        return parsed(data, self._version)

    def upstream(self) -> list[Packet]:
        """What the broker was sent since the last time."""
        return parsed(self.raw_upstream(), self.spoken)

    def raw_upstream(self) -> bytes:
        data, self._unread_up = self._unread_up, b""
        return data

    def of(self, kind: type[Any]) -> list[Any]:
        return [command for command in self.commands if isinstance(command, kind)]

    @property
    def link(self) -> HubLink | BrokerLink:
        """Once CONNECT was let in."""
        link = self.session._link
        assert link is not None
        return link

    @property
    def closed(self) -> Close | None:
        found = self.of(Close)
        return found[0] if found else None

    @property
    def reason(self) -> str:
        return self.closed.reason if self.closed else ""

    @property
    def code(self) -> int | None:
        """Of the farewell: of a CONNACK, or of a DISCONNECT; None: there is none."""
        if not self.closed or not self.closed.farewell:
            return None
        farewell = self.closed.farewell
        # A CONNACK of 5.0 has properties.
        (packet,) = parsed(farewell, V311 if farewell[:2] == bytes((0x20, 2)) else V5)
        assert isinstance(packet, ConnAck | Disconnect)
        return packet.code

    @property
    def entered(self) -> bool:
        return bool(self.of(Enter))

    @property
    def dials(self) -> list[Address]:
        return [one.address for one in self.of(Dial)]

    @property
    def held(self) -> bool:
        flow = [one for one in self.commands if isinstance(one, Hold | Proceed)]
        return bool(flow) and isinstance(flow[-1], Hold)

    @property
    def denials(self) -> list[tuple[str, str]]:
        return [(one.action, one.topic) for one in self.of(Denial)]

    @property
    def deadline(self) -> float | None:
        """Seconds, as it was set last."""
        found = self.of(SetDeadline)
        return found[-1].seconds if found else None

    def drained(self) -> Talk:
        self.slow, self.taken = False, 0
        return self.event(Drained())


def parsed(data: bytes, version: Version) -> list[Packet]:
    """The data must hold nothing else."""
    found: list[Packet] = []
    at = 0
    while at < len(data):
        edges = mqtt.frame(data, at, LIMIT)
        assert edges is not None, data
        assert edges[1] <= len(data), data
        is_connect = data[at] >> 4 == PacketType.CONNECT
        found.append(mqtt.parse_connect(data, at, *edges) if is_connect else mqtt.parse(data, at, *edges, version))
        at = edges[1]
    return found


def link_is_freed(talk: Talk) -> bool:
    """Whether nothing but its driver has held what a session was at its end: a cycle would wait for a collection, which
    is rare here. The conversation is of no use after that."""
    link = weakref.ref(talk.link)
    gc.disable()
    try:
        del talk.session
        return link() is None
    finally:
        gc.enable()


def payloads(packets: Sequence[Packet]) -> list[bytes]:
    return [one.payload for one in packets if isinstance(one, Publish)]


def alias(number: int) -> Properties:
    return Properties(topic_alias=number)
