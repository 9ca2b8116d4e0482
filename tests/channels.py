"""What the tests of channels over HTTP talk with: things in a book, a hub, a listener with routes of each kind, and a
conversation in which what others in the process say comes as it does from the driver.

A client's frames are made by hand (`client_frames`); packets of a broker by `gateway.wire.mqtt`, which has tests of its
own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gateway.hub.hub import Hub
from gateway.hub.message import Message
from gateway.hub.settings import HubSettings
from gateway.hub.store import MemoryStore
from gateway.registry.book import Book, Changes, Entry, Snapshot
from gateway.routes import Routes
from gateway.session.access import HTTPAccess
from gateway.session.mqtt_access import BrokerLogin, MQTTAccess
from gateway.session.vocabulary import (
    Command,
    Dialed,
    Event,
    Mail,
    Side,
    TLSFacts,
)
from gateway.things import Rights, Thing, key_hash
from gateway.topic_rules import TopicRules
from gateway.upstream import Address, ClientTLS, TLSMode, Upstream
from gateway.wire import mqtt
from gateway.wire.mqtt_packets import NOTHING, ConnAck, Connect, Packet, Properties, Version
from tests.http_sessions import (
    BODY,
    CA,
    CONNECT,
    GRACE,
    HANDSHAKE,
    HEAD,
    KEEPALIVE,
    KEY,
    Clock,
    Conversation,
    House,
    request,
    route,
    rules,
    shown,
)
from tests.pki import issue

THING = "11111111-1111-4111-8111-111111111111"
OTHER = "22222222-2222-4222-8222-222222222222"
CHANNEL = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa"
# There, but not connected to the thing; and not there.
STRANGE = "bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb"
MISSING = "cccccccc-cccc-4ccc-8ccc-cccccccccccc"
OTHER_KEY = "other-key-0815"
TOPIC = f"channels/{CHANNEL}/messages"
NAMED = issue(CA, THING)
BOTH = Rights(publish=True, subscribe=True)
PACKET = 1000
BROKER, SECOND_BROKER = Address("broker1.example", 1883), Address("broker2.example", 1883)

NONCE = "dGhlIHNhbXBsZSBub25jZQ=="
# RFC 6455, 1.3.
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
OPENING = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    f"Sec-WebSocket-Key: {NONCE}",
    "Sec-WebSocket-Version: 13",
)


class Call:
    def cancel(self) -> None:
        """Nobody waits for it here."""


class Site:
    """A book with two things, a hub, and a listener that serves them. heard: what the hub has given to everybody."""

    def __init__(self, rights: Rights = BOTH, broker: Upstream | None = None, login: BrokerLogin | None = None) -> None:
        self.clock = Clock()
        self.later: list[Callable[[], None]] = []
        self._soon: list[Callable[[], None]] = []
        self.book = Book(60.0, self._later)
        self.things: dict[str, Entry] = {}
        self.know(THING, KEY, {CHANNEL: rights})
        self.know(OTHER, OTHER_KEY, {STRANGE: BOTH})
        self.book.replace(Snapshot(dict(self.things), {CHANNEL, STRANGE}))
        self.hub = Hub(HubSettings(), MemoryStore(), self.clock, self._later)
        self.heard: list[Message] = []
        self.hub.listen("channels/#", self)
        self.mqtt = MQTTAccess(
            "main",
            rules("allow all all"),
            TopicRules(),
            things=self.book,
            hub=self.hub if broker is None else None,
            upstream=broker,
            login=login or BrokerLogin(),
            max_packet=PACKET,
        )

    def _later(self, seconds: float, call: Callable[[], None]) -> Call:
        (self.later if seconds else self._soon).append(call)
        return Call()

    def turn(self) -> None:
        """What was to come next does, and what that leads to; what is to come later waits in `later`."""
        while self._soon:
            self._soon.pop(0)()

    def publish(self, topic: str, payload: bytes, properties: Properties = NOTHING) -> None:
        """By somebody else."""
        self.hub.publish(Message(topic, payload, 1, False, properties))
        self.turn()

    def arrived(self, message: Message) -> None:
        self.heard.append(message)

    def know(self, thing: str, key: str, rights: Mapping[str, Rights], *, enabled: bool = True) -> None:
        """As it is from now on."""
        self.things[thing] = Entry(Thing(thing, "a thing", key_hash(key.encode()), enabled), rights)
        if self.book.available:
            self.book.apply(Changes({thing: self.things[thing]}, {}))

    def access(self, **settings: Any) -> HTTPAccess:
        """With these settings of the routes."""
        common: dict[str, Any] = {"mqtt": "main", "ws_key": False} | settings
        routes = (
            route(name="http", path="/http", serve="channels", **common),
            route(name="ws", path="/ws", serve="channels", **common),
            route(name="mqtt", path="/mqtt", serve="mqtt", **common),
            route(name="main"),
        )
        times = (HANDSHAKE, HEAD, BODY, KEEPALIVE, GRACE)
        return HTTPAccess(Routes(routes), *times, mqtt={"main": self.mqtt}, things=self.book)

    def talk(self, tls: TLSFacts | None = None, **settings: Any) -> Talk:
        return Talk(self, self.access(**settings), tls or shown())


class Office(House):
    """A House that also tells. full: the client does not take what it is sent. told: all that came that way."""

    def __init__(self, *at_rest: Address, room: bool = True) -> None:
        super().__init__(*at_rest, room=room)
        self.full = False
        self.told: list[Event] = []
        self.hear: Callable[[Event], object] = lambda _: None

    def tell(self, event: Event) -> None:
        self.told.append(event)
        self.hear(event)

    def deliver(self, data: bytes) -> None:
        self.hear(Mail(data))

    def congested(self) -> bool:
        return self.full


class Talk(Conversation):
    """events that come while another is handled wait, as they do in the driver."""

    def __init__(self, site: Site, current: HTTPAccess, tls: TLSFacts, **more: Any) -> None:
        self.site, self.office = site, Office(*more.pop("at_rest", ()), room=more.pop("room", True))
        self.office.hear = self._overhear
        self._queue: list[Event] = []
        self._busy = False
        super().__init__(current, tls, house=self.office, clock=site.clock, secrets=(KEY, OTHER_KEY), **more)

    def _overhear(self, event: Event) -> None:
        if self._busy:
            self._queue.append(event)
        else:
            self.tell(event)

    def tell(self, event: Event) -> list[Command]:
        if self._busy:
            return super().tell(event)
        self._busy = True
        answer = super().tell(event)
        while self._queue and self.closed is None:
            answer += super().tell(self._queue.pop(0))
        self._busy = False
        self.site.turn()
        return answer

    # --- what happens ------------------------------------------------------------------------------------------------

    def post(self, target: str, *lines: str, body: bytes = b"hello", **more: Any) -> list[Command]:
        return self.client(request(target, f"Content-Length: {len(body)}", *lines, method="POST", body=body, **more))

    def open(self, target: str = f"/ws/{TOPIC}", *lines: str) -> list[Command]:
        return self.client(request(target, *OPENING, *lines))

    def log_in(self, answer: ConnAck | None = None, version: Version = Version.V5, rest: bytes = b"") -> Connect:
        """At the broker: the connection is there, and the CONNECT that came is answered."""
        before = len(self.of_upstream())
        self.tell(Dialed())
        (sent,) = self.of_upstream()[before:]
        connect = packets(sent)[0]
        assert isinstance(connect, Connect)
        self.upstream(mqtt.serialize(answer or ConnAck(), version) + rest)
        return connect

    def broker(self, *sent: Packet, version: Version = Version.V5) -> list[Command]:
        return self.upstream(b"".join(mqtt.serialize(one, version) for one in sent))

    # --- what came of it ---------------------------------------------------------------------------------------------

    @property
    def frames(self) -> list[tuple[int, bytes]]:
        """Opcodes and payloads of what the client got behind the answer to its handshake."""
        _, _, data = self.sent(Side.CLIENT).partition(b"\r\n\r\n")
        found = []
        while data:
            first, size, at = data[0], data[1], 2
            if size == 126:
                size, at = int.from_bytes(data[2:4]), 4
            elif size == 127:
                size, at = int.from_bytes(data[2:10]), 10
            assert first & 0xF0 == 0x80
            found.append((first & 0x0F, data[at : at + size]))
            data = data[at + size :]
        return found

    def parted(self, code: int) -> str:
        """The true reason. The last that the client got is a Close with that code."""
        assert self.closed is not None
        opcode, payload = self.frames[-1]
        assert (opcode, int.from_bytes(payload[:2])) == (8, code)
        return self.closed.reason

    def told(self, version: Version = Version.V5) -> list[Packet]:
        """What the broker got last."""
        return packets(self.of_upstream()[-1], version)


def packets(data: bytes, version: Version = Version.V5) -> list[Packet]:
    """All of these bytes."""
    found, at = list[Packet](), 0
    while at < len(data):
        place = mqtt.frame(data, at, 1 << 20)
        assert place is not None
        body, end = place
        connect = data[at] == 0x10
        found.append(mqtt.parse_connect(data, at, body, end) if connect else mqtt.parse(data, at, body, end, version))
        at = end
    return found


def brokers(*addresses: Address, mode: TLSMode = TLSMode.DISABLE) -> Upstream:
    return Upstream("mqtt:main", addresses or (BROKER,), ClientTLS(mode), connect_timeout=CONNECT)


def answers(one: Conversation) -> list[int]:
    """The status of each answer so far, of those that have no body."""
    data = one.sent(Side.CLIENT)
    return [int(head.split(b" ")[1]) for head in data.split(b"\r\n\r\n") if head.startswith(b"HTTP/1.1 ")]
