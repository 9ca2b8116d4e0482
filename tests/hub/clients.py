"""A hub without a reactor: time that is moved by hand, and clients that read what they are given."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Any

from gateway.hub.hub import Attached, Hub
from gateway.hub.message import Message
from gateway.hub.rows import Row, Store, Stored, StoreError
from gateway.hub.settings import HubSettings
from gateway.hub.store import MemoryStore
from gateway.wire.mqtt import frame, parse, serialize
from gateway.wire.mqtt_packets import (
    NOTHING,
    Connect,
    Packet,
    Properties,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    Reason,
    Subscribe,
    Subscription,
    Unsubscribe,
    Version,
    Will,
)

V311, V5 = Version.V311, Version.V5


class Call:
    """As strict as a reactor's: what was called, or cancelled, cannot be cancelled."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        assert self.call is not None
        self.call = None


class Time:
    """Seconds; `later` as a reactor has it."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now
        self._calls: list[tuple[float, int, Call]] = []
        self._order = count()

    def clock(self) -> float:
        return self.now

    def later(self, seconds: float, call: Callable[[], None]) -> Call:
        made = Call(call)
        heapq.heappush(self._calls, (self.now + seconds, next(self._order), made))
        return made

    def turn(self) -> None:
        """What is due by now, and what that makes due at once."""
        self.pass_by(0)

    def pass_by(self, seconds: float) -> None:
        until = self.now + seconds
        while self._calls and self._calls[0][0] <= until:
            self.now, _, made = heapq.heappop(self._calls)
            call, made.call = made.call, None
            if call is not None:
                call()
        self.now = until


class Anything:
    """What an identity may do: everything but what is named."""

    def __init__(self) -> None:
        self.unpublishable: set[str] = set()
        self.unsubscribable: set[str] = set()

    def publish(self, topic: str) -> bool:
        return topic not in self.unpublishable

    def subscribe(self, topic_filter: str) -> bool:
        return topic_filter not in self.unsubscribable


class FailingStore:
    """Around another one; takes nothing while `error` is set."""

    durable = True

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.error: StoreError | None = None
        self.commits: list[list[Row]] = []

    def load(self) -> Stored:
        return self.inner.load()

    def commit(self, changes: list[Row]) -> None:
        if self.error is not None:
            raise self.error
        self.inner.commit(changes)
        self.commits.append(changes)

    def close(self) -> None:
        self.inner.close()


class Client:
    """slow: it does not take what it is sent. ended: why the hub ended it. batches: how often it was sent something."""

    def __init__(self, world: World, connect: Connect, owner: str, permission: Anything) -> None:
        self.world, self.version = world, connect.version
        self.slow = False
        self.ended: tuple[Reason, str] | None = None
        self.raw = b""
        self.batches = 0
        self.attached: Attached = world.hub.attach(owner, connect, self, permission)
        self.present = self.attached.session_present
        self.attached.start()
        world.hub.flush()

    # --- as the hub sees it -----------------------------------------------------------------------------------------

    def deliver(self, data: bytes) -> None:
        assert self.ended is None
        self.raw += data
        self.batches += 1

    def congested(self) -> bool:
        return self.slow

    def end(self, code: Reason, reason: str) -> None:
        self.ended = (code, reason)

    # --- what a test does -------------------------------------------------------------------------------------------

    def flush(self, *, turn: bool = True) -> None:
        self.world.hub.flush()
        if turn:
            self.world.time.turn()

    def take(self) -> list[Packet]:
        """What came since the last time."""
        found, at, data = [], 0, self.raw
        while at < len(data):
            edges = frame(data, at, 1 << 28)
            assert edges is not None
            found.append(parse(data, at, *edges, self.version))
            at = edges[1]
        self.raw = b""
        return found

    def messages(self) -> list[Publish]:
        return [packet for packet in self.take() if isinstance(packet, Publish)]

    def payloads(self) -> list[bytes]:
        return [packet.payload for packet in self.messages()]

    def publish(self, topic: str, payload: bytes = b"x", qos: int = 0, packet_id: int = 0, **more: Any) -> None:
        turn = more.pop("turn", True)
        self.attached.publish(Publish(topic, payload, qos, packet_id=packet_id or (7 if qos else 0), **more))
        self.flush(turn=turn)

    def forward(self, topic: str, *payloads: bytes) -> None:
        data = b"".join(serialize(Publish(topic, payload), self.version) for payload in payloads)
        self.attached.forward(self.world.hub.topic(topic.encode()), data, len(payloads))
        self.flush()

    def subscribe(self, *filters: str | Subscription, qos: int = 2, identifier: int = 0, **refused: Any) -> None:
        asked = tuple(one if isinstance(one, Subscription) else Subscription(one, qos) for one in filters)
        properties = Properties(subscription_identifiers=(identifier,)) if identifier else NOTHING
        self.attached.subscribe(Subscribe(9, asked, properties), refused.get("refused", {}))
        self.flush()

    def unsubscribe(self, *filters: str) -> None:
        self.attached.unsubscribe(Unsubscribe(9, filters))
        self.flush()

    def answer(self, packet: PubAck | PubRec | PubRel | PubComp, *, turn: bool = True) -> None:
        self.attached.acknowledge(packet)
        self.flush(turn=turn)

    def leave(self, *, will: bool = False, expiry: int | None = None) -> None:
        self.attached.detach(will=will, session_expiry=expiry)
        self.flush()


class World:
    """A hub, its time, and what else a test needs."""

    def __init__(
        self,
        store: Store | None = None,
        settings: HubSettings | None = None,
        now: float = 1e6,
        permissions: dict[str, Anything] | None = None,
    ) -> None:
        self.time = Time(now)
        self.store = store or MemoryStore()
        self.permissions = permissions if permissions is not None else {}
        self.hub = Hub(settings or HubSettings(), self.store, self.time.clock, self.time.later, self.permission)

    def permission(self, owner: str) -> Anything:
        return self.permissions.setdefault(owner, Anything())

    def connect(
        self,
        client_id: str = "a",
        version: Version = V5,
        *,
        clean: bool = True,
        owner: str = "thing",
        will: Will | None = None,
        **properties: Any,
    ) -> Client:
        connect = Connect(version, client_id, clean, will=will, properties=Properties(**properties))
        client = Client(self, connect, owner, self.permission(owner))
        self.time.turn()
        return client

    def keeping(self, client_id: str = "a", version: Version = V5, **more: Any) -> Client:
        """With a session that outlives the connection."""
        if version is V5:
            more.setdefault("session_expiry", 3_600)
        return self.connect(client_id, version, clean=False, **more)

    def publish(self, topic: str, payload: bytes = b"x", qos: int = 0, **more: Any) -> list[Reason]:
        codes: list[Reason] = []
        self.hub.publish(Message(topic, payload, qos, **more), codes.append)
        self.time.turn()
        return codes
